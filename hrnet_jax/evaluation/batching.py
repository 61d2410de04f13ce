"""From examples of any size to batches of few shapes, on the host."""

import functools
import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import cv2
import numpy as np
from jaxtyping import Float32

from hrnet_jax.data.transforms import Channels, Size, normalize
from hrnet_jax.data.types import IGNORE_LABEL, Example, NormalizedImage
from hrnet_jax.evaluation.protocol import Protocol, Taps, Window, bucket_side, taps


class Batch(NamedTuple):
    """What the programs of the evaluation take: of each view the images, and the way to pixels."""

    images: list[Float32[np.ndarray, "b _n _h _w 3"]]  # of each view, mirror images too
    sizes: list[Any]  # of each view's windows [b 2]; None where they fill their bucket
    plan: "Plan"


class Batcher:
    """Groups examples that have views (`transforms.ResizeViews`) by shape, and lays them out."""

    def __init__(self, protocol: Protocol, *, mean: Channels, std: Channels, batch_size: int):
        self.protocol, self.batch_size = protocol, batch_size
        self._mean, self._std = mean, std
        self._pixels = np.zeros(2, np.int64)  # of images, of the buckets that held them

    @property
    def filling(self) -> float:
        """Share of the pixels computed so far that belong to no image."""
        return 1 - float(self._pixels[0] / max(self._pixels[1], 1))

    def groups(self, examples: Iterable[Example]) -> Iterator[list[Example]]:
        """Yield groups of at most `batch_size` examples that share a program."""
        return grouped(examples, key=self._shapes, batch_size=self.batch_size)

    def assemble(self, group: list[Example]) -> Batch:
        """Lay a group of examples out as the arrays of one call; what is missing stays empty."""
        count = self.batch_size
        capacity = label_side(group[0]["label"].shape)
        label = np.full((count, capacity, capacity), IGNORE_LABEL, np.uint8)
        extent = np.zeros((count, 2), np.int32)
        images, sizes, rows, columns, grids = [], [], [], [], []
        for number in range(len(group[0]["views"])):
            first = self._view(group[0]["views"][number].shape[:2], group[0])
            mirrors = 2 if self.protocol.flip else 1
            view_images = [
                np.zeros((count, first.num_windows, *first.slot, 3), np.float32)
                for _ in range(mirrors)
            ]
            view_sizes = np.ones((count, 2), np.int32)
            view_rows, view_columns, flipped = (
                _empty_taps(t, count, capacity) for t in (first.rows, first.columns, first.columns)
            )
            for n, example in enumerate(group):
                picture = example["views"][number]
                view = self._view(picture.shape[:2], example)
                view_sizes[n] = view.window
                height, width = example["label"].shape
                _fill(view_rows, n, view.rows)
                _fill(view_columns, n, view.columns)
                _fill(flipped, n, Taps(view.columns.inputs[::-1], view.columns.weight[::-1]))
                normalized = normalize(picture, mean=self._mean, std=self._std)
                for mirror, target in enumerate(view_images):
                    view.cut(cv2.flip(normalized, 1) if mirror else normalized, into=target[n])
                extent[n] = height, width
                label[n, :height, :width] = example["label"]
                self._pixels += (
                    mirrors * view.num_windows * np.prod(view.window),
                    mirrors * view.num_windows * np.prod(view.slot),
                )
            images += view_images
            sizes += [None if first.window == first.slot else view_sizes] * mirrors
            rows += [view_rows] * mirrors
            columns += [view_columns, flipped][:mirrors]
            grids += [first.grid] * mirrors
        plan = Plan(
            extent=extent,
            label=label,
            rows=rows,
            columns=columns,
            row_windows=[np.zeros((count, r)) for r, _ in grids],
            column_windows=[np.zeros((count, c)) for _, c in grids],
        )
        return Batch(images, sizes, plan)

    def _shapes(self, example: Example) -> tuple:
        """What decides which program an example runs in."""
        views = [self._view(view.shape[:2], example) for view in example["views"]]
        return label_side(example["label"].shape), *(view.shapes for view in views)

    def _view(self, size: Size, example: Example) -> "View":
        return view_of(self.protocol, size, example["label"].shape)


