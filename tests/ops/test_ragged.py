"""A bucket gives each image what it gets alone."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hrnet_jax import ops
from hrnet_jax.ops.ragged import band
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


def largest_difference(model, sizes, bucket, *, junk, form=ops.CPU):
    """Of the logits within each image, relative to the largest logit."""
    batch = images(sizes, bucket, junk=junk)
    options = inference_options(bucket)
    in_bucket = jax.jit(functools.partial(_in_bucket, model, form), compiler_options=options)
    found = np.asarray(in_bucket(batch, jnp.asarray(sizes, jnp.int32)))
    alone = jax.jit(functools.partial(_alone, model, form), compiler_options=options)
    worst = 0.0
    for n, (h, w) in enumerate(sizes):
        expected = np.asarray(alone(batch[n : n + 1, :h, :w]))[0]
        cut = found[n, : expected.shape[0], : expected.shape[1]]
        worst = max(worst, float(abs(cut - expected).max() / abs(expected).max()))
    return worst


def _alone(model, form, image):
    with ops.use(form):
        return model(image)


def _in_bucket(model, form, batch, sizes):
    with ops.use(ops.ragged(form, bucket=batch.shape[1:3], sizes=sizes)):
        return model(batch)


@pytest.mark.parametrize(
    ("form", "sizes", "junk"),
    [
        (ops.CPU, [(33, 47), (1, 1)], np.nan),
        (ops.REFERENCE, [(33, 47), (1, 1)], np.nan),
        pytest.param(
            ops.CPU, [(33, 47), (64, 96), (5, 95), (1, 1)], 1000.0, marks=pytest.mark.slow
        ),
        pytest.param(ops.ACCELERATOR, [(33, 47), (5, 95)], 1000.0, marks=pytest.mark.slow),
    ],
)
def test_a_mixed_batch_gives_each_image_its_own_logits(form, sizes, junk):
    model = published_model("tiny")
    assert largest_difference(model, sizes, BUCKET, junk=junk, form=form) < 1e-5


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


def test_training_on_a_bucket_is_refused():
    form = ops.ragged(ops.REFERENCE, bucket=(32, 32), sizes=jnp.ones((1, 2), jnp.int32))
    x, ones = jnp.ones((1, 32, 32, 1)), jnp.ones(1)
    with pytest.raises(ValueError, match="are for evaluation, not training"):
        form.batch_norm(x, scale=ones, bias=ones, epsilon=1e-5)
