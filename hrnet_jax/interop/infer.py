"""Infer the network of a weight file from its tensors."""

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
    measured = _measure(source)
    scores = {
        name: _agreement(variant, measured)
        for name, variant in VARIANTS.items()
        if variant.width == measured.width
    }
    if not scores:
        known = ", ".join(f"{name} (width {v.width})" for name, v in VARIANTS.items())
        raise ValueError(
            f"{source.path} is an HRNet of width {measured.width}; known are {known}. "
            "timm's hrnet_w18_small and the official W18-Small-v1 are narrower than W18-Small "
            "here: use hrnet_w18_small_v2."
        )
    return max(scores, key=scores.__getitem__)


def num_classes_of(source: Source) -> int | None:
    """Return the number of classes of the head; None for a backbone."""
    tensors = (source.tensors[key] for key in CLASSIFIER if key in source.tensors)
    return next((tensor.shape[0] for tensor in tensors if tensor.ndim), None)


def classes_of(source: Source) -> ClassNames | None:
    """Return the names and colours of the head's classes; None for a backbone."""
    count = num_classes_of(source)
    return class_names(count, names=source.classes, palette=source.palette) if count else None


def check_classes(source: Source, classes: tuple[str, ...]) -> None:
    """Refuse a head with other classes; if the file names none, with another number of classes.

    Raises:
        ValueError: if the classes differ; the message says what to do instead.
    """
    theirs = classes_of(source)
    if theirs is None or theirs.names == classes:
        return
    if source.classes is None and len(theirs.names) == len(classes):
        return
    raise ValueError(
        f"{source.path} has the classes {summarize(theirs.names)}, expected are "
        f"{summarize(classes)}. Set the head policy (--head, --config.init_head) to match to keep "
        "the classes of equal names, or to new to keep only the backbone."
    )


def summarize(names: tuple[str, ...]) -> str:
    """Shorten names to their count and the first three: "19 (road, sidewalk, building, ...)"."""
    return f"{len(names)} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"


def check_network(
    source: Source, *, variant: str | None = None, num_classes: int | None = None
) -> None:
    """Refuse a file of another network than the expected one.

    Raises:
        ValueError: for another variant, or another number of classes if one is given.
    """
    actual, count = variant_of(source), num_classes_of(source)
    other_count = num_classes is not None and count is not None and num_classes != count
    if variant in (None, actual) and not other_count:
        return
    seen = f"{actual} with {count} classes" if count else f"an ImageNet backbone of {actual}"
    expected = variant or actual
    expected += f" with {num_classes}" if num_classes is not None and count else ""
    raise ValueError(f"{source.path} looks like {seen}, not {expected}.")


def _measure(source: Source) -> Variant:
    """Read the numbers that distinguish the variants off the tensors."""

    def members(prefix: str) -> int:
        depth = prefix.count(".")
        return len({k.split(".")[depth] for k in source.tensors if k.startswith(prefix)})

    tensors = [source.tensors[key] for key in _WIDTH if key in source.tensors]
    widths = [tensor.shape[0] for tensor in tensors if tensor.ndim]
    stage2, stage3, stage4 = (members(f"backbone.stage{number}.") for number in (2, 3, 4))
    return Variant(
        width=statistics.mode(widths or [0]),
        bottlenecks=members("backbone.layer1."),
        modules=(stage2, stage3, stage4),
        blocks=members("backbone.stage3.0.branches.0."),
    )


def _agreement(a: Variant, b: Variant) -> int:
    numbers = [(v.bottlenecks, v.blocks, *v.modules) for v in (a, b)]
    return sum(x == y for x, y in zip(*numbers, strict=True))
