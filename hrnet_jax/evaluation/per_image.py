"""Pixel counts per image, to compare two evaluations and to check that their data are the same.

A split of thousands of images takes a few megabytes.
"""

import dataclasses
import hashlib
import io
import itertools
from collections.abc import Iterable

import numpy as np
from jaxtyping import Int32, Int64, Shaped

from hrnet_jax.data.types import Label
from hrnet_jax.runs.paths import AnyPath, atomic_write

_FIELDS = ("ids", "sizes", "intersection", "labelled", "predicted")


def confusion_of(label: Label, predicted: Label, *, num_classes: int) -> Int64[np.ndarray, "k k"]:
    """Count the pixels of each (label, predicted) pair of one image; label 255 is ignored."""
    row = np.minimum(label, np.uint8(num_classes)).astype(np.intp)  # the last row is dropped
    pair = (row * num_classes + predicted).ravel()
    counts = np.bincount(pair, minlength=(num_classes + 1) * num_classes).astype(np.int64)
    return counts.reshape(-1, num_classes)[:num_classes]


@dataclasses.dataclass(frozen=True, kw_only=True)
class PerImage:
    """Pixel counts of each image and class, in the order of the ids."""

    ids: Shaped[np.ndarray, " n"]
    sizes: Int32[np.ndarray, "n 2"]  # height, width
    intersection: Int32[np.ndarray, "n k"]  # labelled and predicted as the class
    labelled: Int32[np.ndarray, "n k"]
    predicted: Int32[np.ndarray, "n k"]  # among the labelled pixels

    def fingerprint(self) -> str:
        """Return a SHA-256 of the data: ids, sizes and labelled pixels."""
        names = "\n".join(self.ids).encode()
        counts = np.concatenate([self.sizes, self.labelled], 1).astype("<i4")
        return hashlib.sha256(names + b"\0" + counts.tobytes()).hexdigest()

    def save(self, path: AnyPath) -> None:
        """Write a compressed npz of plain arrays, atomically."""
        with atomic_write(path) as file:
            file.write(self.to_bytes())

    def to_bytes(self) -> bytes:
        """Return the contents of the npz."""
        file = io.BytesIO()
        np.savez_compressed(file, **{name: getattr(self, name) for name in _FIELDS})
        return file.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> "PerImage":
        """Read the contents of an npz."""
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            return cls(**{name: arrays[name] for name in _FIELDS})

    @classmethod
    def joined(cls, parts: Iterable["PerImage"]) -> "PerImage":
        """Join parts of a split, in the order of the ids."""
        parts = list(parts)
        fields = {name: np.concatenate([getattr(p, name) for p in parts]) for name in _FIELDS}
        # Equal ids are sorted by size and labels.
        keys = [fields["ids"], fields["sizes"].tolist(), fields["labelled"].tolist()]
        order = [n for *_, n in sorted(zip(*keys, itertools.count(), strict=False))]
        return cls(**{name: values[order] for name, values in fields.items()})

    @classmethod
    def load(cls, path: AnyPath) -> "PerImage":
        """Read what `save` wrote.

        Raises:
            ValueError: the file is damaged or of another kind.
        """
        try:
            return cls.from_bytes(path.read_bytes())
        except FileNotFoundError:
            raise
        except Exception as error:  # numpy and zipfile raise many types on damage
            raise ValueError(
                f"{path} cannot be read ({error}); evaluate again with --mode eval."
            ) from error


class ImageCounts:
    """Collects the counts of images, in any order."""

    def __init__(self, num_classes: int):
        self._num_classes = num_classes
        self._rows: list[tuple[str, tuple[int, ...], Int32[np.ndarray, "3 k"]]] = []

    def add(self, name: str, size: tuple[int, ...], confusion: Int64[np.ndarray, "k k"]) -> None:
        """Add one image of (height, width) pixels."""
        counts = (np.diagonal(confusion), confusion.sum(1), confusion.sum(0))
        self._rows.append((name, size, np.stack(counts).astype(np.int32)))

    def result(self) -> PerImage:
        """Return all counts in the order of the ids."""
        sizes = np.array([size for _, size, _ in self._rows], np.int32).reshape(-1, 2)
        counts = np.array([counts for *_, counts in self._rows], np.int32)
        counts = counts.reshape(-1, 3, self._num_classes)
        unsorted = PerImage(
            ids=np.array([name for name, *_ in self._rows], dtype=str),
            sizes=sizes,
            intersection=counts[:, 0],
            labelled=counts[:, 1],
            predicted=counts[:, 2],
        )
        return PerImage.joined([unsorted])
