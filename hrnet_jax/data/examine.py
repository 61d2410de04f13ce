"""Check a whole dataset: every label pixel, every image's header and integrity, all pairs."""

import collections
import dataclasses
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from jaxtyping import Float64, Int64

from hrnet_jax.data.check_example import Checked, check
from hrnet_jax.data.dataset import Dataset
from hrnet_jax.data.findings import (
    Finding,
    copies_across_splits,
    copies_within_split,
    file_findings,
)
from hrnet_jax.data.label_values import suspicions
from hrnet_jax.data.sources.folder import Source


@dataclasses.dataclass(frozen=True, kw_only=True)
class Statistics:
    """Sums over the readable labels and images of one split."""

    examples: int
    pixels: Int64[np.ndarray, "256"]  # of each raw value
    class_pixels: Int64[np.ndarray, " classes"]  # after the label mapping
    class_labels: Int64[np.ndarray, " classes"]  # label files in which each class occurs
    image_kinds: Mapping[str, int]
    sizes: Mapping[tuple[int, int], int]  # (height, width) -> images


def examine(
    sources: Mapping[str, Source],
    dataset: Dataset,
    *,
    limit: int | None = None,  # examples in all, spread evenly; None: every one
    track: Callable[[Iterable[Checked]], Iterable[Checked]] = iter,  # shows progress
) -> tuple[list[Finding], dict[str, Statistics]]:
    """Check the examples of all splits; return the findings, and statistics of each split.

    Memory: a few kilobytes per example, and one decoded label per thread.
    """
    work = [
        (split, index)
        for split, source in sources.items()
        for index in spread(len(source), limit and -(-limit // len(sources)))
    ]
    by_split: dict[str, list[Checked]] = {split: [] for split in sources}
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        results = pool.map(lambda item: check(sources[item[0]], item[1], dataset=dataset), work)
        for (split, _), checked in zip(work, track(results), strict=True):
            by_split[split].append(checked)
    statistics = {split: _sum(checked, dataset) for split, checked in by_split.items()}
    findings = [
        finding
        for split, checked in by_split.items()
        for finding in (*file_findings(split, checked), *copies_within_split(split, checked))
    ]
    findings += copies_across_splits(by_split)
    pixels = sum((sums.pixels for sums in statistics.values()), np.zeros(256, np.int64))
    num_labels = sum(sums.examples for sums in statistics.values())
    findings += suspicions(dataset, pixels, num_labels=num_labels)
    return findings, statistics


def spread(total: int, limit: int | None) -> Sequence[int]:
    """Choose at most `limit` of `total` indices, evenly spaced: 10, 3 -> 0, 3, 6."""
    if limit is None or limit >= total:
        return range(total)
    return [index * total // limit for index in range(limit)]


def _sum(checked: Sequence[Checked], dataset: Dataset) -> Statistics:
    counts = [item.counts for item in checked if item.counts is not None]
    raw = np.stack(counts) if counts else np.zeros((0, 256), np.int64)
    table, is_legal = dataset.lookup_table()
    # [256 classes]: whether a raw value means a class
    is_class = (table[:, None] == np.arange(dataset.num_classes)) & is_legal[:, None]
    by_class = raw @ is_class.astype(np.int64)
    return Statistics(
        examples=len(checked),
        pixels=raw.sum(axis=0),
        class_pixels=by_class.sum(axis=0),
        class_labels=(by_class > 0).sum(axis=0),
        image_kinds=collections.Counter(item.image_kind for item in checked if item.image_kind),
        sizes=collections.Counter(item.size for item in checked if item.size != (0, 0)),
    )


def class_weights(pixels: Int64[np.ndarray, " classes"]) -> Float64[np.ndarray, " classes"]:
    """Return one over the square root of each class's share, scaled to a mean of 1 over all pixels.

    A class without pixels gets the largest weight of the others; it has no effect.
    """
    if not pixels.any():
        return np.ones(len(pixels))
    share = pixels / pixels.sum()
    with np.errstate(divide="ignore"):
        weights = np.where(pixels > 0, share, np.nan) ** -0.5
    weights /= np.nansum(share * weights)
    return np.where(pixels > 0, weights, np.nanmax(weights))
