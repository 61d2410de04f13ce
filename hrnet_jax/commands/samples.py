"""Pictures of augmented training samples, captioned with the random draws of each."""

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
from hrnet_jax.data.transforms import Channels, RandomFlip, RandomScaleCrop, Transform
from hrnet_jax.data.types import IGNORE_LABEL, Example, Image, NormalizedImage
from hrnet_jax.evaluation.visualize import overlay, sheet, write_png
from hrnet_jax.runs.paths import AnyPath, make_folder
from hrnet_jax.runs.terminal import Terminal


def samples(config: ConfigDict, *, workdir: AnyPath, terminal: Terminal) -> list[AnyPath]:
    """Draw the first `config.log.pictures` samples of training exactly; return the files."""
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
    mean, std = config.data.mean, config.data.std
    paths = [folder / f"{position:03}.png" for position in range(config.log.pictures)]
    for position, path in enumerate(terminal.track(paths, "Drawing", total=len(paths))):
        write_png(path, picture(stream[position], data.dataset, mean=mean, std=std))
    terminal.line(f"{len(paths)} samples as the network sees them: {folder}")
    return paths


class Observed(grain.transforms.RandomMap):
    """A random transform that also records its draws in the example."""

    def __init__(self, transform: grain.transforms.RandomMap):
        self._transform = transform

    def random_map(self, example: Example, rng: np.random.Generator) -> Example:
        draws = example.get("draws", {}) | drawn(self._transform, example, copy.deepcopy(rng))
        changed = self._transform.random_map(example, rng)
        return cast(Example, {**changed, "draws": draws})


def drawn(transform: Transform, example: Example, rng: np.random.Generator) -> dict[str, Any]:
    """Repeat the draws of a transform, and describe them."""
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
    """Lay out the network's input, the same with its labels, and the draws."""
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
    """Undo `normalize` exactly; pixels that `Pad` added get the mean colour."""
    return np.rint(image * np.asarray(std) + np.asarray(mean)).astype(np.uint8)
