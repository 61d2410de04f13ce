"""From images of any size to batches of few shapes, on the host."""

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

    images: Sequence[np.ndarray]  # uint8 [h w 3], of different sizes
    true_size: Size  # of the image itself


class Windows(NamedTuple):
    """The windows of one view of every image of a batch, each in the corner of its bucket."""

    images: Any  # float32 [b n h w 3]
    sizes: Any  # int32 [b 2], of the windows; None where they fill their bucket


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Geometry:
    """How stride-4 logits become pixels: one entry per image of a batch."""

    true_size: Any  # int32 [b 2]
    rows: list[Taps]  # [b side t] of every view
    columns: list[Taps]  # of a mirror image, in reverse
    # Rows and columns of windows in every view: a program is for one grid.
    grids: tuple[tuple[int, int], ...] = dataclasses.field(metadata={"static": True})

    @property
    def side(self) -> int:
        """Side of the square that label maps are written into."""
        return self.rows[0].inputs.shape[-2]


class Batch(NamedTuple):
    """What the programs of the evaluation take."""

    windows: list[Windows]  # of every view, mirror images too
    geometry: Geometry
    label: Any = None  # uint8 [b side side], where results are scored


class Batcher:
    """Groups images by the shapes of their views, and lays each group out as arrays."""

    def __init__(self, protocol: Protocol, *, mean: Channels, std: Channels, batch_size: int):
        self.protocol, self.batch_size = protocol, batch_size
        self._mean, self._std = mean, std
        self._mirrors = (False, True) if protocol.flip else (False,)
        self._image_pixels = self._bucket_pixels = 0

    @property
    def padding_fraction(self) -> float:
        """Share of the pixels computed so far that belong to no image."""
        return 1 - self._image_pixels / max(self._bucket_pixels, 1)

    def shapes(self, image: Views) -> Hashable:
        """Return what decides which programs an image runs in."""
        views = [view_of(self.protocol, x.shape[:2], image.true_size) for x in image.images]
        return label_side(image.true_size), *(view.shapes for view in views)

    def assemble(self, group: Sequence[Views], *, labels: Sequence[np.ndarray] = ()) -> Batch:
        """Lay out images of equal `shapes`, at most a batch of them; missing ones stay empty.

        Args:
            group: the images.
            labels: of each image, uint8 [h w]; none where nothing is scored.
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
        """Cut one view of every image into windows, and its mirror image if there is one."""
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
        known = None if first.window == first.bucket else sizes
        return [Windows(images, known) for images in buckets]

    def _taps(self, parts: Sequence[Taps], side: int) -> Taps:
        """Stack the taps of every image."""
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
    """What one scale of an image needs: windows, bucket, the way back to pixels."""

    row_windows: tuple[Window, ...]
    column_windows: tuple[Window, ...]
    bucket: Size
    rows: Taps
    columns: Taps

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of windows."""
        return len(self.row_windows), len(self.column_windows)

    @property
    def num_windows(self) -> int:
        """Windows in all."""
        return math.prod(self.grid)

    @property
    def window(self) -> Size:
        """Height and width of each window."""
        (top, bottom), (left, right) = self.row_windows[0], self.column_windows[0]
        return bottom - top, right - left

    @property
    def shapes(self) -> Hashable:
        """What a compiled program depends on."""
        taps = self.rows.inputs.shape[1], self.columns.inputs.shape[1]
        return self.grid, self.bucket, self.window == self.bucket, *taps

    def cut(self, image: NormalizedImage, *, into: Float32[np.ndarray, "n _h _w 3"]) -> None:
        """Copy each window of an image into the corner of its bucket."""
        height, width = self.window
        places = itertools.product(self.row_windows, self.column_windows)
        for target, ((top, _), (left, _)) in zip(into, places, strict=True):
            target[:height, :width] = image[top : top + height, left : left + width]


@functools.lru_cache(maxsize=256)
def view_of(protocol: Protocol, size: Size, true_size: Size) -> View:
    """Lay out one view of `size` of an image of `true_size`."""
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
    """Count the programs that the evaluation compiles for images of these sizes."""
    networks, ends = set(), set()
    for height, width in set(sizes):
        size = (height, width)
        views = [view_of(protocol, view, size) for view in protocol.view_sizes(size)]
        ends.add((label_side(size), *(view.shapes for view in views)))
        networks |= {(view.num_windows, view.bucket, view.window == view.bucket) for view in views}
    return len(networks) + len(ends)


def label_side(size: tuple[int, ...]) -> int:
    """Side of the square that a label map is written into: 1024, 2048, 4096 ..."""
    return max(1024, 1 << (max(size) - 1).bit_length())


def grouped(
    items: Iterable[T], *, key: Callable[[T], Hashable], batch_size: int
) -> Iterator[list[T]]:
    """Group items of one key; a group may be short at the end, or when too many would wait."""
    waiting: dict[Hashable, list[T]] = {}
    for item in items:
        group = waiting.setdefault(key(item), [])
        group.append(item)
        if len(group) == batch_size:
            yield waiting.pop(key(item))
        elif sum(map(len, waiting.values())) > 4 * batch_size:
            yield waiting.pop(max(waiting, key=lambda shapes: len(waiting[shapes])))
    yield from waiting.values()
