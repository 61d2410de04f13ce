"""Compares measurements with the published figures of the same work."""

import dataclasses
from typing import NamedTuple

from ml_collections import ConfigDict

from hrnet_jax import zoo
from hrnet_jax.config import recipes
from hrnet_jax.config.build_evaluation import Evaluation, protocol_of
from hrnet_jax.evaluation.metrics import Scores
from hrnet_jax.evaluation.protocol import MULTI_SCALE, Protocol
from hrnet_jax.runs.stored_weights import Weights
from hrnet_jax.zoo import Row, Upload

_TOLERANCE = 0.05  # of mIoU in percent, for the same weights


@dataclasses.dataclass(frozen=True, kw_only=True)
class Comparison:
    """A measured mIoU and the published one of the same weights and protocol, in percent."""

    file: str  # the published one
    protocol: str  # whole, slide or ms+flip
    published: float
    measured: float

    def describe(self) -> str:
        """Describe it in one line: "78.80 published (whole), 78.79 measured, within 0.05"."""
        gap = round(round(self.measured, 2) - self.published, 2)
        verdict = f"within {_TOLERANCE}"
        if abs(gap) > _TOLERANCE:
            verdict = f"{abs(gap):.2f} {'above' if gap > 0 else 'below'} it"
        return (
            f"{self.published:.2f} published ({self.protocol}), {self.measured:.2f} measured, "
            f"{verdict}"
        )


def compare_miou(
    row: Row, upload: Upload, *, protocol: Protocol, measured: float
) -> Comparison | None:
    """Compare an mIoU (percent) of published weights on the full validation split.

    Returns None if nothing was published for `protocol`.
    """
    plain = protocol_of(recipes.of_row(row))
    if not protocol.averages:  # at one scale 0.x and 1.x are the same
        protocol = dataclasses.replace(protocol, reference=plain.reference)
    multi_scale = dataclasses.replace(plain, ratios=MULTI_SCALE, flip=True)
    published = {
        plain.describe(): (plain.mode, upload.miou),
        multi_scale.describe(): ("ms+flip", upload.miou_ms_flip),
    }
    if protocol.describe() not in published:
        return None
    name, value = published[protocol.describe()]
    return Comparison(file=row.file(upload), protocol=name, published=value, measured=measured)


def compare_scores(
    scores: Scores, *, weights: Weights, evaluation: Evaluation
) -> Comparison | None:
    """Compare a score with the published one, if that is of exactly this measurement.

    The weights must be the published ones, unchanged, scored by a published protocol on every
    image of the validation split, in float32, with the published normalisation.
    """
    match = zoo.find(file=weights.meta["zoo"]["file"]) if "zoo" in weights.meta else None
    if match is None or not scores.confusion.any():
        return None
    row, upload = match
    usual, dataset = recipes.of_row(row).data, evaluation.dataset
    if (
        dataset.name != row.dataset
        or evaluation.split != "val"
        or len(evaluation.source) != dataset.counts["val"]
        or evaluation.dtype != "float32"
        or (evaluation.mean, evaluation.std) != (usual.mean, usual.std)
    ):
        return None
    measured = scores.summary()["mIoU"]
    return compare_miou(row, upload, protocol=evaluation.protocol, measured=measured)


class Published(NamedTuple):
    """Published training memory (GB) and evaluation speed (images/s); None: not comparable."""

    memory: float | None
    fps: float | None


def costs_of(config: ConfigDict) -> Published:
    """Find the published memory and speed of a config's work.

    They were published for one schedule of each dataset, but do not depend on it.
    """
    for row in zoo.ROWS:
        if row.memory and (row.variant, row.dataset) == (config.model.variant, config.data.name):
            usual = recipes.of_row(row)
            trains_alike = all(
                config.train[field] == usual.train[field]
                for field in ("batch_size", "crop_size", "accumulate", "remat")
            )
            # `reference` changes how scales are averaged: no difference in cost.
            ours, theirs = (
                dataclasses.replace(protocol_of(c), reference="v0") for c in (config, usual)
            )
            return Published(
                row.memory if trains_alike else None, row.fps if ours == theirs else None
            )
    return Published(None, None)
