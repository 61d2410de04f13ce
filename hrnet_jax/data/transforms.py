"""Transforms of examples: scale and crop, flip, photometric distortion, normalise, pad.

Every byte follows the reference (mmsegmentation 0.x on OpenCV), whose numbers the zoo published.
A random transform draws its parameters first, then calls a pure function with them.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, cast

import cv2
import grain
import numpy as np
from jaxtyping import Float32, Int, UInt8

from hrnet_jax.data.types import IGNORE_LABEL, Example, Image, Label

Size = tuple[int, int]  # (height, width)
Range = tuple[float, float]  # (low, high)
Channels = tuple[float, float, float]  # R, G, B
Window = tuple[slice, slice]  # (rows, columns)
WHOLE: Window = (slice(None), slice(None))
Transform = grain.transforms.Map | grain.transforms.RandomMap


def train_transforms(
    *, image_size: Size, crop_size: Size, ratio_range: Range, mean: Channels, std: Channels
) -> list[Transform]:
    """Return the training transforms, in the reference's order."""
    return [
        RandomScaleCrop(image_size=image_size, ratio_range=ratio_range, size=crop_size),
        RandomFlip(),
        PhotometricDistortion(),
        Normalize(mean=mean, std=std),
        Pad(size=crop_size),
    ]


def fit_size(size: Size, *, within: Size) -> Size:
    """Largest size of the same shape whose long and short side fit those of `within`.

    The rule ignores orientation: a portrait image gets the limits of a landscape one.
    """
    height, width = size
    scale = min(max(within) / max(size), min(within) / min(size))
    # At least one pixel: a line-shaped image may not vanish.
    return max(int(height * scale + 0.5), 1), max(int(width * scale + 0.5), 1)


def resize_image(
    image: UInt8[np.ndarray, "h w 3"], size: Size, *, window: Window = WHOLE
) -> UInt8[np.ndarray, "h2 w2 3"]:
    """Resize bilinearly without anti-aliasing, in OpenCV's 8-bit fixed-point arithmetic.

    Returns what `window` cuts from the resized image, without computing the rest of it.
    """
    factors = [new / old for new, old in zip(size, image.shape[:2], strict=True)]
    ends = [
        # A pixel looks at two neighbours; one more keeps the border's rule away from them.
        min(int((part.indices(new)[1] + 0.5) / factor) + 2, old)
        for part, new, factor, old in zip(window, size, factors, image.shape[:2], strict=True)
    ]
    # Given the factors, OpenCV computes every position from the upper left corner, so that what
    # lies behind the window may be left out. A part before it may not: positions are float32.
    y, x = factors
    resized = cv2.resize(image[: ends[0], : ends[1]], None, fx=x, fy=y)
    return resized[window]


def resize_label(
    label: UInt8[np.ndarray, "h w"], size: Size, *, window: Window = WHOLE
) -> UInt8[np.ndarray, "h2 w2"]:
    """Take the pixel at floor(i * n_in / n_out): not the nearest centre, but the reference."""
    rows, columns = (
        nearest_positions(old, new)[part]
        for old, new, part in zip(label.shape, size, window, strict=True)
    )
    return label[rows].take(columns, axis=1)  # half the time of [:, columns]


