"""A bucket gives each image what it gets alone."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hrnet_jax.models.layers import upsample
from hrnet_jax.ops.ragged import band, valid_sizes
from hrnet_jax.parallel.compiling import inference_options
from tests import tiny  # noqa: F401 -- adds the variant "tiny"
from tests.bilinear import matrix
from tests.published import published_model

BUCKET = (64, 96)
SLOW_SIZES = [(1, 1), (65, 97), (150, 110), (191, 255)]


def images(sizes, bucket, *, junk):
    rng = np.random.default_rng(0)
    batch = np.full((len(sizes), *bucket, 3), junk, np.float32)
    for image, (h, w) in zip(batch, sizes, strict=True):
        image[:h, :w] = rng.standard_normal((h, w, 3))
    return batch


def largest_difference(model, sizes, bucket, *, junk):
    """Of the logits within each image, relative to the largest logit."""
    batch = images(sizes, bucket, junk=junk)
    options = inference_options(bucket)
    in_bucket = jax.jit(functools.partial(_in_bucket, model), compiler_options=options)
    found = np.asarray(in_bucket(batch, jnp.asarray(sizes, jnp.int32)))
    alone = jax.jit(lambda image: model(image), compiler_options=options)
    worst = 0.0
    for n, (h, w) in enumerate(sizes):
        expected = np.asarray(alone(batch[n : n + 1, :h, :w]))[0]
        cut = found[n, : expected.shape[0], : expected.shape[1]]
        worst = max(worst, float(abs(cut - expected).max() / abs(expected).max()))
    return worst


def _in_bucket(model, batch, sizes):
    with valid_sizes(batch.shape[1:3], sizes):
        return model(batch)


@pytest.mark.parametrize(
    ("sizes", "junk"),
    [
        ([(33, 47), (1, 1)], np.nan),
        pytest.param([(33, 47), (64, 96), (5, 95), (1, 1)], 1000.0, marks=pytest.mark.slow),
    ],
)
def test_a_mixed_batch_gives_each_image_its_own_logits(sizes, junk):
    assert largest_difference(published_model("tiny"), sizes, BUCKET, junk=junk) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["hr18s", "hr18", "hr48"])
def test_of_the_published_variants(variant):
    found = largest_difference(published_model(variant), SLOW_SIZES, (192, 256), junk=1000.0)
    assert found < 1e-5


@pytest.mark.parametrize("factor", [2, 4, 8])
@pytest.mark.parametrize("in_two_steps", [True, False])
def test_the_band_holds_every_weight_of_the_resize(factor, in_two_steps):
    length = 16
    sizes_out = np.arange(1, length * factor + 1)
    sizes_in = -(-sizes_out // factor)
    weights = np.asarray(
        band(
            jnp.asarray(sizes_in, jnp.int32),
            jnp.asarray(sizes_out, jnp.int32),
            length=length,
            factor=factor,
            in_two_steps=in_two_steps,
        )
    )
    for n, (size_in, size_out) in enumerate(
        zip(sizes_in.tolist(), sizes_out.tolist(), strict=True)
    ):
        expected = (
            matrix(factor * size_in, size_out) @ matrix(size_in, factor * size_in)
            if in_two_steps
            else matrix(size_in, size_out)
        )
        found = np.zeros((size_out, size_in))
        for output in range(size_out):
            q, p = divmod(output, factor)
            for d in range(weights.shape[-1]):
                if 0 <= q + d - 1 < size_in:
                    found[output, q + d - 1] += weights[n, q, p, d]
        np.testing.assert_allclose(found, expected, atol=1e-6)


def test_without_sizes_the_two_steps_are_two_steps():
    x = jnp.asarray(np.random.default_rng(0).standard_normal((1, 3, 3, 2)), jnp.float32)
    two = upsample(x, (5, 5), factor=2, in_two_steps=True)
    one = upsample(x, (5, 5), factor=2)
    assert float(abs(two - one).max()) > 1e-3
