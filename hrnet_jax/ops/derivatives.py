"""Operations with custom gradients, which read activations less often than autodiff does.

This is the form for GPUs and TPUs, and the base of the one for CPUs. Reverse mode only.

`isolate` calls a function so that the compiler does not fuse it with the rest of the program. By
default it is a plain call: only CPUs gain from it.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from hrnet_jax.ops import reference
from hrnet_jax.ops.reference import REFERENCE, Channels, at_least_float32, sum_pixels

Isolate = Callable[..., Any]  # (function, *arrays) -> function(*arrays)


def inline_jit(*static: str) -> Callable[[Callable], Callable]:
    """Decorate an operation so that all its calls with equal shapes share one trace.

    A network calls few shapes many times. The calls are inlined before XLA compiles the program.
    """
    return functools.partial(jax.jit, static_argnames=static, inline=True)


def call(function: Callable[..., Any], *arrays: Array) -> Any:
    """Call a function; the compiler may fuse it with its surroundings."""
    return function(*arrays)


def batch_norm(
    x: Float[Array, "b h w c"],
    *,
    scale: Channels,
    bias: Channels,
    epsilon: float,
    total: Callable[[Array], Array] = sum_pixels,
    isolate: Isolate = call,
) -> tuple[Float[Array, "b h w c"], Channels, Channels]:
    """Normalise by the mean and biased variance of the batch; return both with the result.

    The gradient is the formula of Ioffe & Szegedy (2015, section 3), with two passes over the
    batch; autodiff of mean and variance takes six. The returned statistics have no gradient: they
    only feed running averages.
    """
    return _batch_norm(x, scale, bias, epsilon, total, isolate)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4, 5))
def _batch_norm(x, scale, bias, epsilon, total, isolate):
    return _batch_norm_forward(x, scale, bias, epsilon, total, isolate)[0]


@inline_jit("epsilon", "total", "isolate")
def _batch_norm_forward(x, scale, bias, epsilon, total, isolate):
    y, mean, var = reference.batch_norm(x, scale=scale, bias=bias, epsilon=epsilon, total=total)
    return (y, mean, var), (x, scale, mean, jax.lax.rsqrt(var + epsilon))


@inline_jit("epsilon", "total", "isolate")
def _batch_norm_backward(epsilon, total, isolate, saved, gradients):
    x, scale, mean, inverse = saved
    precise, dy = at_least_float32(x), at_least_float32(gradients[0])
    count = dy.size // dy.shape[-1]

    def dy_centred(dy: Array, x: Array, mean: Array) -> Array:
        return dy * (x - mean)

    products = isolate(dy_centred, dy, precise, mean)
    dbias, dscale = total(dy), inverse * total(products)
    dx = (scale * inverse) * (dy - (dbias + (precise - mean) * (inverse * dscale)) / count)
    return dx.astype(x.dtype), dscale, dbias


_batch_norm.defvjp(_batch_norm_forward, _batch_norm_backward)


def resize(
    x: Float[Array, "b _ _ c"], size: tuple[int, ...], *, isolate: Isolate = call
) -> Float[Array, "b h w c"]:
    """Resize bilinearly; integer factors use shifted copies instead of gathers."""
    for axis, length in zip((1, 2), size, strict=True):
        if length % x.shape[axis] or length == x.shape[axis]:
            x = reference.resize_axis(x, length, axis=axis)
        else:
            x = _upsample_axis(x, length // x.shape[axis], axis, isolate)
    return x


upsample = reference.upsample_by(resize)
ACCELERATOR = dataclasses.replace(
    REFERENCE, batch_norm=batch_norm, resize=resize, upsample=upsample
)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3))
def _upsample_axis(x, factor, axis, isolate):
    return _upsample_axis_forward(x, factor, axis, isolate)[0]


@inline_jit("factor", "axis", "isolate")
def _upsample_axis_forward(x, factor, axis, isolate):
    """Interpolate `factor` outputs between each input and one of its neighbours."""
    before, after = _neighbours(x, x, axis=axis)
    phases = [
        (1 - abs(offset)) * x + abs(offset) * (before if offset < 0 else after)
        for offset in _offsets(factor)
    ]
    shape = [n * factor if a == axis else n for a, n in enumerate(x.shape)]
    return jnp.stack(phases, axis + 1).reshape(shape), None


@inline_jit("factor", "axis", "isolate")
def _upsample_axis_backward(factor, axis, isolate, _, dy):
    def collect(dy: Array) -> Array:
        """Sum the gradients of all outputs that read an input: its own and its neighbours'."""
        shape = (*dy.shape[:axis], -1, factor, *dy.shape[axis + 1 :])
        phases = [
            (offset, jax.lax.index_in_dim(dy.reshape(shape), phase, axis + 1, keepdims=False))
            for phase, offset in enumerate(_offsets(factor))
        ]
        own = _sum((1 - abs(offset)) * part for offset, part in phases)
        to_next = _sum(offset * part for offset, part in phases if offset > 0)
        to_previous = _sum(-offset * part for offset, part in phases if offset < 0)
        from_before, from_after = _neighbours(to_next, to_previous, axis=axis)
        return own + from_before + from_after

    return (isolate(collect, dy),)


_upsample_axis.defvjp(_upsample_axis_forward, _upsample_axis_backward)


def _sum(parts: Iterable[Array]) -> Array:
    return functools.reduce(jnp.add, parts)


def _offsets(factor: int) -> list[float]:
    """Distance of each output's centre from the centre of its input, in units of inputs."""
    return [(phase + 0.5) / factor - 0.5 for phase in range(factor)]


def _neighbours(of_before: Array, of_after: Array, *, axis: int) -> tuple[Array, Array]:
    """Return the neighbour before each position, and the neighbour after it.

    A position at a border is its own missing neighbour, with its value in the other array.
    """
    size = of_before.shape[axis]
    first = jax.lax.slice_in_dim(of_after, 0, 1, axis=axis)
    last = jax.lax.slice_in_dim(of_before, size - 1, size, axis=axis)
    before = [first, jax.lax.slice_in_dim(of_before, 0, size - 1, axis=axis)]
    after = [jax.lax.slice_in_dim(of_after, 1, size, axis=axis), last]
    return jnp.concatenate(before, axis), jnp.concatenate(after, axis)