class Plan(NamedTuple):
    """How stride-4 logits become label maps: one entry per image of a batch."""

    extent: Any  # [b 2]
    label: Any  # [b h w]
    rows: list[Taps]  # of every view
    columns: list[Taps]
    row_windows: list  # [b rows] of every view; only the shape counts
    column_windows: list


class View(NamedTuple):
    """What one scale of an image needs: windows, bucket, the way back to pixels."""

    row_windows: tuple[Window, ...]
    column_windows: tuple[Window, ...]
    slot: Size
    rows: Taps
    columns: Taps

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of windows."""
        return len(self.row_windows), len(self.column_windows)

    @property
    def num_windows(self) -> int:
        """Windows in all."""
        return len(self.row_windows) * len(self.column_windows)

    @property
    def window(self) -> Size:
        """Height and width of each window."""
        (top, bottom), (left, right) = self.row_windows[0], self.column_windows[0]
        return bottom - top, right - left

    @property
    def shapes(self) -> tuple:
        """What a compiled program depends on."""
        taps = self.rows.inputs.shape[1], self.columns.inputs.shape[1]
        return self.grid, self.slot, self.window == self.slot, *taps

    def cut(self, image: NormalizedImage, *, into: Float32[np.ndarray, "n _h _w 3"]) -> None:
        """Copy each window of an image into the corner of its bucket."""
        height, width = self.window
        places = itertools.product(self.row_windows, self.column_windows)
        for target, ((top, _), (left, _)) in zip(into, places, strict=True):
            target[:height, :width] = image[top : top + height, left : left + width]


@functools.lru_cache(maxsize=256)
def view_of(protocol: Protocol, size: Size, original: Size) -> View:
    """Lay out one view of `size` of an image of `original` size."""
    windows = protocol.windows(size)
    (top, bottom), (left, right) = (along[0] for along in windows)
    slot = (bucket_side(bottom - top), bucket_side(right - left))
    rows, columns = (
        taps(w, length=length, original=end, slot=side // 4)
        for w, length, end, side in zip(windows, size, original, slot, strict=True)
    )
    return View(*windows, slot, rows, columns)


def count_programs(sizes: Iterable[tuple[int, ...]], *, protocol: Protocol) -> int:
    """Count the programs that the evaluation compiles for images of these sizes."""
    networks, ends = set(), set()
    for height, width in set(sizes):
        size = (height, width)
        views = [view_of(protocol, view, size) for view in protocol.view_sizes(size)]
        ends.add((label_side(size), *(view.shapes for view in views)))
        networks |= {(view.num_windows, view.slot, view.window == view.slot) for view in views}
    # One view: network and pixels are one program.
    return len(networks) + len(ends) if protocol.averages else len(ends)


def label_side(size: tuple[int, ...]) -> int:
    """Side of the square that a label map is written into: 1024, 2048, 4096 ..."""
    return max(1024, 1 << (max(size) - 1).bit_length())


def _empty_taps(like: Taps, count: int, capacity: int) -> Taps:
    shape = (count, capacity, like.inputs.shape[1])
    return Taps(np.zeros(shape, np.int32), np.zeros(shape, np.float32))


def _fill(target: Taps, place: int, source: Taps) -> None:
    for into, values in zip(target, source, strict=True):
        into[place, : len(values)] = values


def grouped(
    examples: Iterable[Example], *, key: Callable[[Example], tuple], batch_size: int
) -> Iterator[list[Example]]:
    """Group examples of one key; a group may be short at the end, or when too many would wait."""
    waiting: dict[tuple, list[Example]] = {}
    for example in examples:
        group = waiting.setdefault(key(example), [])
        group.append(example)
        if len(group) == batch_size:
            yield waiting.pop(key(example))
        elif sum(map(len, waiting.values())) > 4 * batch_size:
            yield waiting.pop(max(waiting, key=lambda shapes: len(waiting[shapes])))
    yield from waiting.values()
