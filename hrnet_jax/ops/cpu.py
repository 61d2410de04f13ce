"""What is faster on CPUs; `docs/cpu.md` has the measurements. Differentiable backwards only.

XLA differentiates a convolution by its kernel with another one, whose window is the whole image.
On CPUs that runs at a third of the speed of the forward pass; as products of matrices it takes
half the time or less. And XLA's compiler for CPUs fuses cheap arithmetic into everything that reads
it, which keeps alive what that arithmetic began with: `unfused` calls end such chains.
"""

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
from hrnet_jax.ops.reference import Channels, Padding

_NONE: Padding = ((0, 0), (0, 0))

# XLA's CPU library reads the input of a strided convolution again and again once it exceeds the
# processor's cache; in bands of rows it does not. Both are numbers of an image's features, 32 and
# 8 MB in float32: no published training step has so large an input.
_LARGE, _BAND = 2**23, 2**21
_MOST_BANDS = 16  # each is a convolution to compile


def unfused(function: Callable[..., Any], *arrays: Array) -> Any:
    """Call a function such that XLA fuses nothing in it with the rest of the program.

    What it returns is in memory then, and what reads that does not compute it again, for which its
    arguments would have to be kept.
    """
    with set_xla_metadata(inlineable="false"):
        return jax.jit(function)(*arrays)


def sum_pixels(x: Float[Array, "b h w c"]) -> Channels:
    """Sum image by image: float32 sums are shorter, and their errors smaller.

    The barrier keeps the compiler from making one long sum of the two.
    """
    return jax.lax.optimization_barrier(x.sum((1, 2))).sum(0)


batch_norm = functools.partial(derivatives.batch_norm, total=sum_pixels, isolate=unfused)
normalize = inline_jit("epsilon")(reference.normalize)
resize = functools.partial(derivatives.resize, isolate=unfused)
upsample = reference.upsample_by(resize)


def conv(
    x: Float[Array, "b h w i"], kernel: Float[Array, "n n i o"], *, stride: int, padding: Padding
) -> Float[Array, "b h2 w2 o"]:
    """Correlate images with a square kernel; its gradient is a product of matrices."""
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
    by_image = jax.linear_transpose(lambda x: _whole(x, kernel, stride=stride, padding=padding), x)
    gradient = functools.partial(
        kernel_gradient, size=kernel.shape[0], stride=stride, padding=padding
    )
    # Unfused: else XLA makes the shifted copies of `x` in the forward pass, and keeps them.
    return by_image(dy)[0], unfused(gradient, x, dy)


_conv.defvjp(_conv_forward, _conv_backward)


def _whole(x: Array, kernel: Array, *, stride: int, padding: Padding) -> Array:
    if kernel.shape[0] == stride == 1 and padding == _NONE:
        return jnp.einsum("bhwi,io->bhwo", x, kernel[0, 0])
    return reference.conv(x, kernel, stride=stride, padding=padding)


