"""Evaluation protocols: the views of an image, their windows, and resizing back to its pixels.

Everything here is arithmetic on sizes, on the host. The published numbers follow mmsegmentation
0.x: whole images (Cityscapes, ADE20K, Pascal VOC) or sliding windows (Pascal Context), at one
scale or averaged over six scales with and without flipping.
"""

import dataclasses
import functools
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Array, Float32, Int32

from hrnet_jax.data.transforms import Size, fit_size
from hrnet_jax.ops import bilinear_taps

Window = tuple[int, int]  # [start, stop) along one axis
MULTI_SCALE = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)  # of the published "ms+flip" results


class Taps(NamedTuple):
    """Weighted sums along one axis: the `t` inputs of each of `n` outputs."""

    inputs: Int32[np.ndarray, "n t"] | Int32[Array, "n t"]
    weight: Float32[np.ndarray, "n t"] | Float32[Array, "n t"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Protocol:
    """The settings of an evaluation; sizes are (height, width) in pixels."""

    image_size: Size  # images are resized to fit this box, with their aspect ratio
    mode: Literal["whole", "slide"] = "whole"
    crop_size: Size = (480, 480)  # of the windows in mode "slide"
    stride: Size = (320, 320)  # of the windows
    ratios: tuple[float, ...] = (1.0,)  # scales, relative to `image_size`
    flip: bool = False  # also evaluate the mirror image at every scale
    reference: Literal["v0", "v1"] = "v0"  # "v1" scales the image itself by `ratios`

    @property
    def averages(self) -> bool:
        """Whether the probabilities of several views are averaged."""
        return self.flip or len(self.ratios) > 1

    def view_sizes(self, size: Size) -> list[Size]:
        """Return the sizes to which an image of `size` is resized, one per ratio."""
        height, width = self.image_size
        views = []
        for ratio in self.ratios:
            box = (int(height * ratio), int(width * ratio))
            if self.averages and self.reference == "v1":
                box = (int(size[0] * ratio + 0.5), int(size[1] * ratio + 0.5))
            views.append(fit_size(size, within=box))
        return views

    def windows(self, size: Size) -> tuple[tuple[Window, ...], tuple[Window, ...]]:
        """Return the row ranges and column ranges of a view's windows; "whole" is one window.

        A window that would cross the border is moved back inside.
        """
        if self.mode == "whole":
            return ((0, size[0]),), ((0, size[1]),)
        rows, columns = (
            tuple(_along(length, crop, step))
            for length, crop, step in zip(size, self.crop_size, self.stride, strict=True)
        )
        return rows, columns

    def describe(self) -> str:
        """Describe the protocol in one line."""
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
    """Round up to one of the few lengths that are compiled: 32, 64, 128, 256, 384, 512, 768 ..."""
    if length <= 256:
        return max(32, 1 << (length - 1).bit_length())
    return 384 if length <= 384 else -(-length // 256) * 256


@functools.lru_cache(maxsize=1024)
def taps(windows: tuple[Window, ...], *, length: int, original: int, bucket: int) -> Taps:
    """Compute the taps from the stride-4 logits of a view's windows to the original's pixels.

    They combine three steps of the reference: resize each window's logits to the window, average
    the windows where they overlap, and resize the view from `length` to `original` pixels. The
    logits of window n begin at index n * bucket.
    """
    covered = np.zeros((len(windows), length), bool)
    for row, (start, stop) in zip(covered, windows, strict=True):
        row[start:stop] = True
    share = 1 / covered.sum(0)
    lower, upper, fraction = bilinear_taps(length, original)
    index, weight = [], []
    for number, (start, stop) in enumerate(windows):
        size = stop - start
        fine_lower, fine_upper, fine_fraction = bilinear_taps(-(-size // 4), size)
        for position, part in ((lower, 1 - fraction), (upper, fraction)):
            inside = np.clip(position - start, 0, size - 1)
            part = part * share[position] * covered[number][position]
            index += [number * bucket + fine_lower[inside], number * bucket + fine_upper[inside]]
            weight += [part * (1 - fine_fraction[inside]), part * fine_fraction[inside]]
    indices, weights = np.stack(index, 1), np.stack(weight, 1)
    # Most weights are zero: sort them to the end, and cut the columns that hold zeros only.
    order = np.argsort(weights == 0, axis=1, kind="stable")
    most = int(np.count_nonzero(weights, axis=1).max())
    order = order[:, : most + most % 2]  # an even number, for fewer programs
    return Taps(
        np.take_along_axis(indices, order, 1).astype(np.int32),
        np.take_along_axis(weights, order, 1).astype(np.float32),
    )
