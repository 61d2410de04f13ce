"""The hand-written derivative beside XLA's own."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hrnet_jax.ops import convolution
from hrnet_jax.ops.convolution import convolve, kernel_gradient

CASES = [  # kernel, stride, padding, height and width
    (1, 1, ((0, 0), (0, 0)), (5, 7)),
    (1, 1, ((1, 0), (0, 2)), (4, 5)),
    (3, 1, ((1, 1), (1, 1)), (6, 9)),
    (3, 1, ((0, 0), (1, 1)), (8, 5)),  # rows of neighbours instead of zeros
    (3, 2, ((1, 1), (1, 1)), (7, 10)),
    (3, 2, ((1, 1), (1, 1)), (8, 5)),
    (3, 2, ((0, 0), (1, 1)), (9, 8)),
    (3, 1, ((1, 1), (1, 1)), (1, 1)),
]


@pytest.fixture
def draw():
    return functools.partial(np.random.default_rng(0).standard_normal, dtype=np.float64)


def plain(x, kernel, stride, padding):
    return jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


@pytest.mark.parametrize(("channels"), [(3, 5), (5, 3), (7, 2)], ids=str)
@pytest.mark.parametrize(("size", "stride", "padding", "shape"), CASES, ids=str)
def test_values_and_derivatives_are_those_of_xla(size, stride, padding, shape, channels, draw):
    with jax.enable_x64(True):
        x, kernel = map(
            jnp.asarray, (draw((2, *shape, channels[0])), draw((size, size, *channels)))
        )
        expected, by_xla = jax.vjp(lambda *a: plain(*a, stride, padding), x, kernel)
        found, ours = jax.vjp(lambda *a: convolve(*a, stride, padding), x, kernel)
        np.testing.assert_allclose(found, expected, rtol=1e-12)
        dy = jnp.asarray(draw(expected.shape))
        for mine, theirs in zip(ours(dy), by_xla(dy), strict=True):
            np.testing.assert_allclose(mine, theirs, rtol=1e-12, atol=1e-12)


def test_other_backends_get_the_same_derivative(draw, monkeypatch):
    """Their branch, run here; no other test has a batch of 3, whose trace would be taken."""
    monkeypatch.setattr(jax.lax, "platform_dependent", lambda *args, cpu, default: default(*args))
    with jax.enable_x64(True):
        x, kernel = jnp.asarray(draw((3, 6, 9, 4))), jnp.asarray(draw((3, 3, 4, 2)))
        expected, by_xla = jax.vjp(lambda *a: plain(*a, 2, CASES[1][2]), x, kernel)
        _, ours = jax.vjp(lambda *a: convolve(*a, 2, CASES[1][2]), x, kernel)
        dy = jnp.asarray(draw(expected.shape))
        for mine, theirs in zip(ours(dy), by_xla(dy), strict=True):
            np.testing.assert_allclose(mine, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("shape", [(16, 12), (15, 11), (13, 12), (16, 2)], ids=str)
@pytest.mark.parametrize("padding", [((1, 1), (1, 1)), ((0, 0), (1, 1)), ((0, 1), (1, 0))], ids=str)
def test_large_images_in_bands_of_rows_are_convolved_as_whole_ones(
    shape, padding, draw, monkeypatch
):
    monkeypatch.setattr(convolution, "_LARGE", 4)
    monkeypatch.setattr(convolution, "_BAND", 2 * shape[1] * 4)  # of two rows
    with jax.enable_x64(True):  # a batch of 5 as no other test has, whose trace would be taken
        x, kernel = jnp.asarray(draw((5, *shape, 4))), jnp.asarray(draw((3, 3, 4, 2)))
        expected, by_xla = jax.vjp(lambda *a: plain(*a, 2, padding), x, kernel)
        found, ours = jax.vjp(lambda *a: convolve(*a, 2, padding), x, kernel)
        np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)
        dy = jnp.asarray(draw(expected.shape))
        for mine, theirs in zip(ours(dy), by_xla(dy), strict=True):
            np.testing.assert_allclose(mine, theirs, rtol=1e-12, atol=1e-12)
        traced = jax.jit(lambda x: convolve(x, kernel, 2, padding)).trace(x)
    on_cpus, elsewhere = (
        traced.lower(lowering_platforms=(platform,)).as_text().count("stablehlo.convolution")
        for platform in ("cpu", "tpu")
    )
    assert on_cpus > 4
    assert elsewhere == 1


def test_no_window_as_large_as_the_image_is_left_on_cpus(draw):
    x, kernel = jnp.float32(draw((1, 24, 40, 4))), jnp.float32(draw((3, 3, 4, 6)))

    def text_of(convolve):
        gradient = jax.grad(lambda kernel: convolve(x, kernel, 1, CASES[1][2]).sum())
        return jax.jit(gradient).lower(kernel).as_text()

    assert "stablehlo.convolution" in text_of(plain)
    assert "stablehlo.convolution" not in text_of(convolve)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_gradients_have_the_dtype_of_the_images(dtype, draw):
    x, dy = jnp.asarray(draw((1, 6, 6, 4)), dtype), jnp.asarray(draw((1, 6, 6, 2)), dtype)
    found = kernel_gradient(x, dy, size=3, stride=1, padding=CASES[1][2])
    assert found.shape == (3, 3, 4, 2)
    assert found.dtype == dtype
