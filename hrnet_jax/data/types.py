"""Types of images, labels, examples and batches in numpy."""

from typing import NotRequired, TypedDict

import numpy as np
from jaxtyping import Float32, UInt8

Image = UInt8[np.ndarray, "h w 3"]  # RGB
Label = UInt8[np.ndarray, "h w"]  # class indices, or `IGNORE_LABEL`
NormalizedImage = Float32[np.ndarray, "h w 3"]

IGNORE_LABEL = 255  # of pixels without a class, in every dataset of the zoo


class Example(TypedDict):
    """One image with its label, and its name for errors and reports."""

    id: str
    image: Image | NormalizedImage
    label: Label
    views: NotRequired[list[Image]]  # in evaluation: the image at each scale
    left_out: NotRequired[tuple[str, ...]]  # in training: the bad examples it replaces, as JSON
    draws: NotRequired[dict[str, str]]  # only for `samples`: the random draws of the transforms


Batch = dict[str, np.ndarray]  # {"image": float32 [b h w 3], "label": uint8 [b h w]}
