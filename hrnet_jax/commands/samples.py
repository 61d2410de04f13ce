"""What the network sees: augmented training samples as pictures, with what was drawn for each."""

import copy
from typing import Any, cast

import grain
import numpy as np
from ml_collections import ConfigDict
from PIL import Image as PILImage

from hrnet_jax.config.build_data import build_data
from hrnet_jax.data.dataset import Dataset
from hrnet_jax.data.photometric import PhotometricDistortion
from hrnet_jax.data.pipeline import train_stream
from hrnet_jax.data.transforms import (
    Channels,
    RandomFlip,
    RandomScaleCrop,
    Transform,
)
from hrnet_jax.data.types import IGNORE_LABEL, Example, Image, NormalizedImage
from hrnet_jax.evaluation.visualize import overlay, sheet, write_png
from hrnet_jax.runs.paths import AnyPath, make_folder
from hrnet_jax.runs.terminal import Terminal


def samples(config: ConfigDict, *, workdir: AnyPath, terminal: Terminal) -> list[AnyPath]:
    """Draw the first `config.log.pictures` samples of the training stream; returns the files.

    They are those that training begins with at step 0, pixel by pixel.
    """
    data = build_data(config, terminal=terminal)
    folder = workdir / "samples"
    make_folder(folder)
    transforms: list[Transform] = [
        Observed(transform) if isinstance(transform, grain.transforms.RandomMap) else transform
        for transform in data.transforms
    ]
    stream = train_stream(
        data.source,
        data.dataset,
        transforms=transforms,
        batch_size=data.batch_size,
        seed=data.seed,
        reference=data.reference,
        replace=data.quarantine,
    )
    paths = []
    count = config.log.pictures
    for position in terminal.track(range(count), "Drawing", total=count):
        path = folder / f"{position:03}.png"
        drawing = picture(
            stream[position], data.dataset, mean=config.data.mean, std=config.data.std
        )
        write_png(path, drawing)
        paths.append(path)
    terminal.line(f"{len(paths)} samples as the network sees them: {folder}")
    return paths


class Observed(grain.transforms.RandomMap):
    """A random transform that notes its draw in the example, and changes nothing else."""

    def __init__(self, transform: grain.transforms.RandomMap):
        self._transform = transform

    def random_map(self, example: Example, rng: np.random.Generator) -> Example:
        draws = example.get("draws", {}) | drawn(self._transform, example, copy.deepcopy(rng))
        changed = self._transform.random_map(example, rng)
        return cast(Example, {**changed, "draws": draws})


def drawn(transform: Transform, example: Example, rng: np.random.Generator) -> dict[str, Any]:
    """Draw as a transform would, and put it into words."""
    height, width = example["image"].shape[:2]
    match transform:
        case RandomScaleCrop():
            size, (rows, columns) = transform.draw(example["label"], rng)
            bottom, right = min(rows.stop, size[0]), min(columns.stop, size[1])
            return {
                "resized": f"{height}x{width} to {size[0]}x{size[1]} ({size[1] / width:.2f})",
                "window": f"y {rows.start}-{bottom}, x {columns.start}-{right}",
            }
        case RandomFlip():
            return {"flipped": "yes" if transform.draw(rng) else "no"}
        case PhotometricDistortion():
            return {
                name.replace("_", " "): f"{value:+d}" if name == "hue" else f"{value:.2f}"
                for name, value in transform.draw(rng).items()
                if value is not None
            }
    return {}


def picture(example: Example, dataset: Dataset, *, mean: Channels, std: Channels) -> PILImage.Image:
    """The image that the network gets, the same with its labels, and what was drawn."""
    image, label = restore(example["image"], mean=mean, std=std), example["label"]
    draws = ", ".join(f"{name} {value}" for name, value in example["draws"].items())
    ignored = float((label == IGNORE_LABEL).mean())
    return sheet(
        [
            (f"{example['id']}: {draws}", image),
            (
                f"labels; {ignored:.1%} of the pixels have none",
                overlay(image, label, dataset.palette),
            ),
        ],
        columns=2,
        legend=[
            (dataset.classes[c], dataset.palette[c]) for c in np.unique(label) if c != IGNORE_LABEL
        ],
    )


def restore(image: NormalizedImage, *, mean: Channels, std: Channels) -> Image:
    """Undo `normalize`: the exact bytes; the mean colour where `Pad` has added pixels."""
    return np.rint(image * np.asarray(std) + np.asarray(mean)).astype(np.uint8)
