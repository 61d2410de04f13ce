"""Convolution, batch normalisation and bilinear resizing as PyTorch computes them, on NHWC arrays.

Every layer computes in the dtype of its input: parameters are cast to it, so bfloat16, float32
and float64 need no switch anywhere in the model. Batch statistics are never below float32.

Fresh parameters are numpy arrays, until a program takes them: as jax arrays, the 727 of W18-Small
made up 1.7 of the 2.0 seconds that building it took, at the start of every command.
"""

import functools
from collections.abc import Callable, Iterable

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array, Float

from hrnet_jax.ops import rows
from hrnet_jax.ops.convolution import convolve
from hrnet_jax.ops.ragged import current_sizes
from hrnet_jax.parallel.compiling import traced_once, unfused


def kaiming_normal(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Normal(0, sqrt(2 / fan_out)) for an HWIO kernel (He et al., 2015), as the reference.

    Drawn by numpy: the same bits on every backend, and no compilation of one program per shape.
    """
    fan_out = shape[0] * shape[1] * shape[3]
    return rng.standard_normal(shape, np.float32) * np.sqrt(2 / fan_out, dtype=np.float32)


def at_least_float32(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """bfloat16 -> float32; float32 and float64 as they are."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


@traced_once()
def relu_of_sum(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """max(x, 0); for its derivative the result is kept, which what follows keeps as well, not x."""
    return _relu(x)


@traced_once()
def _relu_forward(x: Array) -> tuple[Array, Array]:
    # Not `jax.nn.relu` and `jnp.where`: they are calls of their own, and would stay apart as well.
    def rectify(x: Array) -> Array:
        return jax.lax.max(x, jnp.zeros_like(x))

    y = jax.lax.platform_dependent(x, cpu=functools.partial(unfused, rectify), default=rectify)
    return y, y


@traced_once()
def _relu_backward(y: Array, dy: Array) -> tuple[Array]:
    def where_positive(y: Array, dy: Array) -> Array:
        return jax.lax.select(y > 0, dy, jnp.zeros_like(dy))

    # Apart: else XLA notes in the forward pass where `y` is positive, and keeps that beside it.
    on_cpus = functools.partial(unfused, where_positive)
    return (jax.lax.platform_dependent(y, dy, cpu=on_cpus, default=where_positive),)


_relu = jax.custom_vjp(jax.nn.relu)
_relu.defvjp(_relu_forward, _relu_backward)


class Conv(nnx.Module):
    """Square convolution with `kernel // 2` rows of zeros on every side.

    XLA's "SAME" would pad stride-2 convolutions on one side only and shift the result.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        kernel: int,
        stride: int = 1,
        bias: bool = False,
        init: Callable[[tuple[int, ...], np.random.Generator], np.ndarray] = kaiming_normal,
        rng: np.random.Generator,
    ):
        shape = (kernel, kernel, in_channels, out_channels)
        self.kernel = nnx.Param(init(shape, rng))
        self.bias = nnx.Param(np.zeros(out_channels, np.float32)) if bias else None
        self.stride = stride

    def __call__(self, x: Float[Array, "b h w i"]) -> Float[Array, "b h2 w2 o"]:
        kernel = jnp.asarray(self.kernel[...], x.dtype)
        sizes = current_sizes()
        if sizes is not None and kernel.shape[0] > 1:
            x = sizes.masked(x)  # what lies beyond an image must read as this padding does
        convolve = functools.partial(_convolve, stride=self.stride)
        y = rows.on_each_share(convolve, x, kernel) if rows.are_cut() else convolve(x, kernel)
        return y if self.bias is None else _add_bias(y, self.bias[...].astype(x.dtype))


@jax.custom_vjp
def _add_bias(
    y: Float[Array, "b h w c"], bias: Float[Array | np.ndarray, " c"]
) -> Float[Array, "b h w c"]:
    return y + bias


def _add_bias_forward(y: Array, bias: Array):
    return y + bias, None


def _add_bias_backward(_: None, dy: Array) -> tuple[Array, Array]:
    # Axis by axis, which the compiler would make one long sum of: that is less exact.
    total = at_least_float32(dy)
    for axis in (2, 1, 0):
        total = jax.lax.optimization_barrier(total.sum(axis))
    return dy, total.astype(dy.dtype)


_add_bias.defvjp(_add_bias_forward, _add_bias_backward)


def _convolve(
    x: Float[Array, "b h w i"], kernel: Float[Array, "n n i o"], *, stride: int
) -> Float[Array, "b h2 w2 o"]:
    size = kernel.shape[0]
    pad = size // 2
    of_rows, of_columns = (pad, pad), (pad, pad)
    if rows.are_cut() and size > 1:
        # The last window of a share ends `stride - 1` rows before that of stride 1.
        x = rows.with_zeros_beyond(x, above=pad, below=size - pad - stride)
        of_rows = (0, 0)
    return convolve(x, kernel, stride, (of_rows, of_columns))


class BatchNorm(nnx.Module):
    """Batch normalisation with PyTorch's bookkeeping.

    The batch is normalised by its biased variance, the running variance takes the unbiased one
    (flax keeps the biased one there). Under `jax.jit` on a batch split over devices the means
    are global, which is what the reference calls SyncBN. `model.train()` and `model.eval()`
    switch between batch and running statistics.
    """

    def __init__(self, channels: int, *, momentum: float = 0.1, epsilon: float = 1e-5):
        self.scale = nnx.Param(np.ones(channels, np.float32))
        self.bias = nnx.Param(np.zeros(channels, np.float32))
        self.mean = nnx.BatchStat(np.zeros(channels, np.float32))
        self.var = nnx.BatchStat(np.ones(channels, np.float32))
        self.momentum = momentum
        self.epsilon = epsilon
        self.use_running_average = True

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        scale, bias = jnp.asarray(self.scale[...]), jnp.asarray(self.bias[...])
        running = jnp.asarray(self.mean[...]), jnp.asarray(self.var[...])
        if self.use_running_average:
            return _normalize(x, scale, bias, *running, self.epsilon)
        y, mean, var = _normalize_batch(x, scale, bias, self.epsilon, rows.cutting_mesh())
        count = x.size // x.shape[-1]
        mean, var = _running_after(running, (mean, var), count, self.momentum)
        # `self.mean[...] = mean` would ask the tracer for its sharding: 40 ms for each statistic.
        # mypy: made of numpy arrays, these variables are taken to hold nothing else.
        self.mean.set_value(mean)  # type: ignore[arg-type]
        self.var.set_value(var)  # type: ignore[arg-type]
        return y


@traced_once(5)
def _normalize(x: Array, scale: Array, bias: Array, mean: Array, var: Array, epsilon: float):
    gain = scale * jax.lax.rsqrt(var + epsilon)
    return ((at_least_float32(x) - mean) * gain + bias).astype(x.dtype)


@traced_once(2, 3)
def _running_after(
    running: tuple[Array, Array], batch: tuple[Array, Array], count: int, momentum: float
) -> tuple[Array, Array]:
    """Running mean and variance, moved towards those of a batch of `count` values per channel."""
    (running_mean, running_var), (mean, var) = running, batch
    unbiased = var * (count / max(count - 1, 1))
    return (
        (1 - momentum) * running_mean + momentum * mean,
        (1 - momentum) * running_var + momentum * unbiased,
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def _normalize_batch(
    x: Float[Array, "b h w c"],
    scale: Float[Array, " c"],
    bias: Float[Array, " c"],
    epsilon: float,
    mesh: Mesh | None,
) -> tuple[Float[Array, "b h w c"], Float[Array, " c"], Float[Array, " c"]]:
    """Normalise by the batch's own mean and biased variance; return these two as well.

    With a derivative of its own (Ioffe & Szegedy, 2015, section 3): two passes over the batch
    instead of the six that differentiating mean and variance step by step takes. Nothing flows
    back through the returned statistics, which only feed running averages. `mesh` is that of
    images cut into rows: an argument, as the traces of the derivative are kept by arguments.
    """
    return _normalize_batch_forward(x, scale, bias, epsilon, mesh)[0]


@traced_once(3, 4)
def _normalize_batch_forward(
    x: Array, scale: Array, bias: Array, epsilon: float, mesh: Mesh | None
):
    precise = at_least_float32(x)
    count = x.size // x.shape[-1]
    mean = _sum(precise, mesh) / count
    centred = precise - mean
    var = _sum(jnp.square(centred), mesh) / count
    inverse = jax.lax.rsqrt(var + epsilon)
    # An infinite variance would normalise everything to `bias` unseen; 0 * inf is NaN, and shows.
    y = centred * (inverse * scale) + (bias + 0 * var)
    return (y.astype(x.dtype), mean, var), (x, scale, mean, inverse)


@traced_once(0, 1)
def _normalize_batch_backward(epsilon: float, mesh: Mesh | None, saved: tuple, gradients: tuple):
    x, scale, mean, inverse = saved
    precise, dy = at_least_float32(x), at_least_float32(gradients[0])
    count = dy.size // dy.shape[-1]

    def dy_centred(dy: Array, x: Array, mean: Array) -> Array:
        return dy * (x - mean)

    # Apart: else XLA keeps `x - mean` since the forward pass, beside `x`.
    on_cpus = functools.partial(unfused, dy_centred)
    products = jax.lax.platform_dependent(dy, precise, mean, cpu=on_cpus, default=dy_centred)
    dbias, dscale = _sum(dy, mesh), inverse * _sum(products, mesh)
    dx = (scale * inverse) * (dy - (dbias + (precise - mean) * (inverse * dscale)) / count)
    return dx.astype(x.dtype), dscale, dbias


def _sum(x: Float[Array, "b h w c"], mesh: Mesh | None) -> Float[Array, " c"]:
    """Sum of each channel: image by image, as on devices that have one each (decision 51)."""

    def add(x: Array) -> Array:
        return jax.lax.optimization_barrier(x.sum((1, 2))).sum(0)

    return rows.sum_of_shares(add, x, mesh) if mesh else add(x)


_normalize_batch.defvjp(_normalize_batch_forward, _normalize_batch_backward)


class ConvBN(nnx.Module):
    """A convolution without bias and its batch normalisation."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        kernel: int,
        stride: int = 1,
        rng: np.random.Generator,
    ):
        self.conv = Conv(in_channels, out_channels, kernel=kernel, stride=stride, rng=rng)
        self.bn = BatchNorm(out_channels)

    def __call__(self, x: Float[Array, "b h w i"]) -> Float[Array, "b h2 w2 o"]:
        return self.bn(self.conv(x))


def resize_bilinear(x: Float[Array, "b _ _ c"], size: tuple[int, ...]) -> Float[Array, "b h w c"]:
    """Bilinear resize with half-pixel centres (align_corners=False) and no anti-aliasing."""
    return _resize_axis(_resize_axis(x, size[0], axis=1), size[1], axis=2)


def upsample(
    x: Float[Array, "b _ _ c"], size: tuple[int, ...], *, factor: int, in_two_steps: bool = False
) -> Float[Array, "b h w c"]:
    """Bring a branch to the size of one that is finer by `factor`.

    In two steps as the reference fuses branches: by the exact factor, then to the true size.
    Straight to the size differs wherever the factor does not divide it.
    """
    sizes = current_sizes()
    if sizes is not None:
        return sizes.upsample(x, factor, in_two_steps=in_two_steps)
    if in_two_steps:
        x = resize_bilinear(x, (x.shape[1] * factor, x.shape[2] * factor))
    return resize_bilinear(x, size)


def _resize_axis(x: Array, size: int, *, axis: int) -> Array:
    if size == x.shape[axis]:
        return x
    if size % x.shape[axis] == 0:
        factor = size // x.shape[axis]

        cut = axis == 1 and rows.are_cut()

        def enlarge(x: Array) -> Array:
            return _enlarge_axis(x, factor, axis, cut)

        return rows.on_each_share(enlarge, x) if cut else enlarge(x)
    lower, upper, fraction = bilinear_taps(x.shape[axis], size)
    shape = [-1 if a == axis else 1 for a in range(x.ndim)]
    weight = jnp.asarray(fraction, x.dtype).reshape(shape)
    return jnp.take(x, lower, axis) * (1 - weight) + jnp.take(x, upper, axis) * weight


def bilinear_taps(size_in: int, size_out: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each output position: the two input positions, and the weight of the second."""
    position = (np.arange(size_out) + 0.5) * (size_in / size_out) - 0.5
    position = np.clip(position, 0, size_in - 1)
    lower = np.floor(position).astype(np.int32)
    return lower, np.minimum(lower + 1, size_in - 1), position - lower


@traced_once(1, 2, 3)
def _enlarge_axis(
    x: Float[Array, "_ _ _ _"], factor: int, axis: int, cut: bool
) -> Float[Array, "_ _ _ _"]:
    """Each input position yields `factor` outputs, mixed from it and one of its neighbours.

    Shifted copies instead of gathers: faster, with a fast gradient, and an axis that is cut, so
    that other devices have its other positions, needs one row of its neighbour only.
    """
    return _enlarge(x, factor, axis, cut)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3))
def _enlarge(x: Array, factor: int, axis: int, cut: bool) -> Array:
    before, after = _neighbours(x, x, axis=axis, cut=cut)
    phases = [
        (1 - abs(offset)) * x + abs(offset) * (before if offset < 0 else after)
        for offset in _offsets(factor)
    ]
    shape = [n * factor if a == axis else n for a, n in enumerate(x.shape)]
    return jnp.stack(phases, axis + 1).reshape(shape)


def _added(parts: Iterable[Array]) -> Array:
    return functools.reduce(jnp.add, parts)


def _offsets(factor: int) -> list[float]:
    """Of the centres of `factor` outputs from that of their input, in inputs."""
    return [(phase + 0.5) / factor - 0.5 for phase in range(factor)]


def _neighbours(of_before: Array, of_after: Array, *, axis: int, cut: bool) -> tuple[Array, Array]:
    """Each position's neighbour before it in one array, and after it in the other.

    At the borders, where there is none, the position itself, in the array of the other side.
    """
    size = of_before.shape[axis]
    first = jax.lax.slice_in_dim(of_after, 0, 1, axis=axis)
    last = jax.lax.slice_in_dim(of_before, size - 1, size, axis=axis)
    if cut:
        first, last = rows.beyond(first=first, last=last)
    before = [first, jax.lax.slice_in_dim(of_before, 0, size - 1, axis=axis)]
    after = [jax.lax.slice_in_dim(of_after, 1, size, axis=axis), last]
    return jnp.concatenate(before, axis), jnp.concatenate(after, axis)


def _enlarge_forward(x: Array, factor: int, axis: int, cut: bool) -> tuple[Array, None]:
    return _enlarge_axis(x, factor, axis, cut), None


@traced_once(0, 1, 2)
def _enlarge_backward(factor: int, axis: int, cut: bool, _: None, dy: Array) -> tuple[Array]:
    def collect(dy: Array) -> Array:
        """What the outputs of a position, of the one before and of the one after owe to it."""
        shape = (*dy.shape[:axis], -1, factor, *dy.shape[axis + 1 :])
        phases = [
            (offset, jax.lax.index_in_dim(dy.reshape(shape), phase, axis + 1, keepdims=False))
            for phase, offset in enumerate(_offsets(factor))
        ]
        own = _added((1 - abs(offset)) * part for offset, part in phases)
        to_next = _added(offset * part for offset, part in phases if offset > 0)
        to_previous = _added(-offset * part for offset, part in phases if offset < 0)
        from_before, from_after = _neighbours(to_next, to_previous, axis=axis, cut=cut)
        return own + from_before + from_after

    # Apart, axis by axis: else XLA computes sums along one axis anew for each along the other.
    on_cpus = functools.partial(unfused, collect)
    return (jax.lax.platform_dependent(dy, cpu=on_cpus, default=collect),)


_enlarge.defvjp(_enlarge_forward, _enlarge_backward)
