"""Compares two evaluations of the same images, with confidence intervals."""

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float64
from rich.table import Column, Table
from rich.text import Text

from hrnet_jax.evaluation.per_image import PerImage
from hrnet_jax.runs.paths import AnyPath, to_path
from hrnet_jax.runs.terminal import Terminal

_RESAMPLES = 2000
_CHUNK = 2**22  # random numbers drawn at a time


class Evaluation(NamedTuple):
    """The contents of an eval folder."""

    folder: AnyPath
    receipt: dict[str, Any]
    counts: PerImage


class Difference(NamedTuple):
    """IoU of A and B in percent, and B - A with its 95 % confidence interval."""

    name: str
    a: float
    b: float
    difference: float
    low: float
    high: float

    @property
    def is_clear(self) -> bool:
        """Whether the interval excludes zero."""
        return self.low > 0 or self.high < 0


def compare(folders: Sequence[str | AnyPath], *, terminal: Terminal) -> list[Difference]:
    """Print how the IoU of each class differs between two eval folders; return the differences.

    Raises:
        FileNotFoundError: a folder has no evaluation.
        ValueError: there are not two folders, or they differ in images or classes.
    """
    if len(folders) != 2:
        raise ValueError(
            f"--mode compare needs two folders that --mode eval wrote, not {len(folders)}; as in "
            "--mode compare runs/a runs/b."
        )
    one, two = map(read_evaluation, folders)
    check_comparable(one, two)
    result = differences(one.counts, two.counts, classes=one.receipt["classes"])
    for name, evaluation in (("A", one), ("B", two)):
        receipt = evaluation.receipt
        terminal.line(
            f"{name}: {receipt['mIoU']:.2f} mIoU  {receipt['checkpoint']}, weights "
            f"{receipt['weights'][:8]}\n   {receipt['protocol']}"
        )
    if one.receipt["protocol"] != two.receipt["protocol"]:
        terminal.warn("the protocols differ, so not all of the difference is due to the network.")
    terminal.table(difference_table(result))
    terminal.line(
        f"Interval: paired bootstrap, 95 % of {_RESAMPLES} resamples of the "
        f"{one.receipt['images']} images. *: excludes zero."
    )
    return result


def read_evaluation(path: str | AnyPath) -> Evaluation:
    """Read an eval folder; `path` is the folder, its workdir or its `scores.json`.

    Raises:
        FileNotFoundError: there is no evaluation.
        ValueError: it has no scores, or its files are damaged or from different evaluations.
    """
    path = to_path(path)
    folder = path.parent if path.name == "scores.json" else path
    if not (folder / "scores.json").exists() and (folder / "eval" / "scores.json").exists():
        folder = folder / "eval"
    for name in ("scores.json", "per_image.npz"):
        if not (folder / name).exists():
            raise FileNotFoundError(
                f"There is no {name} in {folder}; --mode compare needs two folders that --mode "
                "eval wrote."
            )
    try:
        receipt = json.loads((folder / "scores.json").read_text())
        data, confusion = receipt["data"], np.array(receipt.get("confusion", []), np.int64)
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{folder / 'scores.json'} cannot be read ({error!r}); evaluate again with --mode eval."
        ) from error
    if not confusion.size:
        raise ValueError(
            f"{folder / 'scores.json'} has no scores: the split {receipt['split']!r} has no labels."
        )
    counts = PerImage.load(folder / "per_image.npz")
    right = np.array_equal(counts.intersection.sum(0, dtype=np.int64), np.diagonal(confusion))
    if counts.fingerprint() != data or not right:
        raise ValueError(
            f"{folder / 'per_image.npz'} and scores.json are from different evaluations; "
            "evaluate again with --mode eval."
        )
    return Evaluation(folder, receipt, counts)


