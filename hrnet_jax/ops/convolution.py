"""Convolution as CPUs are fast at it; other backends have kernels of their own, and keep them.

XLA differentiates a convolution by its kernel with another one, whose window is the whole image.
On CPUs that runs at a third of the speed of the forward pass; as products of matrices it takes half
the time or less.

Its library for CPUs fetches the input of a strided convolution from memory again and again once it
exceeds the processor's cache: from 256 to 36 channels, of 256x256 pixels, it took 35 ms. In bands
of rows the same takes 12 ms, and inference of W18-Small 0.90 of its time at 1024x1024, 0.92 at
1024x2048. Images up to 512x1024, as in all published training, have no such inputs.

Differentiable in reverse only; within `jax.shard_map` with `check_vma` the kernel has to vary.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from hrnet_jax.parallel.compiling import traced_once, unfused

Padding = tuple[tuple[int, int], tuple[int, int]]  # zeros above and below, left and right

_NONE: Padding = ((0, 0), (0, 0))

# Numbers of an image's features: what goes in bands, and what a band takes. In float32 32 and 8 MB.
_LARGE, _BAND = 2**23, 2**21
_MOST_BANDS = 16  # each is a convolution to compile


@traced_once(2, 3)
def convolve(
    x: Float[Array, "b h w i"], kernel: Float[Array, "n n i o"], stride: int, padding: Padding
) -> Float[Array, "b h2 w2 o"]:
    """Correlate images with a square kernel, as every framework's convolution does."""
    return _differentiable(x, kernel, stride, padding)


