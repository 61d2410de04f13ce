"""Metrics: confusion matrix, IoU per class, mIoU."""

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
    """Count the pixels of each (label, predicted) pair; other labels, such as 255, are ignored.

    For arrays on one device: XLA would gather sharded ones before the scatter.
    """
    label, predicted = label.astype(jnp.int32), predicted.astype(jnp.int32)
    pair = jnp.where(label < num_classes, label * num_classes + predicted, num_classes**2)
    counts = jnp.zeros(num_classes**2, jnp.int32).at[pair.ravel()].add(1, mode="drop")
    return counts.reshape(num_classes, num_classes)


@dataclasses.dataclass(frozen=True)
class Scores:
    """Scores of a confusion matrix, as defined by the reference.

    A class that is neither labelled nor predicted has the IoU NaN and is excluded from the means; a
    class that is predicted but never labelled has the IoU 0.
    """

    confusion: Int64[np.ndarray, "k k"]  # rows: label, columns: prediction

    @cached_property
    def iou(self) -> Float64[np.ndarray, " k"]:
        """Intersection over union of each class, 0 to 1."""
        labelled, predicted = self.confusion.sum(1), self.confusion.sum(0)
        return _ratio(self._correct, labelled + predicted - self._correct)

    @cached_property
    def accuracy(self) -> Float64[np.ndarray, " k"]:
        """Fraction of each class's pixels that were predicted as this class, 0 to 1."""
        return _ratio(self._correct, self.confusion.sum(1))

    @property
    def _correct(self) -> Int64[np.ndarray, " k"]:
        return np.diagonal(self.confusion)

    def iou_percent(self) -> list[float | None]:
        """Return the IoU of each class in percent; None for a class that does not occur."""
        return [None if np.isnan(value) else 100 * float(value) for value in self.iou]

    def summary(self) -> dict[str, float]:
        """Return mIoU and mAcc (means over classes) and aAcc (over pixels), in percent."""
        total = self.confusion.sum()
        return {
            "mIoU": 100 * _mean(self.iou),
            "mAcc": 100 * _mean(self.accuracy),
            "aAcc": 100 * float(_ratio(np.array(self._correct.sum()), np.array(total))),
        }

    def __str__(self) -> str:
        return "  ".join(f"{name} {value:.2f}" for name, value in self.summary().items())


def percent(value: float) -> str:
    """Format a fraction as percent; "-" for NaN."""
    return "-" if np.isnan(value) else f"{100 * value:.2f}"


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.where(whole > 0, part / np.maximum(whole, 1), np.nan)


def _mean(values: np.ndarray) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else float("nan")
