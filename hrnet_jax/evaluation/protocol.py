"""How an image becomes label maps: its scaled views, their windows, and the way back to pixels.

Everything here is arithmetic on sizes, on the host. The published numbers follow mmsegmentation
0.x: whole images (Cityscapes, ADE20K, Pascal VOC) or sliding windows (Pascal Context), at one
scale or averaged over six scales and their mirror images.
"""

import dataclasses
import functools
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Array, Float32, Int32

from hrnet_jax.data.transforms import Size, fit_size
from hrnet_jax.ops import bilinear_taps

Window = tuple[int, int]  # [start, stop) along one axis
MULTI_SCALE = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)  # of every published "ms+flip" number


class Taps(NamedTuple):
    """Along one axis: each output is a weighted sum of a few inputs."""

    inputs: Int32[np.ndarray, "n t"] | Int32[Array, "n t"]
    weight: Float32[np.ndarray, "n t"] | Float32[Array, "n t"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Protocol:
    """The rules of one evaluation; sizes are (height, width) in pixels."""

    image_size: Size  # images are brought into this box, shape kept
    mode: Literal["whole", "slide"] = "whole"
    crop_size: Size = (480, 480)  # of the windows of "slide"
    stride: Size = (320, 320)  # between them
    ratios: tuple[float, ...] = (1.0,)  # scales, relative to `image_size`
    flip: bool = False  # also the mirror image of every scale
    reference: Literal["v0", "v1"] = "v0"  # "v1" scales the image itself by `ratios`

    @property
    def averages(self) -> bool:
        """Whether probabilities of several views are averaged."""
        return self.flip or len(self.ratios) > 1

    def view_sizes(self, size: Size) -> list[Size]:
        """Sizes to which an image of `size` is resized, one per ratio."""
        height, width = self.image_size
        views = []
        for ratio in self.ratios:
            box = (int(height * ratio), int(width * ratio))
            if self.averages and self.reference == "v1":
                box = (int(size[0] * ratio + 0.5), int(size[1] * ratio + 0.5))
            views.append(fit_size(size, within=box))
        return views

    def windows(self, size: Size) -> tuple[tuple[Window, ...], tuple[Window, ...]]:
        """Rows and columns of the windows that a view is cut into; "whole" is one window.

        A window that would pass the border is moved back; a side shorter than a window is one.
        """
        if self.mode == "whole":
            return ((0, size[0]),), ((0, size[1]),)
        rows, columns = (
            tuple(_along(length, crop, step))
            for length, crop, step in zip(size, self.crop_size, self.stride, strict=True)
        )
        return rows, columns

    def describe(self) -> str:
        """Say in one line which protocol a number belongs to."""
        height, width = self.image_size
        mode = "whole images"
        if self.mode == "slide":
            (h, w), (y, x) = self.crop_size, self.stride
            mode = f"windows of {h}x{w} every {y}x{x}"
        scales = "one scale"
        if len(self.ratios) > 1:
            scales = f"scales {', '.join(f'{ratio:g}' for ratio in self.ratios)}"
        flip = "with mirror images" if self.flip else "no flip"
        tail = "averaged probabilities" if self.averages else "argmax of logits"
        return (
            f"{mode}, {scales}, {flip}, within {height}x{width}, {tail} at the original size "
            f"(reference {self.reference})"
        )


def _along(length: int, crop: int, step: int) -> list[Window]:
    count = max(length - crop + step - 1, 0) // step + 1
    stops = [min(step * i + crop, length) for i in range(count)]
    return [(max(stop - crop, 0), stop) for stop in stops]


def bucket_side(length: int) -> int:
    """Round up to a side of the few shapes that are compiled: 32 ... 256, 384, then every 256."""
    if length <= 256:
        return max(32, 1 << (length - 1).bit_length())
    return 384 if length <= 384 else -(-length // 256) * 256


@functools.lru_cache(maxsize=1024)
def taps(windows: tuple[Window, ...], *, length: int, original: int, bucket: int) -> Taps:
    """From the stride-4 logits of a view's windows to the pixels of the original, along one axis.

    Three steps of the reference in one: each window's logits to its own size, the mean of the
    windows that cover a place, and the view of `length` to the size of the `original`, every
    resize bilinear. The logits of window n begin at n * bucket.
    """
    covered = np.zeros((len(windows), length), bool)
    for row, (start, stop) in zip(covered, windows, strict=True):
        row[start:stop] = True
    share = 1 / covered.sum(0)
    lower, upper, fraction = bilinear_taps(length, original)
    index, weight = [], []
    for number, (start, stop) in enumerate(windows):
        size = stop - start
        fine = bilinear_taps(-(-size // 4), size)
        for place, part in ((lower, 1 - fraction), (upper, fraction)):
            inside = np.clip(place - start, 0, size - 1)
            part = part * share[place] * covered[number][place]
            index += [number * bucket + fine[0][inside], number * bucket + fine[1][inside]]
            weight += [part * (1 - fine[2][inside]), part * fine[2][inside]]
    indices, weights = np.stack(index, 1), np.stack(weight, 1)
    # Few of these count at any place: put them first, keep as many as the fullest place has.
    order = np.argsort(weights == 0, axis=1, kind="stable")
    most = int(np.count_nonzero(weights, axis=1).max())
    order = order[:, : most + most % 2]  # even numbers: fewer different programs
    return Taps(
        np.take_along_axis(indices, order, 1).astype(np.int32),
        np.take_along_axis(weights, order, 1).astype(np.float32),
    )
