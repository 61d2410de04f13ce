"""Transforms of examples: scale and crop, flip, photometric distortion, normalise, pad.

Every byte equals the reference (mmsegmentation 0.x on OpenCV), which the published runs used. A
random transform draws its parameters first, then calls a pure function with them.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import cast

import cv2
import grain
import numpy as np
from jaxtyping import Float32, Int, UInt8

from hrnet_jax.data.photometric import PhotometricDistortion
from hrnet_jax.data.types import IGNORE_LABEL, Example, Label

Size = tuple[int, int]  # (height, width)
Range = tuple[float, float]  # (low, high)
Channels = tuple[float, float, float]  # R, G, B
Window = tuple[slice, slice]  # (rows, columns)
WHOLE: Window = (slice(None), slice(None))
Transform = grain.transforms.Map | grain.transforms.RandomMap


# Transforms of uint8 images and their labels that a recipe may add to the published ones, by the
# names of config.train.augmentations. The zoo adds none.
AUGMENTATIONS: dict[str, Transform] = {}


def train_transforms(
    *,
    image_size: Size,
    crop_size: Size,
    ratio_range: Range,
    mean: Channels,
    std: Channels,
    augmentations: Sequence[str] = (),
) -> list[Transform]:
    """Return the training transforms, in the reference's order; added ones before normalising."""
    return [
        RandomScaleCrop(image_size=image_size, ratio_range=ratio_range, size=crop_size),
        RandomFlip(),
        PhotometricDistortion(),
        *(AUGMENTATIONS[name] for name in augmentations),
        Normalize(mean=mean, std=std),
        Pad(size=crop_size),
    ]


def fit_size(size: Size, *, within: Size) -> Size:
    """Return the largest size of the same aspect ratio that fits `within`, in either orientation.

    The long side is compared with the long one, the short side with the short one.
    """
    height, width = size
    scale = min(max(within) / max(size), min(within) / min(size))
    # At least one pixel, or a very thin image would vanish.
    return max(int(height * scale + 0.5), 1), max(int(width * scale + 0.5), 1)


def resize_image(
    image: UInt8[np.ndarray, "h w 3"], size: Size, *, window: Window = WHOLE
) -> UInt8[np.ndarray, "h2 w2 3"]:
    """Resize bilinearly without anti-aliasing, in OpenCV's 8-bit fixed-point arithmetic.

    Returns the `window` of the resized image; pixels below it and to its right are not computed.
    """
    factors = [new / old for new, old in zip(size, image.shape[:2], strict=True)]
    ends = [
        # A pixel needs two neighbours; a third keeps OpenCV's border rule away from them.
        min(int((part.indices(new)[1] + 0.5) / factor) + 2, old)
        for part, new, factor, old in zip(window, size, factors, image.shape[:2], strict=True)
    ]
    # Given factors, OpenCV computes positions from the upper left corner, so pixels after the
    # window can be cut off. Pixels before it cannot: positions are float32.
    y, x = factors
    resized = cv2.resize(image[: ends[0], : ends[1]], None, fx=x, fy=y)
    return resized[window]


def resize_label(
    label: UInt8[np.ndarray, "h w"], size: Size, *, window: Window = WHOLE
) -> UInt8[np.ndarray, "h2 w2"]:
    """Take the pixel at floor(i * n_in / n_out) as the reference does, not the nearest centre."""
    rows, columns = (
        nearest_positions(old, new)[part]
        for old, new, part in zip(label.shape, size, window, strict=True)
    )
    return label[rows].take(columns, axis=1)  # half the time of [:, columns]


