"""The FCN head of the zoo, and the whole network."""

import functools

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from hrnet_jax.models.hrnet import Feature, HRNet, Variant
from hrnet_jax.models.layers import Conv, ConvBN, upsample
from hrnet_jax.ops.convolution import convolve


def _classifier_init(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Normal(0, 0.01), as the reference."""
    return rng.standard_normal(shape, np.float32) * np.float32(0.01)


class FCNHead(nnx.Module):
    """All branches at stride 4, concatenated, mixed by a 1x1 convolution, classified."""

    def __init__(self, channels: list[int], *, num_classes: int, rng: np.random.Generator):
        total = sum(channels)
        self.convs = nnx.List([ConvBN(total, total, kernel=1, rng=rng)])
        self.conv_seg = Conv(
            total, num_classes, kernel=1, bias=True, init=_classifier_init, rng=rng
        )

    def __call__(self, features: list[Feature]) -> Float[Array, "b h w k"]:
        x = self._mix_resized(features)
        return self.conv_seg(nnx.relu(self.convs[0].bn(x)))

    def _mix_resized(self, features: list[Feature]) -> Float[Array, "b h w c"]:
        """1x1 convolution of the branches concatenated at stride 4, without concatenating them.

        A 1x1 convolution commutes with bilinear resizing, so each branch meets its share of the
        kernel at its own resolution: an eighth of the arithmetic, no 15C-channel concatenation.
        """
        height, width = features[0].shape[1:3]
        kernel = jnp.asarray(self.convs[0].conv.kernel[...], features[0].dtype)
        first, terms = 0, []
        for branch, x in enumerate(features):
            share = kernel[:, :, first : first + x.shape[-1]]
            first += x.shape[-1]
            mixed = convolve(x, share, 1, ((0, 0), (0, 0)))
            terms.append(upsample(mixed, (height, width), factor=2**branch) if branch else mixed)
        return functools.reduce(jnp.add, terms)


class Segmentor(nnx.Module):
    """Backbone and head: an image to logits at a quarter of its size, rounded up.

    Enlarging the logits is left to the caller: training resizes them to the label's size,
    evaluation to the input's and then to the original image's.
    """

    def __init__(self, variant: Variant, *, num_classes: int, rng: np.random.Generator):
        self.backbone = HRNet(variant, rng=rng)
        self.decode_head = FCNHead(variant.channels(4), num_classes=num_classes, rng=rng)

    def __call__(self, image: Float[Array, "b h w 3"]) -> Float[Array, "b h4 w4 k"]:
        return self.decode_head(self.backbone(image))
