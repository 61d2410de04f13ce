"""The form for CPUs; `docs/cpu.md` has the measurements. Reverse mode only.

Autodiff computes a kernel's gradient as a convolution whose window is the whole image. On CPUs that
runs at a third of the speed of the forward pass; matrix products take half the time or less. XLA's
CPU compiler also fuses cheap arithmetic into everything that reads its result, which keeps its
inputs alive: `unfused` calls end such chains.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental.xla_metadata import set_xla_metadata
from jaxtyping import Array, Float

from hrnet_jax.ops import derivatives, reference
from hrnet_jax.ops.derivatives import inline_jit
from hrnet_jax.ops.reference import REFERENCE, Channels, Padding

_NO_PADDING: Padding = ((0, 0), (0, 0))

# XLA's CPU library rereads the input of a strided convolution that exceeds the processor's cache,
# so such images are convolved in bands of rows. Both limits count the values of one image: 32 and
# 8 MB in float32. No published training step has inputs that large.
_LARGE_IMAGE, _BAND_SIZE = 2**23, 2**21
_MAX_BANDS = 16  # each is a convolution to compile


def unfused(function: Callable[..., Any], *arrays: Array) -> Any:
    """Call a function so that XLA does not fuse it with the rest of the program.

    Its result is then stored once. Fused, every reader would compute it again, and its arguments
    would have to be kept for that.
    """
    with set_xla_metadata(inlineable="false"):
        return jax.jit(function)(*arrays)


def sum_pixels(x: Float[Array, "b h w c"]) -> Channels:
    """Sum each image, then the batch: shorter float32 sums have smaller rounding errors.

    The barrier keeps the compiler from merging the two sums.
    """
    return jax.lax.optimization_barrier(x.sum((1, 2))).sum(0)


batch_norm = functools.partial(derivatives.batch_norm, total=sum_pixels, isolate=unfused)
normalize = inline_jit("epsilon")(reference.normalize)
resize = functools.partial(derivatives.resize, isolate=unfused)
upsample = reference.upsample_by(resize)


def conv(
    x: Float[Array, "b h w i"], kernel: Float[Array, "n n i o"], *, stride: int, padding: Padding
) -> Float[Array, "b h2 w2 o"]:
    """Convolve images with a square kernel, whose gradient is a matrix product."""
    return _conv(x, kernel, stride, padding)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _conv(x, kernel, stride, padding):
    return _conv_forward(x, kernel, stride, padding)[0]


@inline_jit("stride", "padding")
def _conv_forward(x, kernel, stride, padding):
    return _in_bands(x, kernel, stride=stride, padding=padding), (x, kernel)


@inline_jit("stride", "padding")
def _conv_backward(stride, padding, saved, dy):
    x, kernel = saved
    transpose = jax.linear_transpose(
        lambda x: _plain_conv(x, kernel, stride=stride, padding=padding), x
    )
    gradient = functools.partial(
        kernel_gradient, size=kernel.shape[0], stride=stride, padding=padding
    )
    # Unfused, because XLA would make the shifted copies of `x` in the forward pass and keep them.
    return transpose(dy)[0], unfused(gradient, x, dy)


_conv.defvjp(_conv_forward, _conv_backward)

CPU = dataclasses.replace(
    REFERENCE,
    conv=conv,
    normalize=normalize,
    batch_norm=batch_norm,
    resize=resize,
    upsample=upsample,
)


def _plain_conv(x: Array, kernel: Array, *, stride: int, padding: Padding) -> Array:
    if kernel.shape[0] == stride == 1 and padding == _NO_PADDING:
        return jnp.einsum("bhwi,io->bhwo", x, kernel[0, 0])
    return reference.conv(x, kernel, stride=stride, padding=padding)


def _in_bands(x: Array, kernel: Array, *, stride: int, padding: Padding) -> Array:
    """Convolve, with a stride and on large images band by band.

    The image's size decides, not the batch's, so results do not depend on the batch size.
    """
    image_size = math.prod(x.shape[1:])
    if stride == 1 or image_size <= _LARGE_IMAGE:
        return _plain_conv(x, kernel, stride=stride, padding=padding)
    (above, below), sides = padding
    size = kernel.shape[0]
    height = (above + x.shape[1] + below - size) // stride + 1
    rows = -(-height // min(_MAX_BANDS, -(-image_size // _BAND_SIZE)))
    padded = jnp.pad(x, ((0, 0), (above, below), (0, 0), (0, 0)))
    bands = []
    for first in range(0, height, rows):
        last = min(first + rows, height) - 1
        band = padded[:, stride * first : stride * last + size]
        bands.append(_plain_conv(band, kernel, stride=stride, padding=((0, 0), sides)))
    return jnp.concatenate(bands, axis=1)


def kernel_gradient(
    x: Float[Array, "b h w i"],
    dy: Float[Array, "b h2 w2 o"],
    *,
    size: int,
    stride: int,
    padding: Padding,
) -> Float[Array, "n n i o"]:
    """Gradient of a convolution with respect to its kernel, as matrix products over all pixels."""
    if size == stride == 1 and padding == _NO_PADDING:
        # Image by image: shorter float32 sums have smaller errors. The array with fewer channels
        # is the one transposed in memory.
        if x.shape[-1] <= dy.shape[-1]:
            return jnp.einsum("bhwi,bhwo->bio", x, dy).sum(0)[None, None]
        return jnp.einsum("bhwo,bhwi->boi", dy, x).sum(0).T[None, None]
    if stride == 1:
        return _gradient_of_shifted(x, dy, size=size, padding=padding)
    return _gradient_of_strided(x, dy, size=size, stride=stride, padding=padding)


def _gradient_of_shifted(x: Array, dy: Array, *, size: int, padding: Padding) -> Array:
    """Stride 1: tap (r, c) multiplies x[u + r - above, v + c - left] by dy[u, v]."""
    (above, _), (left, _) = padding
    inputs, outputs = x.shape[-1], dy.shape[-1]
    if inputs > 2 * outputs:
        # dy has few channels: nine copies of it are smaller than three of each array.
        moved = [_shift(dy, above - r, axis=1, size=x.shape[1]) for r in range(size)]
        taps = [_shift(y, left - c, axis=2, size=x.shape[2]) for y in moved for c in range(size)]
        product = _over_pixels(x, jnp.concatenate(taps, -1))
        return product.reshape(inputs, size, size, outputs).transpose(1, 2, 0, 3)
    # The same as x[u + r - above, v'] times dy[u, v' - c + left]: three copies of each array
    # instead of nine copies of one.
    rows = [_shift(x, r - above, axis=1, size=dy.shape[1]) for r in range(size)]
    columns = [_shift(dy, left - c, axis=2, size=x.shape[2]) for c in range(size)]
    product = _over_pixels(jnp.concatenate(rows, -1), jnp.concatenate(columns, -1))
    return product.reshape(size, inputs, size, outputs).transpose(0, 2, 1, 3)


def _gradient_of_strided(x: Array, dy: Array, *, size: int, stride: int, padding: Padding) -> Array:
    """Larger strides: one strided copy of x for each tap."""
    inputs, (height, width), outputs = x.shape[-1], dy.shape[1:3], dy.shape[-1]
    padded = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    high, wide = stride * (height - 1) + 1, stride * (width - 1) + 1
    taps = [
        padded[:, r : r + high : stride, c : c + wide : stride]
        for r in range(size)
        for c in range(size)
    ]
    if inputs > 2 * outputs:  # one copy at a time: all of them would dominate memory under remat
        products = [jnp.einsum("bhwo,bhwi->oi", dy, tap).T for tap in taps]
        return jnp.stack(products).reshape(size, size, inputs, outputs)
    return _over_pixels(jnp.concatenate(taps, -1), dy).reshape(size, size, inputs, outputs)


def _over_pixels(x: Float[Array, "b h w i"], y: Float[Array, "b h w o"]) -> Float[Array, "i o"]:
    """Sum x[..., i] * y[..., o] over all pixels; neither array is transposed in memory."""
    return jnp.einsum("pi,po->io", x.reshape(-1, x.shape[-1]), y.reshape(-1, y.shape[-1]))


def _shift(x: Float[Array, "_ _ _ _"], by: int, *, axis: int, size: int) -> Float[Array, "_ _ _ _"]:
    """Return x[by : by + size] along an axis, with zeros outside x."""
    borders = [(0, 0, 0)] * x.ndim
    borders[axis] = (-by, by + size - x.shape[axis], 0)  # negative values crop
    return jax.lax.pad(x, jnp.zeros((), x.dtype), borders)
