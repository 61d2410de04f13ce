import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from hrnet_jax.models.layers import BatchNorm, Conv, bilinear_taps, resize_bilinear
from tests import bilinear


def half_pixel_bilinear(x: np.ndarray, size: int, axis: int) -> np.ndarray:
    """The textbook formula, position by position, in float64."""
    n = x.shape[axis]
    rows = []
    for i in range(size):
        position = min(max((i + 0.5) * n / size - 0.5, 0), n - 1)
        low = int(position)
        high = min(low + 1, n - 1)
        rows.append(
            np.take(x, low, axis) * (1 - (position - low))
            + np.take(x, high, axis) * (position - low)
        )
    return np.stack(rows, axis)


@pytest.mark.parametrize(
    "size", [(14, 20), (28, 40), (7, 10), (5, 3), (13, 27), (1, 1), (56, 10), (8, 11)]
)
def test_resize_is_half_pixel_bilinear_without_antialiasing(size):
    x = np.random.default_rng(0).standard_normal((2, 7, 10, 3)).astype(np.float32)
    expected = half_pixel_bilinear(half_pixel_bilinear(x.astype(float), size[0], 1), size[1], 2)
    np.testing.assert_allclose(resize_bilinear(jnp.asarray(x), size), expected, atol=2e-6)


@pytest.mark.parametrize("factor", [2, 3, 4, 8])
@pytest.mark.parametrize("shape", [(1, 1), (3, 5)], ids=str)
def test_the_derivative_of_enlargement_is_its_transpose(shape, factor):
    size = tuple(n * factor for n in shape)
    rows, columns = (bilinear.matrix(n, n * factor) for n in shape)
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        x, dy = rng.standard_normal((2, *shape, 3)), rng.standard_normal((2, *size, 3))
        transpose = jax.jit(lambda x, dy: jax.vjp(lambda x: resize_bilinear(x, size), x)[1](dy)[0])
        found = transpose(x, dy)
    np.testing.assert_allclose(found, np.einsum("yh,xw,byxc->bhwc", rows, columns, dy), rtol=1e-12)


def test_resize_of_a_single_pixel_repeats_it():
    x = jnp.full((1, 1, 1, 2), 3.0)
    np.testing.assert_array_equal(resize_bilinear(x, (8, 4)), np.full((1, 8, 4, 2), 3.0))


def test_taps_stay_inside():
    for size_in, size_out in [(1, 9), (9, 1), (17, 129), (129, 17)]:
        lower, upper, weight = bilinear_taps(size_in, size_out)
        assert lower.min() >= 0
        assert upper.max() < size_in
        assert ((weight >= 0) & (weight < 1)).all()


@pytest.mark.parametrize("size", [(8, 8), (7, 9)])
def test_stride_2_convolution_pads_one_row_before_and_after(size):
    layer = Conv(1, 1, kernel=3, stride=2, rng=np.random.default_rng(0))
    layer.kernel.set_value(jnp.arange(9.0).reshape(3, 3, 1, 1))
    x = np.random.default_rng(1).standard_normal((1, *size, 1)).astype(np.float32)
    padded = np.pad(x[0, :, :, 0], 1)
    y = layer(jnp.asarray(x))
    assert y.shape[1:3] == (-(-size[0] // 2), -(-size[1] // 2))
    for i in range(y.shape[1]):
        for j in range(y.shape[2]):
            window = padded[2 * i : 2 * i + 3, 2 * j : 2 * j + 3]
            expected = (window * np.arange(9).reshape(3, 3)).sum()
            assert abs(float(y[0, i, j, 0]) - expected) < 1e-5


def test_1x1_convolution_as_a_product_equals_the_convolution():
    layer = Conv(5, 4, kernel=1, bias=True, rng=np.random.default_rng(0))
    x = jnp.asarray(np.random.default_rng(1).standard_normal((2, 6, 7, 5)), jnp.float32)
    expected = jax.lax.conv_general_dilated(
        x, layer.kernel[...], (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    np.testing.assert_allclose(layer(x), expected + layer.bias[...], atol=1e-6)


def plain_batch_norm(x, scale, bias, epsilon=1e-5):
    mean = x.mean((0, 1, 2))
    var = jnp.square(x - mean).mean((0, 1, 2))
    return (x - mean) / jnp.sqrt(var + epsilon) * scale + bias


@pytest.mark.parametrize(("branch", "batch"), [("cpu", 2), ("default", 3)])
def test_batch_norm_and_its_own_derivative_equal_the_plain_form(branch, batch, monkeypatch):
    """On CPUs and, run here, what other backends do; traces are kept by shapes, so these differ."""
    monkeypatch.setattr(
        jax.lax, "platform_dependent", lambda *args, **branches: branches[branch](*args)
    )
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        x = jnp.asarray(rng.standard_normal((batch, 3, 5, 4)) * 3 + 7)
        scale, bias = jnp.asarray(rng.standard_normal((2, 4)))
        weights = jnp.asarray(rng.standard_normal(x.shape))

        def ours(x, scale, bias):
            layer = BatchNorm(4)
            layer.train()
            layer.scale.set_value(scale)
            layer.bias.set_value(bias)
            return (layer(x) * weights).sum()

        def plain(x, scale, bias):
            return (plain_batch_norm(x, scale, bias) * weights).sum()

        ours_value, ours_gradients = jax.value_and_grad(ours, (0, 1, 2))(x, scale, bias)
        value, gradients = jax.value_and_grad(plain, (0, 1, 2))(x, scale, bias)
        assert ours_value.dtype == jnp.float64
        np.testing.assert_allclose(ours_value, value, rtol=1e-12)
        for mine, theirs in zip(ours_gradients, gradients, strict=True):
            np.testing.assert_allclose(mine, theirs, rtol=1e-10, atol=1e-12)


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


def test_statistics_return_no_gradient():
    def total(x):
        layer = BatchNorm(2)
        layer.train()
        return nnx.relu(layer(x)).sum()

    gradient = jax.grad(total)(jnp.ones((1, 4, 4, 2)))
    assert bool(jnp.isfinite(gradient).all())


def test_statistics_of_many_pixels_keep_their_digits():
    """The mean square less the squared mean would be off by 1e-5."""
    x = 1 + 0.1 * np.random.default_rng(0).standard_normal((2, 256, 512, 1))
    layer = BatchNorm(1, momentum=1.0)
    layer.train()
    layer(jnp.asarray(x, jnp.float32))
    exact = np.asarray(x, np.float32).astype(np.float64)
    np.testing.assert_allclose(layer.mean[...][0], exact.mean(), rtol=3e-7)
    np.testing.assert_allclose(layer.var[...][0], exact.var(ddof=1), rtol=1e-6)
