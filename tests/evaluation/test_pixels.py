import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hrnet_jax import ops
from hrnet_jax.evaluation.batching import Geometry
from hrnet_jax.evaluation.pixels import bucket_logits, class_probabilities, label_pixels
from hrnet_jax.evaluation.protocol import taps
from hrnet_jax.ops import resize
from tests.tiny import Toy

SIDE = 128  # of the squares that label maps are written into


def geometry_of(logits, size, *, true_size):
    """One view of `size` that fills its bucket, of an image of `true_size`."""
    along = [
        taps(((0, length),), length=length, original=end, bucket=bucket)
        for length, end, bucket in zip(size, true_size, logits.shape, strict=False)
    ]
    rows, columns = jax.tree.map(
        lambda x: jnp.asarray(np.pad(x, ((0, SIDE - len(x)), (0, 0)))), along
    )
    return Geometry(
        true_size=jnp.asarray(true_size, jnp.int32), rows=[rows], columns=[columns],
        grids=((1, 1),),
    )  # fmt: skip


def labels_of(logits, size, *, true_size, label=None):
    geometry = geometry_of(logits, size, true_size=true_size)
    label = None if label is None else jnp.asarray(label)
    labels, counts = jax.jit(label_pixels)([jnp.asarray(logits)[None]], geometry, label)
    return np.asarray(labels)[: true_size[0], : true_size[1]], counts


def random_logits(height, width, classes=3):
    return np.random.default_rng(0).standard_normal((height, width, classes)).astype(np.float32)


def two_steps(logits, size, *, true_size):
    """The definition: to the size that the network saw, then to that of the image."""
    return resize(resize(jnp.asarray(logits)[None], size), true_size)[0]


@pytest.mark.parametrize("sizes", [None, [[32, 32]]])
def test_bfloat16_logits_become_float32(sizes):
    image = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.bfloat16)
    sizes = None if sizes is None else jnp.asarray(sizes, jnp.int32)
    logits = jax.eval_shape(
        functools.partial(bucket_logits, Toy(), form=ops.REFERENCE), image, sizes
    )
    assert logits.dtype == jnp.float32


def test_the_first_of_equal_classes_wins():
    labels, counts = labels_of(np.zeros((2, 2, 5), np.float32), (8, 8), true_size=(8, 8))
    assert not labels.any()
    assert counts is None


def test_more_classes_than_bytes_have_values():
    logits = np.zeros((1, 1, 300), np.float32)
    logits[..., 299] = 1
    labels, _ = labels_of(logits, (4, 4), true_size=(4, 4))
    assert (labels == 299).all()


def test_logits_go_to_the_input_size_first():
    logits, size, true_size = random_logits(9, 12), (33, 47), (20, 90)
    labels, _ = labels_of(logits, size, true_size=true_size)
    expected = np.argmax(two_steps(logits, size, true_size=true_size), -1)
    np.testing.assert_array_equal(labels, expected)
    at_once = np.argmax(resize(jnp.asarray(logits)[None], true_size)[0], -1)
    assert (labels != at_once).any()


def test_tiles_are_the_whole_picture_and_every_pixel_is_counted_once():
    logits, size, true_size = random_logits(9, 12), (35, 48), (70, 101)
    truth = np.random.default_rng(1).choice([0, 1, 2, 255], true_size).astype(np.uint8)
    label = np.full((SIDE, SIDE), 255, np.uint8)
    label[:70, :101] = truth
    labels, counts = labels_of(logits, size, true_size=true_size, label=label)
    unscored, _ = labels_of(logits, size, true_size=true_size)
    steps = two_steps(logits, size, true_size=true_size)
    np.testing.assert_array_equal(labels, np.argmax(steps, -1))
    np.testing.assert_array_equal(unscored, labels)
    expected = np.zeros((3, 3), int)
    valid = truth != 255
    np.add.at(expected, (truth[valid], labels[valid]), 1)
    np.testing.assert_array_equal(counts, expected)


def test_probabilities_are_the_softmax_of_the_resized_logits():
    logits, size, true_size = random_logits(9, 12), (35, 48), (70, 101)
    geometry = geometry_of(logits, size, true_size=true_size)
    band = jax.jit(class_probabilities)([jnp.asarray(logits)[None]], geometry, top=jnp.int32(32))
    assert band.shape == (3, 32, SIDE)
    expected = jax.nn.softmax(two_steps(logits, size, true_size=true_size))[32:64]
    np.testing.assert_allclose(band[:, :, :101], np.moveaxis(expected, -1, 0), atol=1e-3)
