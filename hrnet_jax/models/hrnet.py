"""HRNetV2p (Wang et al., 2020, section 3): parallel branches at strides 4, 8, 16 and 32.

Attribute names are those of the published checkpoints; `interop/keys.py` relies on it.
"""

import dataclasses
import functools
from collections.abc import Iterable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from hrnet_jax.models.blocks import BasicBlock, Bottleneck, recomputed
from hrnet_jax.models.layers import BatchNorm, Conv, ConvBN, relu_of_sum, upsample

Feature = Float[Array, "b _h _w _c"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Variant:
    """What distinguishes one published HRNet from another."""

    width: int  # channels of the finest branch; branch b has 2**b times as many
    bottlenecks: int  # in stage 1
    modules: tuple[int, int, int]  # in stages 2, 3, 4
    blocks: int  # per branch of a module

    def channels(self, branches: int) -> list[int]:
        """Channels of each branch, finest first."""
        return [self.width * 2**branch for branch in range(branches)]


VARIANTS = {
    "hr18s": Variant(width=18, bottlenecks=2, modules=(1, 3, 2), blocks=2),  # W18-Small (v2)
    "hr18": Variant(width=18, bottlenecks=4, modules=(1, 4, 3), blocks=4),
    "hr48": Variant(width=48, bottlenecks=4, modules=(1, 4, 3), blocks=4),
}


class HRModule(nnx.Module):
    """Residual blocks on every branch, then an exchange between all of them."""

    def __init__(self, channels: list[int], *, blocks: int, rng: np.random.Generator):
        self.branches = nnx.List(
            nnx.List(BasicBlock(c, rng=rng) for _ in range(blocks)) for c in channels
        )
        self.remat = "none"
        indices = range(len(channels))
        self.fuse_layers = nnx.List(
            nnx.List(_fuse_layer(channels, source=j, target=i, rng=rng) for j in indices)
            for i in indices
        )

    def __call__(self, features: list[Feature]) -> list[Feature]:
        outputs = []
        for branch, x in zip(self.branches, features, strict=True):
            outputs.append(_in_sequence(branch, x, recompute=self.remat == "block"))
        return [relu_of_sum(self.fuse(target, outputs)) for target in range(len(outputs))]

    def fuse(self, target: int, features: list[Feature]) -> Feature:
        """Sum every branch at the resolution of branch `target`."""
        height, width = features[target].shape[1:3]
        terms = []
        for source, x in enumerate(features):
            layer: Any = self.fuse_layers[target][source]
            if source < target:
                x = _chain(layer, x)
            elif source > target:
                size, factor = (height, width), 2 ** (source - target)
                x = upsample(layer(x), size, factor=factor, in_two_steps=True)
            terms.append(x)
        return functools.reduce(jnp.add, terms)


def _fuse_layer(
    channels: list[int], *, source: int, target: int, rng: np.random.Generator
) -> ConvBN | nnx.List | None:
    """What brings branch `source` to the channels (and, downwards, the stride) of `target`."""
    if source == target:
        return None
    if source > target:
        return ConvBN(channels[source], channels[target], kernel=1, rng=rng)
    outputs = [channels[source]] * (target - source - 1) + [channels[target]]
    return nnx.List(ConvBN(channels[source], c, kernel=3, stride=2, rng=rng) for c in outputs)


def _chain(units: Sequence[ConvBN], x: Feature) -> Feature:
    """Stride-2 units with a ReLU between them, none after the last: the sum comes first."""
    for unit in units[:-1]:
        x = nnx.relu(unit(x))
    return units[-1](x)


class HRNet(nnx.Module):
    """The backbone: an image to four features at strides 4, 8, 16, 32.

    Training sets `remat` of all modules that have it: "none", "block" (of each residual block only
    the input is kept for the backward pass) or "stage" (the same of the stem and of each stage).
    """

    def __init__(self, variant: Variant, *, rng: np.random.Generator):
        self.remat = "none"
        self.conv1 = Conv(3, 64, kernel=3, stride=2, rng=rng)
        self.bn1 = BatchNorm(64)
        self.conv2 = Conv(64, 64, kernel=3, stride=2, rng=rng)
        self.bn2 = BatchNorm(64)
        expanded = 64 * Bottleneck.EXPANSION
        self.layer1 = nnx.List(
            Bottleneck(64 if block == 0 else expanded, 64, rng=rng)
            for block in range(variant.bottlenecks)
        )
        first, second = variant.channels(2)
        self.transition1 = nnx.List(
            [
                ConvBN(expanded, first, kernel=3, rng=rng),
                nnx.List([ConvBN(expanded, second, kernel=3, stride=2, rng=rng)]),
            ]
        )
        self.stage2 = _stage(variant, branches=2, rng=rng)
        self.transition2 = _new_branch(variant, branches=3, rng=rng)
        self.stage3 = _stage(variant, branches=3, rng=rng)
        self.transition3 = _new_branch(variant, branches=4, rng=rng)
        self.stage4 = _stage(variant, branches=4, rng=rng)

    def __call__(self, image: Float[Array, "b h w 3"]) -> list[Feature]:
        stem = nnx.List([self.conv1, self.bn1, self.conv2, self.bn2])
        x = recomputed(_stem, stem, image) if self.remat == "stage" else _stem(stem, image)
        x = self._stage(self.layer1, x)
        same: Any = self.transition1[0]
        down: Any = self.transition1[1]
        features = [nnx.relu(same(x)), nnx.relu(_chain(down, x))]
        features = self._stage(self.stage2, features)
        features = [*features, nnx.relu(_chain(self.transition2[-1], features[-1]))]
        features = self._stage(self.stage3, features)
        features = [*features, nnx.relu(_chain(self.transition3[-1], features[-1]))]
        return self._stage(self.stage4, features)

    def _stage(self, modules: nnx.List, x: Any) -> Any:
        if self.remat == "stage":
            return recomputed(_in_sequence, modules, x)
        blocks = self.remat == "block" and modules is self.layer1
        return _in_sequence(modules, x, recompute=blocks)


def _stem(modules: Sequence[Any], image: Float[Array, "b h w 3"]) -> Float[Array, "b h4 w4 c"]:
    conv1, bn1, conv2, bn2 = modules
    x = nnx.relu(bn1(conv1(image)))
    return nnx.relu(bn2(conv2(x)))


def _in_sequence(modules: Iterable[nnx.Module], x: Any, *, recompute: bool = False) -> Any:
    for module in modules:
        x = recomputed(_call, module, x) if recompute else _call(module, x)
    return x


def _call(module: Any, x: Any) -> Any:
    return module(x)


def _stage(variant: Variant, *, branches: int, rng: np.random.Generator) -> nnx.List:
    channels = variant.channels(branches)
    modules = variant.modules[branches - 2]
    return nnx.List(HRModule(channels, blocks=variant.blocks, rng=rng) for _ in range(modules))


def _new_branch(variant: Variant, *, branches: int, rng: np.random.Generator) -> nnx.List:
    """The older branches pass through (None); the new one halves the coarsest of them."""
    *_, source, target = variant.channels(branches)
    unit = ConvBN(source, target, kernel=3, stride=2, rng=rng)
    return nnx.List([None] * (branches - 1) + [nnx.List([unit])])
