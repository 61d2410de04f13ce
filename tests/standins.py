"""Small drawn data in the layouts of the zoo's datasets: each class is a rectangle."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import scipy.io
from PIL import Image

from tests.data.datasets.test_cityscapes import TRAIN_ID_TO_ID

TRAIN, VAL = 16, 2  # images: one step of the largest batch, and more than one to validate on


def draw(dataset: str, root: Path) -> Path:
    """Write both splits of a dataset below `root`; return the value of config.data.root."""
    root = root / dataset
    for split, count in (("train", TRAIN), ("val", VAL)):
        LAYOUTS[dataset](root, split, count)
    return root


def cityscapes(root: Path, split: str, count: int) -> None:
    names = [f"ulm/ulm_{n:06}_000019" for n in range(count)]
    for name, (image, label) in zip(names, _scenes(19, size=(128, 256)), strict=False):
        _save(root / f"leftImg8bit/{split}/{name}_leftImg8bit.png", image)
        ids = np.array([*TRAIN_ID_TO_ID, 0], np.uint8)[np.minimum(label, 19)]
        _save(root / f"gtFine/{split}/{name}_gtFine_labelIds.png", ids)


def ade20k(root: Path, split: str, count: int) -> None:
    folder = {"train": "training", "val": "validation"}[split]
    names = [f"ADE_{split}_{n + 1:08}" for n in range(count)]
    for name, (image, label) in zip(names, _scenes(150, size=(96, 128)), strict=False):
        _save(root / f"images/{folder}/{name}.jpg", image)
        _save(root / f"annotations/{folder}/{name}.png", label + np.uint8(1))  # 255 becomes 0


def voc12aug(root: Path, split: str, count: int) -> None:
    """The masks of half of the training images are in the Semantic Boundaries Dataset."""
    names = _voc_names(split, count)
    for n, (name, (image, label)) in enumerate(zip(names, _scenes(21), strict=False)):
        _save(root / f"JPEGImages/{name}.jpg", image)
        if split == "val" or n < count // 2:
            _save(root / f"SegmentationClass/{name}.png", label, palette=True)
            continue
        path = root / f"benchmark_RELEASE/dataset/cls/{name}.mat"
        path.parent.mkdir(parents=True, exist_ok=True)
        segmentation = np.where(label == 255, 0, label)  # its masks have no border
        scipy.io.savemat(path, {"GTcls": {"Segmentation": segmentation}})
    own, others = (names[: count // 2], names[count // 2 :]) if split == "train" else (names, [])
    _list(root / f"ImageSets/Segmentation/{split}.txt", own)
    _list(root / f"benchmark_RELEASE/dataset/{split}.txt", others)


def pascal_context(root: Path, split: str, count: int) -> None:
    names = _voc_names(split, count)
    for name, (image, label) in zip(names, _scenes(60), strict=False):
        _save(root / f"JPEGImages/{name}.jpg", image)
        _save(root / f"SegmentationClassContext/{name}.png", np.where(label == 255, 0, label))
    _list(root / f"ImageSets/SegmentationContext/{split}.txt", names)


def custom(root: Path, *, num_classes: int) -> None:
    """A user's own folders, as configs/custom.py describes them."""
    for split, count in (("train", TRAIN), ("val", VAL)):
        for n, (image, label) in zip(range(count), _scenes(num_classes), strict=False):
            _save(root / f"images/{split}/{n}_{split}.jpg", image)
            _save(root / f"labels/{split}/{n}_{split}.png", label)


LAYOUTS: dict[str, Callable[[Path, str, int], None]] = {
    "cityscapes": cityscapes,
    "ade20k": ade20k,
    "voc12aug": voc12aug,
    "pascal_context": pascal_context,
    "pascal_context_59": pascal_context,
}


def _scenes(
    num_classes: int, *, size: tuple[int, int] = (90, 120)
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pictures [h w 3] and class indices [h w], some of them 255; no two are equal."""
    rng = np.random.default_rng(num_classes)
    colors = rng.integers(0, 256, (256, 3))
    (height, width), number = size, 0
    while True:
        label = np.full(size, number % num_classes, np.uint8)
        for kind in (*rng.integers(0, num_classes, 12), 255):
            y, x = rng.integers(0, height - 16), rng.integers(0, width - 16)
            label[y : y + rng.integers(8, 40), x : x + rng.integers(8, 40)] = kind
        noisy = colors[label] + rng.normal(0, 12, (*size, 3))
        yield np.clip(noisy, 0, 255).astype(np.uint8), label
        number += 1


def _voc_names(split: str, count: int) -> list[str]:
    return [f"{2008 + (split == 'val')}_{n:06}" for n in range(count)]


def _save(path: Path, pixels: np.ndarray, *, palette: bool = False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(pixels)
    if palette:
        image = image.convert("P")
        image.putpalette(list(range(256)) * 3)
    image.save(path)


def _list(path: Path, names: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{name}\n" for name in names))
