"""Label maps as files: with a palette, or in the format of an official test server."""

from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import UInt8
from PIL import Image as PILImage

from hrnet_jax.data.dataset import Dataset
from hrnet_jax.data.types import IGNORE_LABEL, Example, Label
from hrnet_jax.evaluation.visualize import indexed, write_png
from hrnet_jax.runs.paths import AnyPath

Format = Literal["cityscapes", "ade20k"]


class Predictions:
    """Writes each label map as `<id>.png`, with the class indices and a palette."""

    def __init__(self, folder: AnyPath, dataset: Dataset):
        self._folder, self._palette = folder, dataset.palette

    def __call__(self, example: Example, predicted: Label) -> None:
        """Write the label map of one example."""
        _write(indexed(predicted, self._palette), self._folder, f"{example['id']}.png")


class Submission:
    """Writes label maps in the format of a test server, all into one folder.

    "cityscapes": raw label ids, in `<city>_<sequence>_<frame>_leftImg8bit.png`; "ade20k": class
    index + 1, in files named like the images.
    """

    def __init__(self, folder: AnyPath, dataset: Dataset, form: Format):
        self._folder, self._form = folder, form
        self._values = submitted_values(dataset, form)
        self._written: dict[str, str] = {}  # file -> id

    def __call__(self, example: Example, predicted: Label) -> None:
        """Write the label map of one example."""
        suffix = "_leftImg8bit" if self._form == "cityscapes" else ""
        name = f"{Path(example['id']).name}{suffix}.png"
        if name in self._written:
            raise ValueError(
                f"{self._written[name]} and {example['id']} would both become {name} in "
                f"{self._folder}: a submission is one folder. Rename one of the images."
            )
        self._written[name] = example["id"]
        _write(PILImage.fromarray(self._values[predicted]), self._folder, name)

    def stale_files(self) -> list[str]:
        """Return the files in the folder that this run did not write."""
        files = {path.name for path in self._folder.iterdir()} if self._folder.exists() else set()
        return sorted(files - set(self._written))


def submitted_values(dataset: Dataset, form: Format) -> UInt8[np.ndarray, "256"]:
    """Return the pixel value of each class in the files of a test server.

    Raises:
        ValueError: the dataset has other classes than the server.
    """
    table = np.zeros(256, np.uint8)
    if form == "ade20k":
        if dataset.num_classes != 150:
            raise ValueError(
                f"--submission=ade20k is for its 150 classes, but {dataset.name} has "
                f"{dataset.num_classes}; leave it out, or use the config of that dataset."
            )
        table[:150] = np.arange(1, 151)
        return table
    inverse = {index: raw for raw, index in dataset.label_map.items() if index != IGNORE_LABEL}
    if len(set(dataset.label_map)) != 34 or len(inverse) != 19:
        raise ValueError(
            f"--submission=cityscapes is for the 34 ids and 19 classes of its label files, but "
            f"{dataset.name} has {len(dataset.label_map)} and {len(inverse)}; leave it out, or use "
            "the config of that dataset."
        )
    table[list(inverse)] = list(inverse.values())
    return table


def _write(picture: PILImage.Image, folder: AnyPath, name: str) -> None:
    path = folder / name
    if folder.resolve() not in path.resolve().parents:  # names may come from an archive
        raise ValueError(f"{name} would lie outside of {folder}; rename that image.")
    write_png(path, picture)
