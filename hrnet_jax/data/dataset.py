"""The description of a dataset: class names, palette, label mapping, and file layout.

Facts only. `sources` finds the files, `decode` applies the label mapping.
"""

import dataclasses
from collections.abc import Mapping

import numpy as np
from jaxtyping import Bool, Int, UInt8

from hrnet_jax.data.types import IGNORE_LABEL

Color = tuple[int, int, int]  # RGB


@dataclasses.dataclass(frozen=True, kw_only=True)
class Part:
    """Two folders below the dataset's root: images and their labels, paired by relative path.

    `aachen/a_image.png` in `images` and `aachen/a_label.png` in `labels` are a pair, because they
    have the same stem `aachen/a` without the suffixes `_image.png` and `_label.png`.
    """

    images: str
    labels: str | None  # None: the images have no labels
    image_suffix: str
    label_suffix: str
    lists: tuple[str, ...] = ()  # files with one stem per line; by default all images, sorted
    exclude_lists: tuple[str, ...] = ()  # files with the stems to leave out
    fallback: "Part | None" = None  # read instead if the folder `labels` is missing

    def __post_init__(self):
        for field in ("image_suffix", "label_suffix"):
            if not getattr(self, field):
                raise ValueError(f"Part.{field} is empty; give a suffix, such as '.png'.")

    def or_unlabelled(self) -> "Part":
        """Return this part, without labels if their folder is missing."""
        return dataclasses.replace(self, fallback=dataclasses.replace(self, labels=None))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Dataset:
    """All that the program knows about one dataset."""

    name: str
    classes: tuple[str, ...]  # in the order of the logits
    palette: tuple[Color, ...]  # one per class
    label_map: Mapping[int, int]  # every legal raw value -> class index or 255
    splits: Mapping[str, tuple[Part, ...]]  # "train" and "val"
    test: tuple[Part, ...] = ()  # for evaluation only; may lack labels, see `Part.or_unlabelled`
    counts: Mapping[str, int] = dataclasses.field(default_factory=dict)  # of images; empty: unknown
    counts_are_official: bool = True  # False: any number of images is fine
    obtain: str  # where to get it, and the expected layout of the folder

    def __post_init__(self):
        _check_classes(self)
        _check_palette(self)
        _check_label_map(self)
        if not self.splits or not all(self.splits.values()):
            raise ValueError(f"Dataset {self.name!r} has a split without parts: {self.splits!r}.")
        if unknown := sorted(set(self.counts) - set(self.splits)):
            raise ValueError(
                f"Dataset {self.name!r} counts images of {unknown}, but its splits are"
                f" {sorted(self.splits)}."
            )

    @property
    def num_classes(self) -> int:
        """Number of classes, without the ignored label."""
        return len(self.classes)

    @property
    def class_values(self) -> dict[int, int]:
        """The class index of each raw value, without the ignored values."""
        return {raw: index for raw, index in self.label_map.items() if index != IGNORE_LABEL}

    def parts(self, split: str) -> tuple[Part, ...]:
        """Return the parts of a split; "test" is a split for evaluation only.

        Raises:
            ValueError: for a split that the dataset does not have.
        """
        known = {**self.splits, **({"test": self.test} if self.test else {})}
        if split not in known:
            raise ValueError(
                f"Dataset {self.name!r} has no split {split!r}; use one of {sorted(known)}."
            )
        return known[split]

    def lookup_table(self) -> tuple[UInt8[np.ndarray, "256"], Bool[np.ndarray, "256"]]:
        """Return the class index (or 255) of every raw value, and whether the value is legal."""
        raw = np.fromiter(self.label_map, dtype=np.uint8)
        table = np.full(256, IGNORE_LABEL, dtype=np.uint8)
        table[raw] = np.fromiter(self.label_map.values(), dtype=np.uint8)
        is_legal = np.zeros(256, dtype=bool)
        is_legal[raw] = True
        return table, is_legal


