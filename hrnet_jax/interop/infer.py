"""Which network a file holds, inferred from its tensors."""

import statistics

from hrnet_jax.interop.class_names import ClassNames, class_names
from hrnet_jax.interop.read import Source
from hrnet_jax.models import VARIANTS
from hrnet_jax.models.hrnet import Variant

CLASSIFIER = ("decode_head.conv_seg.weight", "decode_head.conv_seg.bias")
_WIDTH = (  # tensors whose first axis is the width
    "backbone.transition1.0.0.weight",
    "backbone.stage2.0.branches.0.0.conv1.weight",
    "backbone.stage3.0.branches.0.0.conv1.weight",
    "backbone.stage4.0.branches.0.0.conv1.weight",
)


def variant_of(source: Source) -> str:
    """Infer the variant from the widths and the numbers of modules and blocks.

    Raises:
        ValueError: if the network is an HRNet of another width.
    """
    found = _measured(source)
    scores = {
        name: _agreement(variant, found)
        for name, variant in VARIANTS.items()
        if variant.width == found.width
    }
    if not scores:
        known = ", ".join(f"{name} (width {v.width})" for name, v in VARIANTS.items())
        raise ValueError(
            f"{source.path} is an HRNet of width {found.width}; there are {known}. "
            "timm's hrnet_w18_small and the official W18-Small-v1 are narrower than W18-Small "
            "here: use hrnet_w18_small_v2."
        )
    return max(scores, key=scores.__getitem__)


def num_classes_of(source: Source) -> int | None:
    """The number of classes of the head; None for a backbone."""
    found = [source.tensors[key] for key in CLASSIFIER if key in source.tensors]
    return next((tensor.shape[0] for tensor in found if tensor.ndim), None)


def classes_of(source: Source) -> ClassNames | None:
    """The names and colours of the head's classes; None for a backbone."""
    count = num_classes_of(source)
    return class_names(count, names=source.classes, palette=source.palette) if count else None


def check_classes(source: Source, classes: tuple[str, ...]) -> None:
    """Refuse a head with other classes. A file that names none must have as many.

    Raises:
        ValueError: if the classes differ; says what to do instead.
    """
    theirs = classes_of(source)
    if theirs is None or theirs.names == classes:
        return
    if source.classes is None and len(theirs.names) == len(classes):
        return
    raise ValueError(
        f"{source.path} has the classes {summarize(theirs.names)}, expected are "
        f"{summarize(classes)}. Use the head policy (--head, --config.init_head) match to keep "
        "those of equal names, or new to keep the backbone only."
    )


def summarize(names: tuple[str, ...]) -> str:
    """Shorten names to their number and the first three: "19 (road, sidewalk, building, ...)"."""
    return f"{len(names)} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"


def check_network(
    source: Source, *, variant: str | None = None, num_classes: int | None = None
) -> None:
    """Refuse a file of another network than the expected one, and say what it looks like.

    Raises:
        ValueError: for another variant, or another number of classes if one is given.
    """
    found, count = variant_of(source), num_classes_of(source)
    other_count = num_classes is not None and count is not None and num_classes != count
    if (variant is None or variant == found) and not other_count:
        return
    seen = f"{found} with {count} classes" if count else f"an ImageNet backbone of {found}"
    asked = variant or found
    asked += f" with {num_classes}" if num_classes is not None and count else ""
    raise ValueError(f"{source.path} looks like {seen}, not {asked}.")


def _measured(source: Source) -> Variant:
    """The numbers that distinguish the variants, as far as the tensors show them."""

    def members(prefix: str) -> int:
        depth = prefix.count(".")
        return len({k.split(".")[depth] for k in source.tensors if k.startswith(prefix)})

    found = [source.tensors[key] for key in _WIDTH if key in source.tensors]
    widths = [tensor.shape[0] for tensor in found if tensor.ndim]
    return Variant(
        width=statistics.mode(widths or [0]),
        bottlenecks=members("backbone.layer1."),
        modules=(
            members("backbone.stage2."),
            members("backbone.stage3."),
            members("backbone.stage4."),
        ),
        blocks=members("backbone.stage3.0.branches.0."),
    )


def _agreement(a: Variant, b: Variant) -> int:
    pairs = zip(
        (a.bottlenecks, a.blocks, *a.modules), (b.bottlenecks, b.blocks, *b.modules), strict=True
    )
    return sum(x == y for x, y in pairs)
