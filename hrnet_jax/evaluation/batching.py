"""Batches of few shapes from images of any size, on the host."""

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

import cv2
import jax
import numpy as np
from jaxtyping import Float32, UInt8

from hrnet_jax.data.transforms import Channels, Size, normalize
from hrnet_jax.data.types import IGNORE_LABEL, NormalizedImage
from hrnet_jax.evaluation.protocol import Protocol, Taps, Window, bucket_side, taps

T = TypeVar("T")


class Views(NamedTuple):
    """One image at each scale of a protocol."""

    images: Sequence[np.ndarray]  # uint8 [h w 3], one per scale
    true_size: Size  # of the original image


class Windows(NamedTuple):
    """The windows of one view of every image of a batch, each in the corner of its bucket."""

    images: Any  # float32 [b n h w 3]
    sizes: Any  # int32 [b 2], of the windows; None if they fill the bucket


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Geometry:
    """How stride-4 logits become pixels, for each image of a batch."""

    true_size: Any  # int32 [b 2]
    rows: list[Taps]  # [b side t] for each view
    columns: list[Taps]  # reversed for mirror images
    # Rows and columns of windows in each view; static, so each grid has its own program.
    grids: tuple[tuple[int, int], ...] = dataclasses.field(metadata={"static": True})

    @property
    def side(self) -> int:
        """Side of the square that holds each label map."""
        return self.rows[0].inputs.shape[-2]


class Batch(NamedTuple):
    """Inputs of the evaluation programs."""

    windows: list[Windows]  # of each view, mirror images included
    geometry: Geometry
    label: Any = None  # uint8 [b side side]; None if nothing is scored


class Batcher:
    """Arranges images of equal shapes as the arrays of a batch."""

    def __init__(self, protocol: Protocol, *, mean: Channels, std: Channels, batch_size: int):
        self.protocol, self.batch_size = protocol, batch_size
        self._mean, self._std = mean, std
        self._mirrors = (False, True) if protocol.flip else (False,)
        self._image_pixels = self._bucket_pixels = 0

    @property
    def padding_fraction(self) -> float:
        """Fraction of the pixels computed so far that were padding."""
        return 1 - self._image_pixels / max(self._bucket_pixels, 1)

    def shapes(self, image: Views) -> Hashable:
        """Return the key of the programs that an image runs in."""
        views = [view_of(self.protocol, x.shape[:2], image.true_size) for x in image.images]
        return label_side(image.true_size), *(view.shapes for view in views)

    def assemble(self, group: Sequence[Views], *, labels: Sequence[np.ndarray] = ()) -> Batch:
        """Arrange images of equal `shapes` as a batch; unused slots stay empty.

        Args:
            group: at most `batch_size` images.
            labels: their labels, uint8 [h w]; empty if nothing is scored.
        """
        true_size = np.zeros((self.batch_size, 2), np.int32)
        true_size[: len(group)] = [image.true_size for image in group]
        side = label_side(group[0].true_size)
        windows, rows, columns, grids = [], [], [], []
        for scale in range(len(group[0].images)):
            views = [
                view_of(self.protocol, image.images[scale].shape[:2], image.true_size)
                for image in group
            ]
            windows += self._windows([image.images[scale] for image in group], views)
            for mirrored in self._mirrors:
                rows.append(self._taps([view.rows for view in views], side))
                along = [_reversed(view.columns) if mirrored else view.columns for view in views]
                columns.append(self._taps(along, side))
                grids.append(views[0].grid)
        geometry = Geometry(true_size=true_size, rows=rows, columns=columns, grids=tuple(grids))
        return Batch(windows, geometry, self._label(labels, side) if labels else None)

    def _windows(self, images: Sequence[np.ndarray], views: Sequence["View"]) -> list[Windows]:
        """Cut one view of each image, and its mirror image under `flip`, into windows."""
        first = views[0]
        shape = (len(self._mirrors), self.batch_size, first.num_windows, *first.bucket, 3)
        buckets = np.zeros(shape, np.float32)
        sizes = np.ones((self.batch_size, 2), np.int32)
        for n, (image, view) in enumerate(zip(images, views, strict=True)):
            sizes[n] = view.window
            normalized = normalize(image, mean=self._mean, std=self._std)
            for mirrored, target in zip(self._mirrors, buckets[:, n], strict=True):
                view.cut(cv2.flip(normalized, 1) if mirrored else normalized, into=target)
                self._image_pixels += view.num_windows * math.prod(view.window)
                self._bucket_pixels += view.num_windows * math.prod(view.bucket)
        true_sizes = None if first.window == first.bucket else sizes
        return [Windows(images, true_sizes) for images in buckets]

    def _taps(self, parts: Sequence[Taps], side: int) -> Taps:
        """Stack the taps of all images."""
        shape = (self.batch_size, side, parts[0].inputs.shape[1])
        stacked = Taps(np.zeros(shape, np.int32), np.zeros(shape, np.float32))
        for n, part in enumerate(parts):
            for into, values in zip(stacked, part, strict=True):
                into[n, : len(values)] = values
        return stacked

    def _label(self, labels: Sequence[np.ndarray], side: int) -> UInt8[np.ndarray, "b side side"]:
        stacked = np.full((self.batch_size, side, side), IGNORE_LABEL, np.uint8)
        for into, label in zip(stacked, labels, strict=False):
            into[: label.shape[0], : label.shape[1]] = label
        return stacked