def check_comparable(one: Evaluation, two: Evaluation) -> None:
    """Refuse evaluations of different classes or different images."""
    names, others = one.receipt["classes"], two.receipt["classes"]
    if names != others:
        place = next((i for i, (x, y) in enumerate(zip(names, others, strict=False)) if x != y), -1)
        first = f", first {names[place]!r} and {others[place]!r}" if place >= 0 else ""
        raise ValueError(
            f"{one.folder} has {len(names)} classes and {two.folder} {len(others)}{first}: only "
            "evaluations of the same classes can be compared."
        )
    if one.receipt["data"] == two.receipt["data"]:
        return
    ids, other_ids = set(one.counts.ids.tolist()), set(two.counts.ids.tolist())
    reason = "the same names, but different sizes or labels"
    if unmatched := sorted(ids ^ other_ids):
        reason = f"{len(unmatched)} of them in one only, first {unmatched[0]!r}"
    raise ValueError(
        f"{one.folder} and {two.folder} are evaluations of different images ({len(ids)} and "
        f"{len(other_ids)}, {reason}); evaluate both on the same data."
    )


def differences(a: PerImage, b: PerImage, *, classes: list[str]) -> list[Difference]:
    """Compare mIoU, then the IoU of each class, largest difference first."""
    ious = [_with_mean(_iou(counts, np.ones((1, len(a.ids)))))[0] for counts in (a, b)]
    resampled = _bootstrap(a, b)
    rows = []
    for column, name in enumerate(["mIoU", *classes]):
        first, second = (100 * float(iou[column]) for iou in ious)
        values = 100 * resampled[:, column]
        values = values[~np.isnan(values)]  # a resample may lack the class
        low, high = np.percentile(values, (2.5, 97.5)) if values.size else (np.nan, np.nan)
        rows.append(Difference(name, first, second, second - first, float(low), float(high)))
    return rows[:1] + sorted(
        rows[1:], key=lambda row: (np.isnan(row.difference), -abs(row.difference), row.name)
    )


def _bootstrap(a: PerImage, b: PerImage) -> Float64[np.ndarray, "draws k1"]:
    """Differences of IoU, B - A, mean first, over resamples of the images."""
    rng = np.random.default_rng(0)
    count = len(a.ids)
    chunk = max(1, _CHUNK // count)
    chunks = []
    for first in range(0, _RESAMPLES, chunk):
        size = min(chunk, _RESAMPLES - first)
        times = rng.multinomial(count, np.full(count, 1 / count), size=size).astype(np.float64)
        chunks.append(_with_mean(_iou(b, times)) - _with_mean(_iou(a, times)))
    return np.concatenate(chunks)


def _iou(counts: PerImage, times: Float64[np.ndarray, "r n"]) -> Float64[np.ndarray, "r k"]:
    """IoU of each class if image i counts times[:, i] times; exact below 2**53 pixels."""
    intersection, labelled, predicted = (
        times @ array.astype(np.float64)
        for array in (counts.intersection, counts.labelled, counts.predicted)
    )
    union = labelled + predicted - intersection
    return np.where(union > 0, intersection / np.maximum(union, 1), np.nan)


def _with_mean(iou: Float64[np.ndarray, "r k"]) -> Float64[np.ndarray, "r k1"]:
    known = ~np.isnan(iou)
    mean = np.where(known, iou, 0).sum(1) / np.maximum(known.sum(1), 1)
    return np.concatenate([mean[:, None], iou], 1)


def difference_table(rows: list[Difference]) -> Table:
    """Lay out the differences; "-" where a class does not occur."""
    numbers = (Column(name, justify="right") for name in ("A", "B", "difference", "95 % interval"))
    table = Table("class", *numbers, "", title="IoU in percent, B - A", title_justify="left")
    for row in rows:
        known = not np.isnan(row.difference)
        table.add_row(
            Text(row.name),  # brackets in a name are not markup
            "-" if np.isnan(row.a) else f"{row.a:.2f}",
            "-" if np.isnan(row.b) else f"{row.b:.2f}",
            f"{row.difference:+.2f}" if known else "-",
            "-" if np.isnan(row.low) else f"{row.low:+.2f} to {row.high:+.2f}",
            "*" if row.is_clear else "",
            end_section=row is rows[0],
        )
    return table
