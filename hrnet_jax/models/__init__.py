"""The networks of the zoo: backbones and heads, under the names that recipes use."""

from collections.abc import Callable

import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from hrnet_jax.models.heads.fcn import FCNHead
from hrnet_jax.models.hrnet import Variant

VARIANTS: dict[str, Variant] = {
    "hr18s": Variant(width=18, bottlenecks=2, modules=(1, 3, 2), blocks=2),  # W18-Small (v2)
    "hr18": Variant(width=18, bottlenecks=4, modules=(1, 4, 3), blocks=4),
    "hr48": Variant(width=48, bottlenecks=4, modules=(1, 4, 3), blocks=4),
}

# (channels of the features, num_classes=, rng=) -> module from features to logits
HEADS: dict[str, Callable[..., nnx.Module]] = {
    "fcn": FCNHead,
}


class Segmentor(nnx.Module):
    """Backbone and head: images to logits at a quarter of their size, rounded up.

    The caller resizes the logits: training to the size of the label, evaluation to the size of the
    input and then to the size of the original image.
    """

    def __init__(self, backbone: nnx.Module, head: nnx.Module):
        self.backbone = backbone
        self.decode_head = head

    def __call__(self, image: Float[Array, "b h w 3"]) -> Float[Array, "b h4 w4 k"]:
        return self.decode_head(self.backbone(image))


def build(variant: str, *, num_classes: int, head: str = "fcn", seed: int = 0) -> Segmentor:
    """Build a network with fresh weights, in evaluation mode.

    Args:
        variant: a key of `VARIANTS`.
        num_classes: channels of the logits.
        head: a key of `HEADS`.
        seed: of the initial weights.

    Raises:
        ValueError: unknown variant or head; the message lists the known ones.
    """
    if variant not in VARIANTS:
        raise ValueError(f"There is no variant {variant!r}; use one of {', '.join(VARIANTS)}.")
    if head not in HEADS:
        raise ValueError(
            f"There is no head {head!r}; use one of {', '.join(HEADS)}. One of your own is known "
            "once the file that adds it was imported, such as the recipe that --config names."
        )
    rng = np.random.default_rng(seed)
    shape = VARIANTS[variant]
    backbone = shape.backbone(rng=rng)
    return Segmentor(backbone, HEADS[head](shape.channels(4), num_classes=num_classes, rng=rng))


def split(model: nnx.Module) -> tuple[nnx.GraphDef, dict, dict]:
    """Split a model into its structure, parameters and batch statistics; `merge` is the inverse.

    Jitted functions take the two trees as arguments and merge them with the structure.
    """
    # mypy cannot follow the overload of nnx.split that returns one state per filter.
    structure, params, batch_stats = nnx.split(model, nnx.Param, nnx.BatchStat)  # type: ignore[misc]
    return structure, nnx.to_pure_dict(params), nnx.to_pure_dict(batch_stats)


def merge(structure: nnx.GraphDef, params: dict, batch_stats: dict) -> nnx.Module:
    """Build the model from the results of `split`."""
    return nnx.merge(structure, params, batch_stats)
