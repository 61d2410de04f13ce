import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hrnet_jax import ops
from hrnet_jax.ops import derivatives
from tests import bilinear


@pytest.mark.parametrize("factor", [2, 3, 4, 8])
@pytest.mark.parametrize("shape", [(1, 1), (3, 5)], ids=str)
def test_the_derivative_of_enlargement_is_its_transpose(shape, factor):
    size = tuple(n * factor for n in shape)
    rows, columns = (bilinear.matrix(n, n * factor) for n in shape)
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        x, dy = rng.standard_normal((2, *shape, 3)), rng.standard_normal((2, *size, 3))
        _, transpose = jax.vjp(lambda x: derivatives.resize(x, size), jnp.asarray(x))
        (gradient,) = transpose(jnp.asarray(dy))
    np.testing.assert_allclose(
        gradient, np.einsum("yh,xw,byxc->bhwc", rows, columns, dy), rtol=1e-12
    )


@pytest.mark.parametrize("form", [ops.ACCELERATOR, ops.CPU], ids=["accelerator", "cpu"])
def test_nothing_flows_back_through_the_returned_statistics(form):
    def statistics(x):
        _, mean, var = form.batch_norm(x, scale=jnp.ones(2), bias=jnp.zeros(2), epsilon=1e-5)
        return (mean + var).sum()

    x = jnp.asarray(np.random.default_rng(0).standard_normal((1, 4, 4, 2)), jnp.float32)
    np.testing.assert_array_equal(jax.grad(statistics)(x), np.zeros(x.shape))


@pytest.mark.parametrize("form", [ops.REFERENCE, ops.ACCELERATOR, ops.CPU])
def test_statistics_of_many_pixels_keep_their_digits(form):
    """The mean square less the squared mean would be off by 1e-5."""
    x = 1 + 0.1 * np.random.default_rng(0).standard_normal((2, 256, 512, 1))
    x = x.astype(np.float32)
    _, mean, var = form.batch_norm(
        jnp.asarray(x), scale=jnp.ones(1), bias=jnp.zeros(1), epsilon=1e-5
    )
    exact = x.astype(np.float64)
    np.testing.assert_allclose(mean[0], exact.mean(), rtol=3e-7)
    np.testing.assert_allclose(var[0], exact.var(), rtol=1e-6)