def _in_bands(x: Array, kernel: Array, *, stride: int, padding: Padding) -> Array:
    """Convolve large strided images band by band.

    The size of an image decides, not that of its batch, so that batches give each the same.
    """
    numbers = math.prod(x.shape[1:])
    if stride == 1 or numbers <= _LARGE:
        return _whole(x, kernel, stride=stride, padding=padding)
    (above, below), sides = padding
    size = kernel.shape[0]
    height = (above + x.shape[1] + below - size) // stride + 1
    rows = -(-height // min(_MOST_BANDS, -(-numbers // _BAND)))
    padded = jnp.pad(x, ((0, 0), (above, below), (0, 0), (0, 0)))
    bands = []
    for first in range(0, height, rows):
        last = min(first + rows, height) - 1
        band = padded[:, stride * first : stride * last + size]
        bands.append(_whole(band, kernel, stride=stride, padding=((0, 0), sides)))
    return jnp.concatenate(bands, axis=1)


def kernel_gradient(
    x: Float[Array, "b h w i"],
    dy: Float[Array, "b h2 w2 o"],
    *,
    size: int,
    stride: int,
    padding: Padding,
) -> Float[Array, "n n i o"]:
    """Derivative by the kernel, as products of matrices as tall as there are pixels."""
    if size == stride == 1 and padding == _NONE:
        # Image by image: shorter sums in float32, smaller errors. The side of fewer channels is
        # the one that is transposed in memory.
        if x.shape[-1] <= dy.shape[-1]:
            return jnp.einsum("bhwi,bhwo->bio", x, dy).sum(0)[None, None]
        return jnp.einsum("bhwo,bhwi->boi", dy, x).sum(0).T[None, None]
    if stride == 1:
        return _gradient_of_shifted(x, dy, size=size, padding=padding)
    return _gradient_of_strided(x, dy, size=size, stride=stride, padding=padding)


def _gradient_of_shifted(x: Array, dy: Array, *, size: int, padding: Padding) -> Array:
    """Stride 1: tap (r, c) joins x[u + r - above, v + c - left] and dy[u, v]."""
    (above, _), (left, _) = padding
    inputs, outputs = x.shape[-1], dy.shape[-1]
    if inputs > 2 * outputs:
        # Nine copies of a dy with few channels, none of x: less than three of each.
        moved = [_shift(dy, above - r, axis=1, size=x.shape[1]) for r in range(size)]
        taps = [_shift(y, left - c, axis=2, size=x.shape[2]) for y in moved for c in range(size)]
        product = _over_pixels(x, jnp.concatenate(taps, -1))
        return product.reshape(inputs, size, size, outputs).transpose(1, 2, 0, 3)
    # Equally x[u + r - above, v'] and dy[u, v' - c + left]: three copies of each, where one side
    # alone would need nine.
    rows = [_shift(x, r - above, axis=1, size=dy.shape[1]) for r in range(size)]
    columns = [_shift(dy, left - c, axis=2, size=x.shape[2]) for c in range(size)]
    product = _over_pixels(jnp.concatenate(rows, -1), jnp.concatenate(columns, -1))
    return product.reshape(size, inputs, size, outputs).transpose(0, 2, 1, 3)


def _gradient_of_strided(x: Array, dy: Array, *, size: int, stride: int, padding: Padding) -> Array:
    """Stride 2: one strided copy of x for each tap."""
    inputs, (height, width), outputs = x.shape[-1], dy.shape[1:3], dy.shape[-1]
    padded = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    high, wide = stride * (height - 1) + 1, stride * (width - 1) + 1
    taps = [
        padded[:, r : r + high : stride, c : c + wide : stride]
        for r in range(size)
        for c in range(size)
    ]
    if inputs > 2 * outputs:  # together the copies would be most of the memory that remat leaves
        products = [jnp.einsum("bhwo,bhwi->oi", dy, tap).T for tap in taps]
        return jnp.stack(products).reshape(size, size, inputs, outputs)
    return _over_pixels(jnp.concatenate(taps, -1), dy).reshape(size, size, inputs, outputs)


def _over_pixels(x: Float[Array, "b h w i"], y: Float[Array, "b h w o"]) -> Float[Array, "i o"]:
    """Sum of x[..., i] * y[..., o] over all pixels, with neither transposed in memory."""
    return jnp.einsum("pi,po->io", x.reshape(-1, x.shape[-1]), y.reshape(-1, y.shape[-1]))


def _shift(x: Float[Array, "_ _ _ _"], by: int, *, axis: int, size: int) -> Float[Array, "_ _ _ _"]:
    """x[by : by + size] along an axis, with zeros where there is no x."""
    borders = [(0, 0, 0)] * x.ndim
    borders[axis] = (-by, by + size - x.shape[axis], 0)  # negative ones cut off
    return jax.lax.pad(x, jnp.zeros((), x.dtype), borders)
