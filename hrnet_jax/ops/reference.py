"""The definition of every operation, in plain `jax.lax`. All other forms are tested against it.

Values are those of PyTorch, on NHWC arrays. Forward- and reverse-mode differentiation both work.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

Channels = Float[Array, " c"]
Padding = tuple[tuple[int, int], tuple[int, int]]  # zeros above and below, left and right

relu = jax.nn.relu


def at_least_float32(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """Cast bfloat16 to float32; leave float32 and float64 as they are."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def conv(
    x: Float[Array, "b h w i"], kernel: Float[Array, "n n i o"], *, stride: int, padding: Padding
) -> Float[Array, "b h2 w2 o"]:
    """Convolve images with a square kernel.

    The padding is explicit, because XLA's "SAME" pads stride-2 convolutions on one side only,
    which would shift the result.
    """
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(stride, stride),
        padding=padding,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def normalize(
    x: Float[Array, "b h w c"],
    *,
    scale: Channels,
    bias: Channels,
    mean: Channels,
    var: Channels,
    epsilon: float,
) -> Float[Array, "b h w c"]:
    """Normalise by the given statistics, in at least float32."""
    gain = scale * jax.lax.rsqrt(var + epsilon)
    return ((at_least_float32(x) - mean) * gain + bias).astype(x.dtype)


def sum_pixels(x: Float[Array, "b h w c"]) -> Channels:
    """Sum each channel over all pixels of the batch."""
    return x.sum((0, 1, 2))


def batch_norm(
    x: Float[Array, "b h w c"],
    *,
    scale: Channels,
    bias: Channels,
    epsilon: float,
    total: Callable[[Array], Array] = sum_pixels,
) -> tuple[Float[Array, "b h w c"], Channels, Channels]:
    """Normalise by the mean and biased variance of the batch; return both with the result.

    `total` sums each channel over all pixels of the batch.
    """
    count = x.size // x.shape[-1]
    mean = total(at_least_float32(x)) / count
    var = total(jnp.square(at_least_float32(x) - mean)) / count
    y = normalize(x, scale=scale, bias=bias, mean=mean, var=var, epsilon=epsilon)
    return y, mean, var


def resize(x: Float[Array, "b _ _ c"], size: tuple[int, ...]) -> Float[Array, "b h w c"]:
    """Resize bilinearly: half-pixel centres (align_corners=False), no anti-aliasing."""
    for axis, length in zip((1, 2), size, strict=True):
        x = resize_axis(x, length, axis=axis)
    return x


def resize_axis(x: Float[Array, "_ _ _ _"], size: int, *, axis: int) -> Float[Array, "_ _ _ _"]:
    """Interpolate linearly along one axis."""
    if size == x.shape[axis]:
        return x
    lower, upper, fraction = bilinear_taps(x.shape[axis], size)
    weight = jnp.asarray(fraction, x.dtype).reshape([-1 if a == axis else 1 for a in range(4)])
    return jnp.take(x, lower, axis) * (1 - weight) + jnp.take(x, upper, axis) * weight


def bilinear_taps(size_in: int, size_out: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return, for each output, the indices of its two inputs and the weight of the second."""
    position = (np.arange(size_out) + 0.5) * (size_in / size_out) - 0.5
    position = np.clip(position, 0, size_in - 1)
    lower = np.floor(position).astype(np.int32)
    return lower, np.minimum(lower + 1, size_in - 1), position - lower


def upsample_by(resize: Callable[..., Array]) -> Callable[..., Array]:
    """Build a form's `upsample` from its `resize`."""

    def upsample(
        x: Float[Array, "b _ _ c"], size: tuple[int, ...], *, factor: int, in_two_steps: bool
    ) -> Float[Array, "b h w c"]:
        if in_two_steps:
            x = resize(x, (x.shape[1] * factor, x.shape[2] * factor))
        return resize(x, size)

    return upsample


upsample = upsample_by(resize)


@dataclasses.dataclass(frozen=True)
class Form:
    """An implementation of every operation, with the results of this module."""

    conv: Callable
    normalize: Callable
    batch_norm: Callable
    relu: Callable
    resize: Callable
    upsample: Callable


REFERENCE = Form(conv, normalize, batch_norm, relu, resize, upsample)