@traced_once(2, 3)
def _plain(x: Array, kernel: Array, stride: int, padding: Padding) -> Array:
    if kernel.shape[0] == stride == 1 and padding == _NONE:
        return jnp.einsum("bhwi,io->bhwo", x, kernel[0, 0])
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(stride, stride),
        padding=padding,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def _in_bands(x: Array, kernel: Array, stride: int, padding: Padding) -> Array:
    """Convolve band by band; by the size of an image, so that batches give each the same."""
    numbers = math.prod(x.shape[1:])
    if numbers <= _LARGE:
        return _plain(x, kernel, stride, padding)
    (above, below), beside = padding
    size = kernel.shape[0]
    height = (above + x.shape[1] + below - size) // stride + 1
    rows = -(-height // min(_MOST_BANDS, -(-numbers // _BAND)))
    padded = jnp.pad(x, ((0, 0), (above, below), (0, 0), (0, 0)))
    bands = []
    for first in range(0, height, rows):
        last = min(first + rows, height) - 1
        band = padded[:, stride * first : stride * last + size]
        bands.append(_plain(band, kernel, stride, ((0, 0), beside)))
    return jnp.concatenate(bands, axis=1)


@traced_once(2, 3)
def _by_backend(x: Array, kernel: Array, stride: int, padding: Padding) -> Array:
    if stride == 1:
        return _plain(x, kernel, stride, padding)
    whole, in_bands = (
        functools.partial(convolution, stride=stride, padding=padding)
        for convolution in (_plain, _in_bands)
    )
    return jax.lax.platform_dependent(x, kernel, cpu=in_bands, default=whole)


def _forward(x: Array, kernel: Array, stride: int, padding: Padding):
    return _by_backend(x, kernel, stride, padding), (x, kernel)


@traced_once(0, 1)
def _backward(stride: int, padding: Padding, saved: tuple[Array, Array], dy: Array):
    x, kernel = saved
    by_image = jax.linear_transpose(lambda x: _plain(x, kernel, stride, padding), x)

    def by_convolution(x: Array, dy: Array) -> Array:
        return jax.linear_transpose(lambda k: _plain(x, k, stride, padding), kernel)(dy)[0]

    by_products = functools.partial(
        kernel_gradient, size=kernel.shape[0], stride=stride, padding=padding
    )
    # Apart: else XLA makes the shifted copies of `x` in the forward pass, and keeps them.
    on_cpus = functools.partial(unfused, by_products)
    dkernel = jax.lax.platform_dependent(x, dy, cpu=on_cpus, default=by_convolution)
    return by_image(dy)[0], dkernel


_differentiable = jax.custom_vjp(_by_backend, nondiff_argnums=(2, 3))
_differentiable.defvjp(_forward, _backward)


def kernel_gradient(
    x: Float[Array, "b h w i"],
    dy: Float[Array, "b h2 w2 o"],
    *,
    size: int,
    stride: int,
    padding: Padding,
) -> Float[Array, "n n i o"]:
    """Derivative by the kernel, as products of matrices as tall as there are pixels.

    Where the product is `_over_pixels`, neither matrix is transposed in memory. Elsewhere the first
    is: the one of fewer channels.
    """
    channels = x.shape[-1], dy.shape[-1]
    if size == stride == 1 and padding == _NONE:
        # Image by image: shorter sums in float32, smaller errors.
        if channels[0] <= channels[1]:
            return jnp.einsum("bhwi,bhwo->bio", x, dy).sum(0)[None, None]
        return jnp.einsum("bhwo,bhwi->boi", dy, x).sum(0).T[None, None]
    (above, _), (left, _) = padding
    height, width = dy.shape[1:3]
    if stride == 1 and channels[0] > 2 * channels[1]:
        # Nine copies of a dy with few channels, none of x: less than three of each.
        moved = [_shifted(dy, above - r, axis=1, size=x.shape[1]) for r in range(size)]
        taps = [_shifted(y, left - c, axis=2, size=x.shape[2]) for y in moved for c in range(size)]
        product = _over_pixels(x, jnp.concatenate(taps, -1))
        return product.reshape(channels[0], size, size, channels[1]).transpose(1, 2, 0, 3)
    if stride == 1:
        # Tap (r, c) joins x[u + r - above, v + c - left] and dy[u, v], hence x[u + r - above, v']
        # and dy[u, v' - c + left]: three copies of each, where one side alone would need nine.
        rows = [_shifted(x, r - above, axis=1, size=height) for r in range(size)]
        columns = [_shifted(dy, left - c, axis=2, size=x.shape[2]) for c in range(size)]
        product = _over_pixels(jnp.concatenate(rows, -1), jnp.concatenate(columns, -1))
        return product.reshape(size, channels[0], size, channels[1]).transpose(0, 2, 1, 3)
    borders = [(before, after, 0) for before, after in ((0, 0), *padding, (0, 0))]
    padded = jax.lax.pad(x, jnp.zeros((), x.dtype), borders)
    taps = [
        padded[
            :, r : r + stride * (height - 1) + 1 : stride, c : c + stride * (width - 1) + 1 : stride
        ]
        for r in range(size)
        for c in range(size)
    ]
    if channels[0] > 2 * channels[1]:
        products = [jnp.einsum("bhwo,bhwi->oi", dy, tap) for tap in taps]
        return jnp.stack(products).transpose(0, 2, 1).reshape(size, size, *channels)
    return _over_pixels(jnp.concatenate(taps, -1), dy).reshape(size, size, *channels)


def _over_pixels(x: Float[Array, "b h w i"], y: Float[Array, "b h w o"]) -> Float[Array, "i o"]:
    """Sum of x[..., i] * y[..., o] over all pixels, of which neither is transposed in memory."""
    return jnp.einsum("pi,po->io", x.reshape(-1, x.shape[-1]), y.reshape(-1, y.shape[-1]))


def _shifted(
    x: Float[Array, "_ _ _ _"], by: int, *, axis: int, size: int
) -> Float[Array, "_ _ _ _"]:
    """x[by : by + size] along an axis, with zeros where there is no x."""
    beyond = [(0, 0, 0)] * x.ndim
    beyond[axis] = (-by, by + size - x.shape[axis], 0)  # less than none cuts off
    return jax.lax.pad(x, jnp.zeros((), x.dtype), beyond)
