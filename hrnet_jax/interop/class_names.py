"""Names and colours of a network's classes: from its file, else from their number."""

import dataclasses
from typing import Any

from hrnet_jax.data.dataset import Color, voc_palette
from hrnet_jax.data.datasets import ade20k, cityscapes, pascal_context, voc12aug

# Number of classes -> dataset, classes and colours: the zoo has no number twice.
_KNOWN: dict[int, tuple[str, dict[str, Color]]] = {
    len(classes): (name, classes)
    for name, classes in (
        ("cityscapes", cityscapes.CLASSES),
        ("ade20k", ade20k.CLASSES),
        ("voc12aug", voc12aug.CLASSES),
        ("pascal_context", pascal_context.CLASSES_60),
        ("pascal_context_59", pascal_context.CLASSES_59),
    )
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClassNames:
    """Names and colours in the order of the logits."""

    dataset: str  # of the zoo, else "custom"
    names: tuple[str, ...]
    palette: tuple[Color, ...]
    origin: str  # for the report


def class_names(
    num_classes: int,
    *,
    names: tuple[str, ...] | None = None,  # from the network's file, if it has any
    palette: tuple[Color, ...] | None = None,  # from the file too
) -> ClassNames:
    """Return the names and colours of a network's classes."""
    dataset, known = _KNOWN.get(num_classes, ("custom", {}))
    default = tuple(known) or tuple(f"class {index}" for index in range(num_classes))
    if names is None:
        names, origin = default, "from their number"
    elif len(names) != num_classes:
        names, origin = default, f"from their number (the file names {len(names)})"
    elif _is_misordered_context(names):
        names = default
        origin = "from their number (the file has the order of the code of 2020, the logits do not)"
    else:
        origin = "from the file"
    if names != tuple(known):
        dataset = "custom"
    if palette is None or len(palette) != num_classes:
        palette = tuple(known.values()) if dataset != "custom" else voc_palette(num_classes)
    return ClassNames(dataset=dataset, names=names, palette=palette, origin=origin)


def _is_misordered_context(names: tuple[str, ...]) -> bool:
    """Whether these are the 60 classes with Pascal VOC's first, as in mmsegmentation 0.8."""
    voc_first = ("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car")
    return names[:8] == voc_first and sorted(names) == sorted(pascal_context.CLASSES_60)


def names_in(meta: Any) -> tuple[tuple[str, ...] | None, tuple[Color, ...] | None]:
    """Return the names and colours of the classes in a file's `meta`, if they are valid."""
    meta = meta if isinstance(meta, dict) else {}
    inner = meta.get("dataset_meta")
    inner = inner if isinstance(inner, dict) else {}
    names = inner.get("classes", inner.get("CLASSES", meta.get("CLASSES")))
    colors = inner.get("palette", inner.get("PALETTE", meta.get("PALETTE")))
    return _names(names), _colors(colors)


def _names(value: Any) -> tuple[str, ...] | None:
    if not isinstance(value, list | tuple) or not all(
        isinstance(name, str) and name.strip() and name.isprintable() and len(name) <= 100
        for name in value
    ):
        return None
    names = tuple(name.strip() for name in value)
    return names if names and len(set(names)) == len(names) else None


def _colors(value: Any) -> tuple[Color, ...] | None:
    if not isinstance(value, list | tuple):
        return None
    colors = [tuple(color) if isinstance(color, list | tuple) else () for color in value]
    if all(len(c) == 3 and all(type(v) is int and 0 <= v <= 255 for v in c) for c in colors):
        return tuple((c[0], c[1], c[2]) for c in colors)
    return None
