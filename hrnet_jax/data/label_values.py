"""Guess from the values in all labels whether they are the right files.

Every pixel of a label can be legal and the file still be wrong, for example with class indices
where the dataset maps raw ids. The text of a finding says why.
"""

import math

import numpy as np
from jaxtyping import Int64

from hrnet_jax.data.dataset import Dataset
from hrnet_jax.data.findings import Finding
from hrnet_jax.data.types import IGNORE_LABEL


def suspicions(
    dataset: Dataset, pixels: Int64[np.ndarray, "256"], *, num_labels: int
) -> list[Finding]:
    """Guess from the pixel count of each raw value in `num_labels` labels what the files are.

    Returns at most one finding, because the first one explains the others.
    """
    present = set(np.flatnonzero(pixels).tolist())
    if not present:
        return []
    expects_indices = all(raw == index for raw, index in dataset.class_values.items())
    guess = _guess_numbering if expects_indices else _guess_indices
    result = _guess_picture(dataset, present, num_labels=num_labels) or guess(dataset, present)
    if result is None:
        return []
    problem, suggestion = result
    return [Finding(kind="meaning", split="all splits", problem=problem, suggestion=suggestion)]


def _guess_picture(
    dataset: Dataset, present: set[int], *, num_labels: int
) -> tuple[str, str] | None:
    """Recognise labels whose values are no classes, but grey levels or one single value."""
    count = dataset.num_classes
    step = math.gcd(*present)
    if present == {0, 255} and count > 1 and 255 not in dataset.class_values:
        return (
            "the labels hold 0 and 255 only: binary masks?",
            "Map 255 to class 1 in the label map ({0: 0, 255: 1}), or save them with 0 and 1.",
        )
    if len(present) == 1 and num_labels > 2 and count > 1:
        return (
            f"every pixel of every label is {max(present)}",
            "Are these the right label files?",
        )
    if (
        present - set(dataset.label_map)
        and len(present) > 2
        and step >= 5
        and max(present) // step < max(count, 256 // step)
    ):
        return (
            f"all label values are multiples of {step}: scaled for viewing?",
            f"Divide each value by {step} in the label map, or use the files with class values.",
        )
    return None


def _guess_numbering(dataset: Dataset, present: set[int]) -> tuple[str, str] | None:
    """Recognise another numbering of the classes where class indices are expected."""
    count = dataset.num_classes
    illegal = present - set(dataset.label_map)
    values = present - {IGNORE_LABEL}
    if count == 19 and values <= set(range(34)) and len(illegal) > 1:
        return (
            f"the labels hold values up to {max(values)} where 19 classes are expected:"
            " they look like Cityscapes' labelIds",
            "Use --config.data.name=cityscapes, which reads labelIds, or *_labelTrainIds.png.",
        )
    if illegal == {count} and 0 in present:
        known = {59: "Pascal Context's 60 classes", 150: "ADE20K's files"}.get(count, "ADE20K")
        return (
            f"the labels hold 0 to {count}, one value more than there are classes: they look like"
            f" classes counted from 1, with 0 for unlabelled or background (as in {known})",
            "Map 0 to 255 and subtract 1 from all other values, or add a class for 0 at the front.",
        )
    if count == 150 and 0 in present and IGNORE_LABEL not in present:
        return (
            "the labels of 150 classes never hold 255: they look like ADE20K's own files, where 0"
            " means unlabelled and classes count from 1",
            "Map 0 to 255 and subtract 1 from all other values.",
        )
    if (
        count == 60
        and dataset.classes[0] == "background"
        and IGNORE_LABEL in present
        and 59 not in present
    ):
        return (
            "the labels hold 255 and never 59: they look like Pascal Context's 59 classes, without"
            " background",
            "Use the dataset with 59 classes, or the files with 60.",
        )
    return None


def _guess_indices(dataset: Dataset, present: set[int]) -> tuple[str, str] | None:
    """Recognise class indices where raw values are expected."""
    count = dataset.num_classes
    values = present - {IGNORE_LABEL}
    large = {raw for raw in dataset.class_values if raw >= count}
    if len(large) >= 3 and values and max(values) < count:
        return (
            f"no label holds a value above {count - 1}, although {len(large)} classes have such"
            " raw values: they look like class indices (for Cityscapes: trainIds)",
            f"Use the files with raw ids, which {dataset.name!r} maps itself.",
        )
    if present - set(dataset.label_map) == {IGNORE_LABEL} and max(values, default=0) < count:
        return (
            "the labels hold 255 and no value above the last class index: they look already mapped"
            " (reduce_zero_label)",
            f"Use the original files, which {dataset.name!r} maps itself.",
        )
    return None
