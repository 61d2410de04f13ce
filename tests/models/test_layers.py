import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hrnet_jax.models.layers import BatchNorm, Conv
from hrnet_jax.ops import relu


def test_a_1x1_convolution_is_a_product_and_its_bias():
    layer = Conv(5, 4, kernel=1, bias=True, rng=np.random.default_rng(0))
    layer.bias.set_value(jnp.arange(4.0))
    x = jnp.asarray(np.random.default_rng(1).standard_normal((2, 6, 7, 5)), jnp.float32)
    expected = np.einsum("bhwi,io->bhwo", x, layer.kernel[...][0, 0]) + np.arange(4)
    np.testing.assert_allclose(layer(x), expected, atol=1e-6)


@pytest.mark.parametrize("kernel", [1, 3, 5])
def test_a_convolution_of_stride_1_keeps_the_size(kernel):
    layer = Conv(2, 3, kernel=kernel, rng=np.random.default_rng(0))
    assert layer(jnp.ones((1, 7, 6, 2))).shape == (1, 7, 6, 3)


def test_batch_norm_keeps_the_unbiased_running_variance():
    layer = BatchNorm(1)
    layer.train()
    x = jnp.asarray([1.0, 3.0]).reshape(2, 1, 1, 1)
    layer(x)  # mean 2, biased variance 1, unbiased 2
    assert float(layer.mean[...][0]) == pytest.approx(0.1 * 2)
    assert float(layer.var[...][0]) == pytest.approx(0.9 + 0.1 * 2)
    layer.eval()
    y = layer(x)
    assert float(y[0, 0, 0, 0]) == pytest.approx((1 - 0.2) / np.sqrt(1.1 + 1e-5), rel=1e-6)
    assert float(layer.mean[...][0]) == pytest.approx(0.2)  # evaluation changes nothing


def test_batch_norm_in_bfloat16_keeps_float32_statistics():
    layer = BatchNorm(2)
    layer.train()
    x = jnp.asarray(np.random.default_rng(0).normal(100, 1, (4, 8, 8, 2)), jnp.bfloat16)
    y = layer(x)
    assert y.dtype == jnp.bfloat16
    assert layer.mean[...].dtype == jnp.float32
    expected = np.asarray(x, np.float64).mean((0, 1, 2))
    np.testing.assert_allclose(layer.mean[...], 0.1 * expected, rtol=1e-5)


def test_a_constant_image_has_a_finite_gradient():
    def total(x):
        layer = BatchNorm(2)
        layer.train()
        return relu(layer(x)).sum()

    gradient = jax.grad(total)(jnp.ones((1, 4, 4, 2)))
    assert bool(jnp.isfinite(gradient).all())
