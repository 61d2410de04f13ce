"""Convolution with a derivative that CPUs are fast at.

XLA differentiates a convolution by its kernel with another one, whose window is the whole image.
On CPUs that runs at a third of the speed of the forward pass; as products of matrices it takes half
the time or less. Other backends have kernels of their own for it, and keep them.
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Padding = tuple[tuple[int, int], tuple[int, int]]  # zeros above and below, left and right


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def convolve(
    x: Float[Array, "b h w i"], kernel: Float[Array, "n n i o"], stride: int, padding: Padding
) -> Float[Array, "b h2 w2 o"]:
    """Correlate images with a square kernel, as every framework's convolution does."""
    return _convolve(x, kernel, stride=stride, padding=padding)


def _convolve(x: Array, kernel: Array, *, stride: int, padding: Padding) -> Array:
    if kernel.shape[0] == stride == 1:
        return jnp.einsum("bhwi,io->bhwo", x, kernel[0, 0])
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(stride, stride),
        padding=padding,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def _forward(x: Array, kernel: Array, stride: int, padding: Padding):
    return convolve(x, kernel, stride, padding), (x, kernel)


def _backward(stride: int, padding: Padding, saved: tuple[Array, Array], dy: Array):
    x, kernel = saved
    plain = functools.partial(_convolve, stride=stride, padding=padding)
    _, by_image = jax.vjp(lambda x: plain(x, kernel), x)

    def by_convolution(x: Array, dy: Array) -> Array:
        return jax.vjp(lambda kernel: plain(x, kernel), kernel)[1](dy)[0]

    by_products = functools.partial(
        kernel_gradient, size=kernel.shape[0], stride=stride, padding=padding
    )
    dkernel = jax.lax.platform_dependent(x, dy, cpu=by_products, default=by_convolution)
    return by_image(dy)[0], dkernel


convolve.defvjp(_forward, _backward)


def kernel_gradient(
    x: Float[Array, "b h w i"],
    dy: Float[Array, "b h2 w2 o"],
    *,
    size: int,
    stride: int,
    padding: Padding,
) -> Float[Array, "n n i o"]:
    """Derivative by the kernel: one or a few products of matrices as tall as there are pixels.

    The left matrix of each is transposed in memory, so the one with fewer channels stands there;
    the right one holds the other array, shifted once for every tap.
    """
    channels = x.shape[-1], dy.shape[-1]
    if size == stride == 1:
        if channels[0] <= channels[1]:
            return jnp.einsum("bhwi,bhwo->io", x, dy)[None, None]
        return jnp.einsum("bhwo,bhwi->oi", dy, x).T[None, None]
    if stride == 1:
        # x[u] meets dy[u + above - tap]; a row of taps at a time keeps the right matrix small.
        beyond = [(size - 1 - before, size - 1 - after) for before, after in padding]
        taps = _shifted(dy, beyond, size=size, stride=1, shape=x.shape[1:3])
        rows = [
            jnp.einsum("bhwi,bhwo->io", x, jnp.concatenate(row[::-1], -1)) for row in taps[::-1]
        ]
        return jnp.stack(rows).reshape(size, channels[0], size, channels[1]).transpose(0, 2, 1, 3)
    taps = _shifted(x, padding, size=size, stride=stride, shape=dy.shape[1:3])
    product = jnp.einsum("bhwo,bhwi->oi", dy, jnp.concatenate([x for row in taps for x in row], -1))
    return product.T.reshape(size, size, *channels)


def _shifted(
    x: Array, padding: Padding | list, *, size: int, stride: int, shape: tuple[int, ...]
) -> list[list[Array]]:
    """What each tap of a kernel reads, by row and column of the tap."""
    padded = jnp.pad(x, ((0, 0), *padding, (0, 0)))

    def read(row: int, column: int) -> Array:
        last = [first + stride * (n - 1) + 1 for first, n in zip((row, column), shape, strict=True)]
        return jax.lax.slice(
            padded,
            (0, row, column, 0),
            (x.shape[0], *last, x.shape[3]),
            (1, stride, stride, 1),
        )

    return [[read(row, column) for column in range(size)] for row in range(size)]
