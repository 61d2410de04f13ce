"""HRNetV2p (Wang et al., 2020, section 3): parallel branches at strides 4, 8, 16 and 32.

Attributes are named as in the published checkpoints; `interop/keys.py` relies on that.
"""

import dataclasses
import functools
from collections.abc import Iterable
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from hrnet_jax.models.blocks import BasicBlock, Bottleneck
from hrnet_jax.models.layers import BatchNorm, Conv, ConvBN
from hrnet_jax.ops import relu, upsample

Feature = Float[Array, "b _h _w _c"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Variant:
    """The numbers in which the published HRNets differ."""

    width: int  # channels of the finest branch; branch b has 2**b times as many
    bottlenecks: int  # in stage 1
    modules: tuple[int, int, int]  # in stages 2, 3, 4
    blocks: int  # per branch of a module

    def channels(self, branches: int) -> list[int]:
        """Return the channels of each branch, finest first."""
        return [self.width * 2**branch for branch in range(branches)]

    def backbone(self, *, rng: np.random.Generator) -> nnx.Module:
        """Build the backbone; its features have `channels(4)` channels."""
        return HRNet(self, rng=rng)


class HRNet(nnx.Module):
    """The backbone: images to four features at strides 4, 8, 16 and 32.

    Training sets the attribute `remat` of this module and of every `HRModule`: "none", "block" (of
    each residual block, keep only the input for the backward pass) or "stage" (the same for the
    stem and each stage).
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
        run_stem: Any = nnx.remat(_run_stem) if self.remat == "stage" else _run_stem
        run: Any = nnx.remat(_run) if self.remat == "stage" else _run
        run_blocks = _run_rematted if self.remat == "block" else run
        x = run_stem(nnx.List([self.conv1, self.bn1, self.conv2, self.bn2]), image)
        x = run_blocks(self.layer1, x)
        same, down = self.transition1  # to the first branch, and to the second
        features = [relu(same(x)), relu(_downsample(down, x))]
        features = run(self.stage2, features)
        features.append(relu(_downsample(self.transition2[-1], features[-1])))
        features = run(self.stage3, features)
        features.append(relu(_downsample(self.transition3[-1], features[-1])))
        return run(self.stage4, features)


class HRModule(nnx.Module):
    """Residual blocks on each branch, then fusion across all branches (figure 3)."""

    def __init__(self, channels: list[int], *, blocks: int, rng: np.random.Generator):
        self.remat = "none"
        self.branches = nnx.List(
            nnx.List(BasicBlock(c, rng=rng) for _ in range(blocks)) for c in channels
        )
        indices = range(len(channels))
        self.fuse_layers = nnx.List(
            nnx.List(_fuse_layer(channels, source=j, target=i, rng=rng) for j in indices)
            for i in indices
        )

    def __call__(self, features: list[Feature]) -> list[Feature]:
        run = _run_rematted if self.remat == "block" else _run
        features = [run(blocks, x) for blocks, x in zip(self.branches, features, strict=True)]
        return [relu(self.fuse(target, features)) for target in range(len(features))]

    def fuse(self, target: int, features: list[Feature]) -> Feature:
        """Sum all branches at the resolution of branch `target`."""
        size = features[target].shape[1:3]
        terms = []
        for source, x in enumerate(features):
            layer: Any = self.fuse_layers[target][source]
            if source < target:
                x = _downsample(layer, x)
            elif source > target:
                x = upsample(layer(x), size, factor=2 ** (source - target), in_two_steps=True)
            terms.append(x)
        return functools.reduce(jnp.add, terms)


def _fuse_layer(
    channels: list[int], *, source: int, target: int, rng: np.random.Generator
) -> ConvBN | nnx.List | None:
    """Build the layer that brings branch `source` to the channels of branch `target`.

    If `target` is coarser, the layer brings it to that stride, too; else its result is upsampled.
    """
    if source == target:
        return None
    if source > target:
        return ConvBN(channels[source], channels[target], kernel=1, rng=rng)
    outputs = [channels[source]] * (target - source - 1) + [channels[target]]
    return nnx.List(ConvBN(channels[source], c, kernel=3, stride=2, rng=rng) for c in outputs)


def _stage(variant: Variant, *, branches: int, rng: np.random.Generator) -> nnx.List:
    channels = variant.channels(branches)
    modules = variant.modules[branches - 2]
    return nnx.List(HRModule(channels, blocks=variant.blocks, rng=rng) for _ in range(modules))


def _new_branch(variant: Variant, *, branches: int, rng: np.random.Generator) -> nnx.List:
    """Existing branches pass through (None); the new branch has half the coarsest resolution."""
    *_, source, target = variant.channels(branches)
    unit = ConvBN(source, target, kernel=3, stride=2, rng=rng)
    return nnx.List([None] * (branches - 1) + [nnx.List([unit])])


def _run_stem(modules: Iterable[Any], image: Float[Array, "b h w 3"]) -> Float[Array, "b h4 w4 c"]:
    conv1, bn1, conv2, bn2 = modules
    x = relu(bn1(conv1(image)))
    return relu(bn2(conv2(x)))


def _downsample(units: Any, x: Feature) -> Feature:
    """Apply stride-2 units with a ReLU between them, but none after the last."""
    for unit in units[:-1]:
        x = relu(unit(x))
    return units[-1](x)


def _run(modules: Iterable[Any], x: Any) -> Any:
    for module in modules:
        x = module(x)
    return x


def _run_rematted(blocks: Iterable[Any], x: Feature) -> Feature:
    """Run residual blocks; of each, keep only the input for the backward pass."""
    for block in blocks:
        x = nnx.remat(lambda block, x: block(x))(block, x)
    return x