class View(NamedTuple):
    """The geometry of one view: its windows, their bucket, and the taps back to pixels."""

    row_windows: tuple[Window, ...]
    column_windows: tuple[Window, ...]
    bucket: Size
    rows: Taps
    columns: Taps

    @property
    def grid(self) -> tuple[int, int]:
        """Number of rows and columns of windows."""
        return len(self.row_windows), len(self.column_windows)

    @property
    def num_windows(self) -> int:
        """Number of windows."""
        return math.prod(self.grid)

    @property
    def window(self) -> Size:
        """Height and width of each window."""
        (top, bottom), (left, right) = self.row_windows[0], self.column_windows[0]
        return bottom - top, right - left

    @property
    def shapes(self) -> Hashable:
        """The key of the programs for this view."""
        taps = self.rows.inputs.shape[1], self.columns.inputs.shape[1]
        return self.grid, self.bucket, self.window == self.bucket, *taps

    def cut(self, image: NormalizedImage, *, into: Float32[np.ndarray, "n _h _w 3"]) -> None:
        """Copy each window of an image into the corner of its bucket."""
        height, width = self.window
        windows = itertools.product(self.row_windows, self.column_windows)
        for target, ((top, _), (left, _)) in zip(into, windows, strict=True):
            target[:height, :width] = image[top : top + height, left : left + width]


@functools.lru_cache(maxsize=256)
def view_of(protocol: Protocol, size: Size, true_size: Size) -> View:
    """Compute the geometry of a view of `size` of an image of `true_size`."""
    windows = protocol.windows(size)
    (top, bottom), (left, right) = (along[0] for along in windows)
    bucket = (bucket_side(bottom - top), bucket_side(right - left))
    rows, columns = (
        taps(w, length=length, original=end, bucket=side // 4)
        for w, length, end, side in zip(windows, size, true_size, bucket, strict=True)
    )
    return View(*windows, bucket, rows, columns)


def _reversed(part: Taps) -> Taps:
    return Taps(part.inputs[::-1], part.weight[::-1])


def count_programs(sizes: Iterable[tuple[int, ...]], *, protocol: Protocol) -> int:
    """Count the programs that an evaluation compiles for images of these sizes."""
    networks, ends = set(), set()
    for height, width in set(sizes):
        size = (height, width)
        views = [view_of(protocol, view, size) for view in protocol.view_sizes(size)]
        ends.add((label_side(size), *(view.shapes for view in views)))
        networks |= {(view.num_windows, view.bucket, view.window == view.bucket) for view in views}
    return len(networks) + len(ends)


def label_side(size: tuple[int, ...]) -> int:
    """Return the side of the square that holds a label map: 1024, 2048, 4096 ..."""
    return max(1024, 1 << (max(size) - 1).bit_length())


def grouped(
    items: Iterable[T], *, key: Callable[[T], Hashable], batch_size: int
) -> Iterator[list[T]]:
    """Group items with equal keys.

    Groups are smaller than `batch_size` at the end, and whenever too many items are waiting.
    """
    waiting: dict[Hashable, list[T]] = {}
    for item in items:
        group = waiting.setdefault(key(item), [])
        group.append(item)
        if len(group) == batch_size:
            yield waiting.pop(key(item))
        elif sum(map(len, waiting.values())) > 4 * batch_size:
            yield waiting.pop(max(waiting, key=lambda shapes: len(waiting[shapes])))
    yield from waiting.values()
