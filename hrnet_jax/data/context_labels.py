"""Pascal Context's label PNGs, from the annotations of PASCAL in Detail (`trainval_merged.json`).

The file holds `images` with image_id, file_name, height, width and phase, and `annos_segmentation`
with image_id, category_id and a mask in COCO's run-length code. Masks are drawn in the order of the
file, as its public reader does; a pixel without a mask is 0.
"""

import collections
import contextlib
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

# The ids of the 60 categories, ascending: the class is the index of its id. 0 is the background.
CATEGORIES = (
    0, 2, 9, 18, 19, 22, 23, 25, 31, 33, 34, 44, 45, 46, 59, 65, 68, 72, 80, 85, 98, 104, 105, 113,
    115, 144, 158, 159, 162, 187, 189, 207, 220, 232, 258, 259, 260, 284, 295, 296, 308, 324, 326,
    347, 349, 354, 355, 360, 366, 368, 397, 415, 416, 420, 424, 427, 440, 445, 454, 458,
)  # fmt: skip
_CLASS_OF = {category: index for index, category in enumerate(CATEGORIES)}


class Annotations:
    """The part of `trainval_merged.json` that is needed for labels, by image."""

    def __init__(self, path: Path):
        """Read the file.

        Raises:
            ValueError: it is not the file that PASCAL in Detail published.
        """
        try:
            content = json.loads(path.read_bytes())
            self.images: list[dict[str, Any]] = [
                image for image in content["images"] if image["phase"] in ("train", "val")
            ]
            self._drawn = collections.defaultdict(list)
            for drawn in content["annos_segmentation"]:
                self._drawn[drawn["image_id"]].append(drawn)
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{path} is not the file of PASCAL in Detail, or a part of it ({error!r});"
                " download it again."
            ) from error

    def label(self, image: dict[str, Any]) -> UInt8[np.ndarray, "h w"]:
        """Draw the label of one of `images`."""
        label = np.zeros((image["height"], image["width"]), np.uint8)
        for drawn in self._drawn[image["image_id"]]:
            if drawn["category_id"] not in _CLASS_OF:
                raise ValueError(
                    f"{image['file_name']} has a mask of category {drawn['category_id']}, which"
                    f" Pascal Context does not have; {ANNOTATIONS} is not the published file."
                )
            mask = decode_runs(drawn["segmentation"])
            if mask.shape != label.shape:
                raise ValueError(
                    f"{image['file_name']} is {label.shape}, but a mask of it {mask.shape} (height,"
                    f" width); {ANNOTATIONS} is damaged."
                )
            label[mask] = _CLASS_OF[drawn["category_id"]]
        return label


def write_labels(
    root: Path,
    annotations: Annotations,
    *,
    track: Callable[[Iterable[dict]], Iterator[dict]] = iter,  # shows progress
) -> None:
    """Write label PNGs and lists to where the dataset looks for them, the folder at the end."""
    part = DATASET.splits["train"][0]
    assert part.labels is not None
    final = root / part.labels
    partial = final.with_name(f".{final.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, partial, ignore_errors=True)
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


def decode_runs(mask: dict[str, Any]) -> Bool[np.ndarray, "h w"]:
    """Decode a mask of COCO: the lengths of alternating runs of 0 and 1, column after column."""
    height, width = mask["size"]
    runs = mask["counts"]
    runs = _unpack(runs.encode()) if isinstance(runs, str) else runs
    if min(runs, default=0) < 0 or sum(runs) != height * width:
        raise ValueError(
            f"The runs of a mask sum up to {sum(runs)}, not to {height} x {width}; the file is"
            " damaged."
        )
    is_drawn = np.arange(len(runs)) % 2 == 1
    return np.repeat(is_drawn, runs).reshape(width, height).T


def _unpack(text: bytes) -> list[int]:
    # Each character has five bits, the low ones first; a sixth bit says that more follow. The
    # highest bit is a sign. From the fourth number on, each is the difference to the one before
    # the last. (pycocotools does the same in C, but nothing else here needs it.)
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
