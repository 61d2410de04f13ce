import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hrnet_jax.ops import cpu, reference
from hrnet_jax.ops.cpu import kernel_gradient


def draw(shape, dtype=np.float64):
    return jnp.asarray(np.random.default_rng(0).standard_normal(shape), dtype)


@pytest.mark.parametrize("shape", [(16, 12), (15, 11), (13, 12), (16, 2)], ids=str)
@pytest.mark.parametrize("padding", [((1, 1), (1, 1)), ((0, 0), (1, 1)), ((0, 1), (1, 0))], ids=str)
def test_large_images_in_bands_of_rows_are_convolved_as_whole_ones(shape, padding, monkeypatch):
    monkeypatch.setattr(cpu, "_LARGE_IMAGE", 4)
    monkeypatch.setattr(cpu, "_BAND_SIZE", 2 * shape[1] * 4)  # of two rows
    # A batch of 5 as no other test has, whose trace would be taken.
    with jax.enable_x64(True):
        x, kernel = draw((5, *shape, 4)), draw((3, 3, 4, 2))
        settings = {"stride": 2, "padding": padding}
        expected, of_reference = jax.vjp(lambda *a: reference.conv(*a, **settings), x, kernel)
        y, of_bands = jax.vjp(lambda *a: cpu.conv(*a, **settings), x, kernel)
        np.testing.assert_allclose(y, expected, rtol=1e-12, atol=1e-12)
        dy = draw(expected.shape)
        for one, other in zip(of_bands(dy), of_reference(dy), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-12)
        traced = jax.jit(lambda x: cpu.conv(x, kernel, **settings)).trace(x)
    assert traced.lower().as_text().count("stablehlo.convolution") > 4


def test_no_window_as_large_as_the_image_is_left():
    x, kernel = draw((1, 24, 40, 4), np.float32), draw((3, 3, 4, 6), np.float32)

    def program(conv):
        def score(kernel):
            return conv(x, kernel, stride=1, padding=((1, 1), (1, 1))).sum()

        return jax.jit(jax.grad(score)).lower(kernel).as_text()

    assert "stablehlo.convolution" in program(reference.conv)
    assert "stablehlo.convolution" not in program(cpu.conv)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_gradients_have_the_dtype_of_the_images(dtype):
    x, dy = draw((1, 6, 6, 4), dtype), draw((1, 6, 6, 2), dtype)
    gradient = kernel_gradient(x, dy, size=3, stride=1, padding=((1, 1), (1, 1)))
    assert gradient.shape == (3, 3, 4, 2)
    assert gradient.dtype == dtype


def test_a_convolution_of_one_pixel_has_the_gradient_of_the_reference():
    with jax.enable_x64(True):
        x, kernel = draw((2, 1, 1, 3)), draw((3, 3, 3, 5))
        settings = {"stride": 1, "padding": ((1, 1), (1, 1))}
        ours, expected = (
            jax.grad(lambda k, conv=conv: (conv(x, k, **settings) ** 2).sum())(kernel)
            for conv in (cpu.conv, reference.conv)
        )
    np.testing.assert_allclose(ours, expected, rtol=1e-12, atol=1e-12)
