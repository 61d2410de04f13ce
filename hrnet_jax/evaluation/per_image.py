"""What each image contributed to an evaluation: enough to compare two, and to recognise the data.

Counts only, so a split of thousands of images is a few megabytes.
"""

import dataclasses
import hashlib
import io
from collections.abc import Iterable

import numpy as np
from jaxtyping import Int32, Int64, Shaped

from hrnet_jax.data.types import Label
from hrnet_jax.runs.paths import AnyPath, atomic_write

_FIELDS = ("ids", "sizes", "intersection", "labelled", "predicted")


def confusion_of(label: Label, predicted: Label, *, num_classes: int) -> Int64[np.ndarray, "k k"]:
    """Count the pixels of each (label, predicted) pair of one image; label 255 is left out."""
    row = np.minimum(label, np.uint8(num_classes)).astype(np.intp)  # the last one is left out
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
        """SHA-256 over ids, sizes and labelled pixels: the data, independent of the network."""
        names = "\n".join(self.ids).encode()
        counts = np.concatenate([self.sizes, self.labelled], 1).astype("<i4")
        return hashlib.sha256(names + b"\0" + counts.tobytes()).hexdigest()

    def save(self, path: AnyPath) -> None:
        """Write a compressed npz of plain arrays, atomically."""
        with atomic_write(path) as file:
            file.write(self.to_bytes())

    def to_bytes(self) -> bytes:
        """Return the contents of that file."""
        file = io.BytesIO()
        np.savez_compressed(file, **{name: getattr(self, name) for name in _FIELDS})
        return file.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> "PerImage":
        """Read back what `to_bytes` gave."""
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            return cls(**{name: arrays[name] for name in _FIELDS})

    @classmethod
    def joined(cls, parts: Iterable["PerImage"]) -> "PerImage":
        """Join parts of a split, in the order of the ids."""
        parts = list(parts)
        fields = {name: np.concatenate([getattr(p, name) for p in parts]) for name in _FIELDS}
        # Two parts may hold equal ids: then size and labels decide.
        keys = zip(
            fields["ids"], fields["sizes"].tolist(), fields["labelled"].tolist(), strict=True
        )
        order = [n for _, n in sorted((key, n) for n, key in enumerate(keys))]
        return cls(**{name: values[order] for name, values in fields.items()})

    @classmethod
    def load(cls, path: AnyPath) -> "PerImage":
        """Read back what `save` wrote.

        Raises:
            ValueError: if the file is damaged or of another kind.
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
    """Collects the counts of images, which may come in any order."""

    def __init__(self, num_classes: int):
        self._num_classes = num_classes
        self._rows: list[tuple[str, tuple[int, ...], Int32[np.ndarray, "3 k"]]] = []

    def add(self, name: str, size: tuple[int, ...], confusion: Int64[np.ndarray, "k k"]) -> None:
        """Add one image of (height, width) pixels."""
        counts = (np.diagonal(confusion), confusion.sum(1), confusion.sum(0))
        self._rows.append((name, size, np.stack(counts).astype(np.int32)))

    def result(self) -> PerImage:
        """Return all counts in the order of the ids."""
        rows = sorted(self._rows, key=lambda row: (*row[:2], row[2][1].tolist()))
        sizes = np.array([size for _, size, _ in rows], np.int32).reshape(-1, 2)
        counts = np.array([counts for *_, counts in rows], np.int32)
        counts = counts.reshape(-1, 3, self._num_classes)
        return PerImage(
            ids=np.array([name for name, *_ in rows], dtype=str),
            sizes=sizes,
            intersection=counts[:, 0],
            labelled=counts[:, 1],
            predicted=counts[:, 2],
        )
