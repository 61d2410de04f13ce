"""Convolution and batch normalisation with PyTorch's parameters and bookkeeping, on NHWC arrays.

Every layer casts its parameters to the dtype of its input, so the model needs no dtype setting.
Batch statistics are computed in at least float32.
"""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from hrnet_jax import ops

Init = Callable[[tuple[int, ...], np.random.Generator], np.ndarray]


def kaiming_normal(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Draw an HWIO kernel from Normal(0, sqrt(2 / fan_out)) (He et al., 2015), as the original.

    numpy draws the same bits on every backend.
    """
    fan_out = shape[0] * shape[1] * shape[3]
    return rng.standard_normal(shape, np.float32) * np.sqrt(2 / fan_out, dtype=np.float32)


class Conv(nnx.Module):
    """Convolution with a square kernel, zero-padded by `kernel // 2` on every side."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        kernel: int,
        stride: int = 1,
        bias: bool = False,
        init: Init = kaiming_normal,
        rng: np.random.Generator,
    ):
        self.kernel = nnx.Param(init((kernel, kernel, in_channels, out_channels), rng))
        self.bias = nnx.Param(np.zeros(out_channels, np.float32)) if bias else None
        self.stride = stride
        self.padding = ((kernel // 2, kernel // 2),) * 2

    def __call__(self, x: Float[Array, "b h w i"]) -> Float[Array, "b h2 w2 o"]:
        kernel = jnp.asarray(self.kernel[...], x.dtype)
        y = ops.conv(x, kernel, stride=self.stride, padding=self.padding)
        return y if self.bias is None else y + jnp.asarray(self.bias[...], x.dtype)


class BatchNorm(nnx.Module):
    """Batch normalisation with PyTorch's running statistics.

    The batch is normalised by its biased variance, but the running variance averages the unbiased
    one; Flax's own layer averages the biased one. On a batch sharded over devices the statistics
    are those of the whole batch (the original's SyncBN). `model.train()` and `model.eval()` switch
    between batch and running statistics.
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
        running_mean, running_var = jnp.asarray(self.mean[...]), jnp.asarray(self.var[...])
        if self.use_running_average:
            return ops.normalize(
                x,
                scale=scale,
                bias=bias,
                mean=running_mean,
                var=running_var,
                epsilon=self.epsilon,
            )
        y, mean, var = ops.batch_norm(x, scale=scale, bias=bias, epsilon=self.epsilon)
        count = x.size // x.shape[-1]
        unbiased = var * (count / max(count - 1, 1))
        # `self.mean[...] = mean` would ask the tracer for its sharding, 40 ms each time. For mypy a
        # variable that is initialised with a numpy array holds numpy arrays only.
        self.mean.set_value(self._average(running_mean, mean))  # type: ignore[arg-type]
        self.var.set_value(self._average(running_var, unbiased))  # type: ignore[arg-type]
        return y

    def _average(self, running: ops.Channels, batch: ops.Channels) -> ops.Channels:
        return (1 - self.momentum) * running + self.momentum * batch


class ConvBN(nnx.Module):
    """A convolution without bias, then batch normalisation."""

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
