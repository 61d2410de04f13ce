import functools

import jax
import jax.numpy as jnp
import numpy as np

from hrnet_jax.evaluation.pixels import bucket_logits, label_pixels, whole
from hrnet_jax.evaluation.protocol import taps
from hrnet_jax.ops import resize
from tests.tiny import Toy


def random_image(height, width):
    rng = np.random.default_rng(0)
    return jnp.asarray(rng.standard_normal((1, height, width, 3)), jnp.float32)


def test_logits_go_to_the_input_size_first():
    model, image = Toy(), random_image(33, 47)
    logits = model(image)
    two_steps = resize(resize(logits, (33, 47)), (20, 90))
    found = whole(model, image, size=(20, 90))
    np.testing.assert_allclose(found, two_steps, atol=1e-6)
    assert float(abs(two_steps - resize(logits, (20, 90))).max()) > 1e-4


def test_bfloat16_logits_are_resized_in_float32():
    image = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.bfloat16)
    logits = jax.eval_shape(lambda image: whole(Toy(), image, size=(32, 32)), image)
    assert logits.dtype == jnp.float32
    sizes = jax.ShapeDtypeStruct((1, 2), jnp.int32)
    logits = jax.eval_shape(functools.partial(bucket_logits, Toy()), image, sizes)
    assert logits.dtype == jnp.float32


def labels_of(logits, size, *, extent, label=None):
    """Label from the logits of one view that fills its array."""
    h, w = size
    rows = taps(((0, h),), length=h, original=extent[0], slot=logits.shape[0])
    columns = taps(((0, w),), length=w, original=extent[1], slot=logits.shape[1])
    side = 128
    pad = lambda t: jax.tree.map(  # noqa: E731 -- one line, used twice
        lambda x: jnp.asarray(np.pad(x, ((0, side - len(x)), (0, 0)))), t
    )
    label = np.full((side, side), 255, np.uint8) if label is None else label
    return jax.jit(label_pixels)(
        [jnp.asarray(logits)[None, None]], [pad(rows)], [pad(columns)],
        extent=jnp.asarray(extent, jnp.int32), label=jnp.asarray(label),
    )  # fmt: skip


def test_the_first_of_equal_classes_wins():
    labels, _ = labels_of(np.zeros((2, 2, 5), np.float32), (8, 8), extent=(8, 8))
    assert not np.asarray(labels)[:8, :8].any()


def test_more_classes_than_bytes_have_values():
    logits = np.zeros((1, 1, 300), np.float32)
    logits[..., 299] = 1
    labels, _ = labels_of(logits, (4, 4), extent=(4, 4))
    assert (np.asarray(labels)[:4, :4] == 299).all()


def test_tiles_are_the_whole_picture_and_every_pixel_is_counted_once():
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((9, 12, 3)).astype(np.float32)
    label = np.full((128, 128), 255, np.uint8)
    label[:70, :101] = rng.choice([0, 1, 2, 255], (70, 101))
    labels, counts = labels_of(logits, (35, 48), extent=(70, 101), label=label)
    steps = resize(resize(jnp.asarray(logits)[None], (35, 48)), (70, 101))
    np.testing.assert_array_equal(np.asarray(labels)[:70, :101], np.argmax(steps[0], -1))
    expected = np.zeros((3, 3), int)
    valid = label[:70, :101] != 255
    found = np.asarray(labels)[:70, :101]
    np.add.at(expected, (label[:70, :101][valid], found[valid]), 1)
    np.testing.assert_array_equal(counts, expected)
