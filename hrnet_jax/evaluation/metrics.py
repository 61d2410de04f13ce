"""From label maps to the numbers of the zoo: confusion matrix, IoU per class, mIoU."""

import dataclasses
from functools import cached_property

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float64, Int32, Int64, Integer


def confusion_matrix(
    label: Integer[Array, "*pixels"],
    predicted: Integer[Array, "*pixels"],
    *,
    num_classes: int,
) -> Int32[Array, "k k"]:
    """Count the pixels of each (label, predicted) pair; other labels (255) are left out.

    Integers throughout, so the sum does not depend on the order. For arrays of one device: split
    over several, the scatter would gather all of them first.
    """
    label, predicted = label.astype(jnp.int32), predicted.astype(jnp.int32)
    pair = jnp.where(label < num_classes, label * num_classes + predicted, num_classes**2)
    counts = jnp.zeros(num_classes**2, jnp.int32).at[pair.ravel()].add(1, mode="drop")
    return counts.reshape(num_classes, num_classes)


@dataclasses.dataclass(frozen=True)
class Scores:
    """What follows from a confusion matrix, as defined by the reference.

    A class that is neither labelled nor predicted anywhere is NaN and left out of the means; one
    that is predicted but never labelled counts with IoU 0.
    """

    confusion: Int64[np.ndarray, "k k"]  # rows: label, columns: prediction

    @cached_property
    def iou(self) -> Float64[np.ndarray, " k"]:
        """Intersection over union of each class, 0 to 1."""
        labelled, predicted = self.confusion.sum(1), self.confusion.sum(0)
        return _ratio(self._right, labelled + predicted - self._right)

    @cached_property
    def accuracy(self) -> Float64[np.ndarray, " k"]:
        """Share of each class's pixels that were predicted as it, 0 to 1."""
        return _ratio(self._right, self.confusion.sum(1))

    @property
    def _right(self) -> Int64[np.ndarray, " k"]:
        return np.diagonal(self.confusion)

    def iou_percent(self) -> list[float | None]:
        """IoU of each class in percent; None for a class that does not occur."""
        return [None if np.isnan(value) else 100 * float(value) for value in self.iou]

    def summary(self) -> dict[str, float]:
        """mIoU, mAcc (means over classes) and aAcc (over pixels), in percent."""
        total = self.confusion.sum()
        return {
            "mIoU": 100 * _mean(self.iou),
            "mAcc": 100 * _mean(self.accuracy),
            "aAcc": 100 * float(_ratio(np.array(self._right.sum()), np.array(total))),
        }

    def __str__(self) -> str:
        return "  ".join(f"{name} {value:.2f}" for name, value in self.summary().items())


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.where(whole > 0, part / np.maximum(whole, 1), np.nan)


def _mean(values: np.ndarray) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else float("nan")
