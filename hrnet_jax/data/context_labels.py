"""Pascal Context's label PNGs, from the annotations of PASCAL in Detail (`trainval_merged.json`).

The file holds `images` with image_id, file_name, height, width and phase, and `annos_segmentation`
with image_id, category_id and a mask in COCO's run-length code. Masks are drawn in file order, as
in the public reader; a pixel without a mask is 0.
"""

import collections
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import Bool, UInt8

from hrnet_jax.data.datasets.pascal_context import DATASET
from hrnet_jax.runs.paths import make_folder, write_text

ANNOTATIONS = "trainval_merged.json"

# The ids of the 60 categories: a class index is the position of its id. 0 is the background.
CATEGORIES = (
    0, 2, 9, 18, 19, 22, 23, 25, 31, 33, 34, 44, 45, 46, 59, 65, 68, 72, 80, 85, 98, 104, 105, 113,
    115, 144, 158, 159, 162, 187, 189, 207, 220, 232, 258, 259, 260, 284, 295, 296, 308, 324, 326,
    347, 349, 354, 355, 360, 366, 368, 397, 415, 416, 420, 424, 427, 440, 445, 454, 458,
)  # fmt: skip
_CLASS_OF = {category: index for index, category in enumerate(CATEGORIES)}


class Annotations:
    """The images and masks of `trainval_merged.json`.

    Raises:
        ValueError: the file is not the one that PASCAL in Detail published.
    """

    def __init__(self, path: Path):
        try:
            content = json.loads(path.read_bytes())
            self.images: list[dict[str, Any]] = [
                image for image in content["images"] if image["phase"] in ("train", "val")
            ]
            self._masks = collections.defaultdict(list)
            for mask in content["annos_segmentation"]:
                self._masks[mask["image_id"]].append(mask)
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{path} is not the file of PASCAL in Detail, or is incomplete ({error!r});"
                " download it again."
            ) from error

    def label(self, image: dict[str, Any]) -> UInt8[np.ndarray, "h w"]:
        """Draw the label of one of `images`."""
        label = np.zeros((image["height"], image["width"]), np.uint8)
        for mask in self._masks[image["image_id"]]:
            if mask["category_id"] not in _CLASS_OF:
                raise ValueError(
                    f"{image['file_name']} has a mask of category {mask['category_id']}, which"
                    f" Pascal Context does not have; {ANNOTATIONS} is not the published file."
                )
            pixels = decode_runs(mask["segmentation"])
            if pixels.shape != label.shape:
                raise ValueError(
                    f"{image['file_name']} has the size {label.shape}, but one of its masks has"
                    f" {pixels.shape} (height, width); {ANNOTATIONS} is damaged."
                )
            label[pixels] = _CLASS_OF[mask["category_id"]]
        return label


def write_labels(
    root: Path,
    annotations: Annotations,
    *,
    track: Callable[[Iterable[dict]], Iterator[dict]] = iter,  # shows progress
) -> None:
    """Write label PNGs and list files where the dataset expects them, atomically."""
    part = DATASET.splits["train"][0]
    assert part.labels is not None
    final = root / part.labels
    partial = final.with_name(f".{final.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        for image in track(annotations.images):
            name = Path(image["file_name"]).stem + part.label_suffix
            _, data = cv2.imencode(".png", annotations.label(image))
            (partial / name).write_bytes(data.tobytes())
        for split, (split_part,) in DATASET.splits.items():
            names = [i["file_name"] for i in annotations.images if i["phase"] == split]
            make_folder((root / split_part.lists[0]).parent)
            stems = sorted(Path(name).stem for name in names)
            write_text(root / split_part.lists[0], "".join(f"{stem}\n" for stem in stems))
        os.rename(partial, final)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def decode_runs(mask: dict[str, Any]) -> Bool[np.ndarray, "h w"]:
    """Decode a COCO mask: the lengths of alternating runs of 0 and 1, column by column."""
    height, width = mask["size"]
    runs = mask["counts"]
    runs = _unpack(runs.encode()) if isinstance(runs, str) else runs
    if min(runs, default=0) < 0 or sum(runs) != height * width:
        raise ValueError(
            f"The runs of a mask add up to {sum(runs)}, not to {height} x {width}; the file is"
            " damaged."
        )
    return np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(width, height).T


def _unpack(text: bytes) -> list[int]:
    # Each character holds five bits, low ones first; a sixth bit says that more follow. The
    # highest bit is the sign. From the fourth number on, each is the difference from the number
    # two places before. (pycocotools does the same in C, but nothing else here needs it.)
    numbers: list[int] = []
    value, shift = 0, 0
    for character in text:
        bits = character - 48
        value |= (bits & 0x1F) << shift
        shift += 5
        if bits & 0x20:
            continue
        if bits & 0x10:
            value -= 1 << shift
        numbers.append(value + (numbers[-2] if len(numbers) > 2 else 0))
        value, shift = 0, 0
    return numbers
