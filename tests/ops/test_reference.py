import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hrnet_jax import ops
from hrnet_jax.ops import bilinear_taps, reference, resize


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
    np.testing.assert_allclose(resize(jnp.asarray(x), size), expected, atol=2e-6)


def test_resize_of_a_single_pixel_repeats_it():
    x = jnp.full((1, 1, 1, 2), 3.0)
    np.testing.assert_array_equal(resize(x, (8, 4)), np.full((1, 8, 4, 2), 3.0))


def test_taps_stay_inside():
    for size_in, size_out in [(1, 9), (9, 1), (17, 129), (129, 17)]:
        lower, upper, weight = bilinear_taps(size_in, size_out)
        assert lower.min() >= 0
        assert upper.max() < size_in
        assert ((weight >= 0) & (weight < 1)).all()


def test_a_branch_is_enlarged_in_two_steps_or_one():
    x = jnp.asarray(np.random.default_rng(0).standard_normal((1, 3, 3, 2)), jnp.float32)
    two = ops.upsample(x, (5, 5), factor=2, in_two_steps=True)
    np.testing.assert_array_equal(two, resize(resize(x, (6, 6)), (5, 5)))
    one = ops.upsample(x, (5, 5), factor=2)
    np.testing.assert_array_equal(one, resize(x, (5, 5)))
    assert float(abs(two - one).max()) > 1e-3


@pytest.mark.parametrize("size", [(8, 8), (7, 9)])
def test_stride_2_convolution_pads_one_row_before_and_after(size):
    kernel = jnp.arange(9.0).reshape(3, 3, 1, 1)
    x = np.random.default_rng(1).standard_normal((1, *size, 1)).astype(np.float32)
    padded = np.pad(x[0, :, :, 0], 1)
    y = reference.conv(jnp.asarray(x), kernel, stride=2, padding=((1, 1), (1, 1)))
    assert y.shape[1:3] == (-(-size[0] // 2), -(-size[1] // 2))
    for i in range(y.shape[1]):
        for j in range(y.shape[2]):
            window = padded[2 * i : 2 * i + 3, 2 * j : 2 * j + 3]
            expected = (window * np.arange(9).reshape(3, 3)).sum()
            assert abs(float(y[0, i, j, 0]) - expected) < 1e-5


def test_batch_norm_is_the_textbook_formula():
    rng = np.random.default_rng(0)
    x, (scale, bias) = rng.standard_normal((2, 3, 5, 4)) * 3 + 7, rng.standard_normal((2, 4))
    with jax.enable_x64(True):
        y, mean, var = reference.batch_norm(
            jnp.asarray(x), scale=jnp.asarray(scale), bias=jnp.asarray(bias), epsilon=1e-5
        )
    expected = (x - x.mean((0, 1, 2))) / np.sqrt(x.var((0, 1, 2)) + 1e-5) * scale + bias
    np.testing.assert_allclose(y, expected, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(mean, x.mean((0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(var, x.var((0, 1, 2)), rtol=1e-12)


def test_bfloat16_is_raised_to_float32_and_nothing_is_lowered():
    assert ops.at_least_float32(jnp.ones(1, jnp.bfloat16)).dtype == jnp.float32
    with jax.enable_x64(True):
        assert ops.at_least_float32(jnp.ones(1, jnp.float64)).dtype == jnp.float64
