"""Photometric distortion: changes of brightness, contrast, saturation and hue (SSD).

Every byte equals the reference (mmsegmentation 0.x on OpenCV), which the published runs used.
"""

import dataclasses
from typing import Any, cast

import cv2
import grain
import numpy as np
from jaxtyping import UInt8

from hrnet_jax.data.types import Example, Image

Range = tuple[float, float]  # (low, high)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PhotometricDistortion(grain.transforms.RandomMap):
    """Change brightness, contrast, saturation and hue, each with probability one half (SSD).

    Contrast comes before or after saturation and hue, with equal probability.
    """

    brightness: float = 32.0  # added, from -32 to 32
    contrast: Range = (0.5, 1.5)  # factor
    saturation: Range = (0.5, 1.5)  # factor
    hue: int = 18  # added, from -18 to 17: the reference excludes the upper end

    def random_map(self, example: Example, rng: np.random.Generator) -> Example:
        return cast(Example, {**example, "image": distort(example["image"], **self.draw(rng))})

    def draw(self, rng: np.random.Generator) -> dict[str, Any]:
        """Draw the arguments of `distort` in the reference's order; None skips a step."""
        brightness = _maybe_uniform(rng, (-self.brightness, self.brightness))
        is_contrast_first = rng.integers(2) == 1
        early_contrast = _maybe_uniform(rng, self.contrast) if is_contrast_first else None
        saturation = _maybe_uniform(rng, self.saturation)
        hue = int(rng.integers(-self.hue, self.hue)) if rng.integers(2) else None
        late_contrast = None if is_contrast_first else _maybe_uniform(rng, self.contrast)
        return {
            "brightness": brightness,
            "early_contrast": early_contrast,
            "saturation": saturation,
            "hue": hue,
            "late_contrast": late_contrast,
        }


def _maybe_uniform(rng: np.random.Generator, limits: Range) -> float | None:
    return rng.uniform(*limits) if rng.integers(2) else None


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
    # Two round trips through HSV, as in the reference: each is off by up to 6 grey levels.
    if saturation is not None:
        image = _look_up_hsv(image, channel=1, table=linear_table(factor=saturation))
    if hue is not None:
        rotated = ((np.arange(256) + hue) % 180).astype(np.uint8)  # in units of 2 degrees
        image = _look_up_hsv(image, channel=0, table=rotated)
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