def _check_classes(dataset: Dataset) -> None:
    if not 1 <= dataset.num_classes <= IGNORE_LABEL:
        raise ValueError(
            f"Dataset {dataset.name!r} has {dataset.num_classes} classes; an 8-bit label can hold"
            f" 1 to {IGNORE_LABEL}."
        )
    if len(set(dataset.classes)) != dataset.num_classes:
        repeated = sorted({name for name in dataset.classes if dataset.classes.count(name) > 1})
        raise ValueError(f"Dataset {dataset.name!r} names a class twice: {repeated}.")


def _check_palette(dataset: Dataset) -> None:
    if len(dataset.palette) != dataset.num_classes:
        raise ValueError(
            f"Dataset {dataset.name!r} has {dataset.num_classes} classes but"
            f" {len(dataset.palette)} palette colours; give one RGB tuple per class."
        )
    for name, color in zip(dataset.classes, dataset.palette, strict=True):
        if len(color) != 3 or not all(0 <= value <= 255 for value in color):
            raise ValueError(
                f"Dataset {dataset.name!r}: the colour of {name!r} is {color};"
                " it must be three numbers from 0 to 255."
            )


def _check_label_map(dataset: Dataset) -> None:
    for raw, index in dataset.label_map.items():
        if not 0 <= raw <= 255:
            raise ValueError(
                f"Dataset {dataset.name!r}: label_map has the raw value {raw};"
                " label files hold 0 to 255."
            )
        if not 0 <= index < dataset.num_classes and index != IGNORE_LABEL:
            raise ValueError(
                f"Dataset {dataset.name!r}: label_map maps {raw} to {index}; allowed are 0 to"
                f" {dataset.num_classes - 1} and {IGNORE_LABEL} (ignored)."
            )
    if not dataset.class_values:
        raise ValueError(f"Dataset {dataset.name!r}: label_map maps no value to a class.")


def folder_dataset(
    *,
    classes: tuple[str, ...],  # in the order of the class indices
    images: str = "images/{split}",  # folder below the root
    labels: str = "labels/{split}",
    image_suffix: str = ".jpg",
    label_suffix: str = ".png",
    label_map: Mapping[int, int] | None = None,  # raw value -> class index or 255; default: itself
    palette: tuple[Color, ...] | None = None,  # default: the colours of Pascal VOC
    list_file: str | None = None,  # one stem per line; default: all files in the folder
    splits: tuple[str, ...] = ("train", "val"),  # the values of `{split}`
    name: str = "custom",
) -> Dataset:
    """Describe your own folders of images and label PNGs."""
    if label_map is None:
        label_map = {index: index for index in (*range(len(classes)), IGNORE_LABEL)}

    def part(split: str) -> Part:
        return Part(
            images=images.format(split=split),
            labels=labels.format(split=split),
            image_suffix=image_suffix,
            label_suffix=label_suffix,
            lists=(list_file.format(split=split),) if list_file else (),
        )

    return Dataset(
        name=name,
        classes=classes,
        palette=voc_palette(len(classes)) if palette is None else palette,
        label_map=label_map,
        splits={split: (part(split),) for split in splits},
        test=() if "test" in splits else (part("test").or_unlabelled(),),
        obtain=f"The folder must hold\n  {images}/**/*{image_suffix}\n"
        f"  {labels}/**/*{label_suffix}\n"
        + (f"  {list_file} (one name without suffix per line)\n" if list_file else "")
        + f"with {{split}} one of {', '.join(splits)}, and equal names up to the suffix.",
    )


def voc_palette(num_colors: int) -> tuple[Color, ...]:
    """Return the colour map of Pascal VOC: the bits of an index go to R, G and B in turn."""

    def channel(index: int, offset: int) -> int:
        return sum((index >> (3 * bit + offset) & 1) << (7 - bit) for bit in range(8))

    return tuple(
        (channel(index, 0), channel(index, 1), channel(index, 2)) for index in range(num_colors)
    )


def ranges(values: Int[np.ndarray, " n"]) -> str:
    """Format ascending integers as ranges: [0, 1, 2, 255] -> "0-2, 255"."""
    runs = np.split(values, np.flatnonzero(np.diff(values) > 1) + 1)
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else f"{run[0]}" for run in runs)