def nearest_positions(old: int, new: int) -> Int[np.ndarray, " new"]:
    """Return for each of the `new` pixels the index of its source among the `old` ones."""
    # Where i * old / new is an integer, floor depends on the rounding of the quotient.
    positions = np.arange(new) * (1 / (new / old))  # OpenCV's order of divisions
    return np.minimum(positions.astype(np.intp), old - 1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ResizeViews(grain.transforms.Map):
    """Add the views of an evaluation: the image at several sizes."""

    sizes: Callable[[Size], list[Size]]  # size of the image -> sizes of its views

    def map(self, example: Example) -> Example:
        image = example["image"]
        views = [resize_image(image, size) for size in self.sizes(image.shape[:2])]
        return cast(Example, {**example, "views": views})


@dataclasses.dataclass(frozen=True, kw_only=True)
class RandomScaleCrop(grain.transforms.RandomMap):
    """Fit image and label within `image_size` times a random ratio, then crop a random window.

    Up to ten windows are tried until no class covers `max_class_share` of it. A side shorter than
    the window is kept; `Pad` fills it up later.
    """

    image_size: Size
    ratio_range: Range
    size: Size  # of the window
    max_class_share: float = 0.75  # of the pixels that are not ignored

    def random_map(self, example: Example, rng: np.random.Generator) -> Example:
        size, window = self.draw(example["label"], rng)
        return _replace(
            example,
            image=resize_image(example["image"], size, window=window),
            label=resize_label(example["label"], size, window=window),
        )

    def draw(self, label: Label, rng: np.random.Generator) -> tuple[Size, Window]:
        """Draw the size of the image, then windows of it until one is balanced."""
        size = self.draw_size(label.shape, rng)
        window = self.draw_window(size, rng)
        for _ in range(10):
            cropped = resize_label(label, size, window=window)
            if is_balanced(cropped, max_class_share=self.max_class_share):
                break
            window = self.draw_window(size, rng)
        return size, window  # after ten failures an eleventh, unchecked, as in the reference

    def draw_size(self, size: Size, rng: np.random.Generator) -> Size:
        low, high = self.ratio_range
        ratio = rng.random() * (high - low) + low
        height, width = self.image_size
        return fit_size(size, within=(int(height * ratio), int(width * ratio)))

    def draw_window(self, size: Size, rng: np.random.Generator) -> Window:
        height, width = self.size
        y = int(rng.integers(max(size[0] - height, 0), endpoint=True))
        x = int(rng.integers(max(size[1] - width, 0), endpoint=True))
        return slice(y, y + height), slice(x, x + width)


def is_balanced(label: Label, *, max_class_share: float) -> bool:
    """Whether at least two classes appear and none covers `max_class_share` or more."""
    counts = np.bincount(label.ravel(), minlength=256)[:IGNORE_LABEL]
    largest, total = int(np.max(counts)), int(np.sum(counts))
    return bool(np.count_nonzero(counts) > 1 and largest / total < max_class_share)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RandomFlip(grain.transforms.RandomMap):
    """Mirror left and right."""

    probability: float = 0.5

    def random_map(self, example: Example, rng: np.random.Generator) -> Example:
        if not self.draw(rng):
            return example
        return _replace(example, **{k: cv2.flip(example[k], 1) for k in ("image", "label")})

    def draw(self, rng: np.random.Generator) -> bool:
        return bool(rng.random() < self.probability)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Normalize(grain.transforms.Map):
    """Subtract the mean and divide by the standard deviation of each channel (0-255, RGB)."""

    mean: Channels
    std: Channels

    def map(self, example: Example) -> Example:
        return _replace(example, image=normalize(example["image"], mean=self.mean, std=self.std))


def normalize(
    image: UInt8[np.ndarray, "h w 3"], *, mean: Channels, std: Channels
) -> Float32[np.ndarray, "h w 3"]:
    """Compute (value - mean) * (1 / std), rounded where mmcv's `imnormalize` rounds."""
    # The reference stores its constants and the difference as float32, and multiplies in float64.
    centered = np.arange(256, dtype=np.float32)[:, None] - np.asarray(mean, np.float32)
    table = centered * (1 / np.asarray(std, np.float32).astype(np.float64))
    # Each channel has only 256 results: a table gives the same floats many times faster.
    return cv2.LUT(image, table.astype(np.float32)[None])


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pad(grain.transforms.Map):
    """Pad to `size` at the right and bottom: the image with 0, the label with 255.

    It follows `Normalize`, so that 0 is the mean colour.
    """

    size: Size

    def map(self, example: Example) -> Example:
        image = pad(example["image"], self.size, value=0)
        label = pad(example["label"], self.size, value=IGNORE_LABEL)
        return _replace(example, image=image, label=label)


def pad(pixels: np.ndarray, size: Size, *, value: int) -> np.ndarray:
    """Pad to `size` at the right and bottom."""
    bottom, right = size[0] - pixels.shape[0], size[1] - pixels.shape[1]
    if bottom == right == 0:
        return pixels
    assert min(bottom, right) >= 0, f"{pixels.shape[:2]} exceeds {size}: Pad must follow a crop"
    return cv2.copyMakeBorder(pixels, 0, bottom, 0, right, cv2.BORDER_CONSTANT, value=[value] * 3)


def _replace(example: Example, **arrays: np.ndarray) -> Example:
    return cast(Example, {**example, **arrays})
