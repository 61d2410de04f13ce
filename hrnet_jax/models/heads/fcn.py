"""The FCN head of the zoo."""

import functools

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from hrnet_jax.models.hrnet import Feature
from hrnet_jax.models.layers import Conv, ConvBN
from hrnet_jax.ops import conv, relu, upsample


def classifier_init(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Draw a kernel from Normal(0, 0.01), as the original."""
    return rng.standard_normal(shape, np.float32) * np.float32(0.01)


class FCNHead(nnx.Module):
    """Concatenate all branches at stride 4, mix them by a 1x1 convolution, classify each pixel."""

    def __init__(self, channels: list[int], *, num_classes: int, rng: np.random.Generator):
        total = sum(channels)
        self.convs = nnx.List([ConvBN(total, total, kernel=1, rng=rng)])
        self.conv_seg = Conv(total, num_classes, kernel=1, bias=True, init=classifier_init, rng=rng)

    def __call__(self, features: list[Feature]) -> Float[Array, "b h w k"]:
        x = self._concat_and_mix(features)
        return self.conv_seg(relu(self.convs[0].bn(x)))

    def _concat_and_mix(self, features: list[Feature]) -> Float[Array, "b h w c"]:
        """Compute the 1x1 convolution of the concatenated branches without concatenating them.

        A 1x1 convolution commutes with bilinear resizing, so each branch is convolved with its
        slice of the kernel at its own resolution. That takes an eighth of the arithmetic.
        """
        unit, size = self.convs[0].conv, features[0].shape[1:3]
        weights = jnp.asarray(unit.kernel[...], features[0].dtype)
        first, terms = 0, []
        for branch, x in enumerate(features):
            last = first + x.shape[-1]
            mixed = conv(x, weights[:, :, first:last], stride=1, padding=unit.padding)
            terms.append(upsample(mixed, size, factor=2**branch) if branch else mixed)
            first = last
        return functools.reduce(jnp.add, terms)