def nearest_positions(old: int, new: int) -> Int[np.ndarray, " new"]:
    """Which of `old` pixels each of `new` takes; where i * old / new is whole, floor feels how."""
    positions = np.arange(new) * (1 / (new / old))  # as OpenCV divides
    return np.minimum(positions.astype(np.intp), old - 1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ResizeViews(grain.transforms.Map):
    """Add the views of an evaluation: the image at each of the sizes that belong to its own."""

    sizes: Callable[[Size], list[Size]]

    def map(self, example: Example) -> Example:
        image = example["image"]
        views = [resize_image(image, size) for size in self.sizes(image.shape[:2])]
        return cast(Example, {**example, "views": views})


@dataclasses.dataclass(frozen=True, kw_only=True)
class RandomScaleCrop(grain.transforms.RandomMap):
    """Fit image and label within `image_size` times a random ratio, then crop a random window.

    No class covers `max_class_share` of the window, if ten tries find such a one. A side shorter
    than the window is kept whole; `Pad` completes it later.
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
        """Draw the size of the whole, then windows of it until one is balanced."""
        size = self.draw_size(label.shape, rng)
        window = self.draw_window(size, rng)
        for _ in range(10):
            cropped = resize_label(label, size, window=window)
            if is_balanced(cropped, max_class_share=self.max_class_share):
                break
            window = self.draw_window(size, rng)
        return size, window  # after ten failures the eleventh, untested, as in the reference

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
    return bool(np.count_nonzero(counts) > 1 and np.max(counts / counts.sum()) < max_class_share)


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
class PhotometricDistortion(grain.transforms.RandomMap):
    """Change brightness, contrast, saturation and hue, each with probability one half (SSD).

    Contrast comes either before or after saturation and hue, as a fair coin decides.
    """

    brightness: float = 32.0  # added, from -32 to 32
    contrast: Range = (0.5, 1.5)  # factor
    saturation: Range = (0.5, 1.5)  # factor
    hue: int = 18  # added, from -18 to 17: the reference excludes the upper end

    def random_map(self, example: Example, rng: np.random.Generator) -> Example:
        return _replace(example, image=distort(example["image"], **self.draw(rng)))

    def draw(self, rng: np.random.Generator) -> dict[str, Any]:
        """Draw the arguments of `distort` in the reference's order; None leaves a step out."""
        brightness = _maybe_uniform(rng, -self.brightness, self.brightness)
        is_contrast_first = rng.integers(2) == 1
        early_contrast = _maybe_uniform(rng, *self.contrast) if is_contrast_first else None
        saturation = _maybe_uniform(rng, *self.saturation)
        hue = int(rng.integers(-self.hue, self.hue)) if rng.integers(2) else None
        late_contrast = None if is_contrast_first else _maybe_uniform(rng, *self.contrast)
        return {
            "brightness": brightness,
            "early_contrast": early_contrast,
            "saturation": saturation,
            "hue": hue,
            "late_contrast": late_contrast,
        }


def _maybe_uniform(rng: np.random.Generator, low: float, high: float) -> float | None:
    return rng.uniform(low, high) if rng.integers(2) else None


def distort(
    image: Image,
    *,
    brightness: float | None = None,
    early_contrast: float | None = None,
    saturation: float | None = None,
    hue: int | None = None,
    late_contrast: float | None = None,
) -> Image:
    """Apply the given steps in this order; every step rounds down to 8 bits."""
    if brightness is not None:
        image = cv2.LUT(image, linear_table(add=brightness))
    if early_contrast is not None:
        image = cv2.LUT(image, linear_table(factor=early_contrast))
    # Two round trips, as in the reference: each loses up to 6 grey levels, which training saw.
    if saturation is not None:
        image = _look_up_hsv(image, channel=1, table=linear_table(factor=saturation))
    if hue is not None:
        turned = ((np.arange(256) + hue) % 180).astype(np.uint8)  # 8-bit hue counts 2 degrees
        image = _look_up_hsv(image, channel=0, table=turned)
    if late_contrast is not None:
        image = cv2.LUT(image, linear_table(factor=late_contrast))
    return image


def linear_table(*, factor: float = 1.0, add: float = 0.0) -> UInt8[np.ndarray, "256"]:
    """Tabulate factor * value + add in float32, clipped and rounded down to 8 bits."""
    values = np.arange(256, dtype=np.float32) * np.float32(factor) + np.float32(add)
    return np.clip(values, 0, 255).astype(np.uint8)


def _look_up_hsv(image: Image, *, channel: int, table: np.ndarray) -> Image:
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
    cv2.insertChannel(cv2.LUT(cv2.extractChannel(hsv, channel), table), hsv, channel)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)


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
    # 256 results per channel are all there are: a table gives the same floats many times faster.
    return cv2.LUT(image, table.astype(np.float32)[None])


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pad(grain.transforms.Map):
    """Fill up to `size` at the right and the bottom: image with 0, label with 255.

    It follows `Normalize`, so that 0 is the mean colour.
    """

    size: Size

    def map(self, example: Example) -> Example:
        image = pad(example["image"], self.size, value=0)
        label = pad(example["label"], self.size, value=IGNORE_LABEL)
        return _replace(example, image=image, label=label)


def pad(pixels: np.ndarray, size: Size, *, value: int) -> np.ndarray:
    """Fill up to `size` at the right and the bottom."""
    bottom, right = size[0] - pixels.shape[0], size[1] - pixels.shape[1]
    if bottom == right == 0:
        return pixels
    assert min(bottom, right) >= 0, f"{pixels.shape[:2]} exceeds {size}: Pad must follow a crop"
    return cv2.copyMakeBorder(pixels, 0, bottom, 0, right, cv2.BORDER_CONSTANT, value=[value] * 3)


def _replace(example: Example, **arrays: np.ndarray) -> Example:
    return cast(Example, {**example, **arrays})
