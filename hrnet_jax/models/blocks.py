"""The residual blocks of HRNet (He et al., 2016, figures 2 and 5)."""

import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from hrnet_jax.models.layers import BatchNorm, Conv, ConvBN
from hrnet_jax.ops import relu


class BasicBlock(nnx.Module):
    """Two 3x3 convolutions and a skip connection; the block of every branch."""

    def __init__(self, channels: int, *, rng: np.random.Generator):
        self.conv1 = Conv(channels, channels, kernel=3, rng=rng)
        self.bn1 = BatchNorm(channels)
        self.conv2 = Conv(channels, channels, kernel=3, rng=rng)
        self.bn2 = BatchNorm(channels)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        residual = x
        x = relu(self.bn1(self.conv1(x)))
        x = self.bn2(self.conv2(x))
        return relu(x + residual)


class Bottleneck(nnx.Module):
    """1x1 to `planes`, 3x3, 1x1 to four times `planes`; the block of stage 1."""

    EXPANSION = 4

    def __init__(self, in_channels: int, planes: int, *, rng: np.random.Generator):
        channels = planes * self.EXPANSION
        self.conv1 = Conv(in_channels, planes, kernel=1, rng=rng)
        self.bn1 = BatchNorm(planes)
        self.conv2 = Conv(planes, planes, kernel=3, rng=rng)
        self.bn2 = BatchNorm(planes)
        self.conv3 = Conv(planes, channels, kernel=1, rng=rng)
        self.bn3 = BatchNorm(channels)
        self.downsample = (
            None if in_channels == channels else ConvBN(in_channels, channels, kernel=1, rng=rng)
        )

    def __call__(self, x: Float[Array, "b h w i"]) -> Float[Array, "b h w c"]:
        residual = x if self.downsample is None else self.downsample(x)
        x = relu(self.bn1(self.conv1(x)))
        x = relu(self.bn2(self.conv2(x)))
        x = self.bn3(self.conv3(x))
        return relu(x + residual)
