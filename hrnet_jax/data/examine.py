"""Checks of a whole dataset: every label pixel, every image's header and integrity, all pairs.

A label can be legal pixel by pixel and still be the wrong file; what only the whole set tells
(`suspicions`) is therefore looked for besides the faults of single files.
"""

import collections
import dataclasses
import hashlib
import io
import itertools
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Float64, Int64
from PIL import Image as PILImage

from hrnet_jax.data.dataset import Dataset
from hrnet_jax.data.decode import (
    check_image,
    decode_image,
    decode_label,
    different_sizes,
    illegal_values,
)
from hrnet_jax.data.headers import BadFile, Header, has_sound_chunks, undecodable
from hrnet_jax.data.sources.folder import Source
from hrnet_jax.data.types import IGNORE_LABEL, Label

SUGGESTIONS = {  # by kind of fault
    "pairs": "",  # the problem tells
    "count": "Unpack the whole archives again into an empty folder; scores of another set of images"
    " are not comparable with published ones.",
    "unreadable": "Copy the files again from where they came. To train without them:"
    " --config.data.on_error=quarantine.",
    "too large": "Cut them into tiles of a few megapixels.",
    "format": "Save labels as PNGs with one channel of class values, images as 8-bit PNG or JPEG.",
    "size": "Make these labels again from their images; resizing them would move borders.",
    "values": "Correct the files, or give the values a class or 255 (ignored) in the label map.",
    "twice": "Remove the copies, unless an image should weigh more than others.",
    "overlap": "Remove them from one split: scores on images trained on say nothing.",
    "meaning": "",  # each has one of its own
}


class Fault(NamedTuple):
    """What is wrong with one file."""

    kind: str  # a key of SUGGESTIONS
    path: str
    text: str
    weight: int = 0  # the larger the worse: pixels


class Checked(NamedTuple):
    """What one example has told."""

    image_path: str
    faults: list[Fault]
    counts: Int64[np.ndarray, "256"] | None = None  # pixels of each raw value; None: unreadable
    image_kind: str = ""  # "JPEG", "16-bit PNG", ...
    size: tuple[int, int] = (0, 0)  # of the image as it is shown (height, width)
    digest: bytes = b""  # of the image file


@dataclasses.dataclass(frozen=True, kw_only=True)
class Finding:
    """One kind of problem of one split, with all files that have it, the worst first."""

    kind: str  # a key of SUGGESTIONS
    split: str
    problem: str  # one line
    files: list[str]
    details: list[str]  # one text per file, maybe fewer
    suggestion: str
    stops_training: bool  # else a warning: there are good reasons for some, others are guesses


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
    threads: int | None = None,  # by default one per core
    track: Callable[[Iterable[Checked]], Iterable[Checked]] = iter,  # shows progress
) -> tuple[list[Finding], dict[str, Statistics]]:
    """Read the examples of all splits; return what is wrong, and statistics of each split.

    Memory: a few kilobytes per example that waits to be counted, and one decoded label per thread.
    """
    work = [
        (split, index)
        for split, source in sources.items()
        for index in spread(len(source), limit and -(-limit // len(sources)))
    ]
    by_split: dict[str, list[Checked]] = {split: [] for split in sources}
    with ThreadPoolExecutor(threads or os.cpu_count()) as pool:
        results = pool.map(lambda item: check(sources[item[0]], item[1], dataset), work)
        for (split, _), checked in zip(work, track(results), strict=True):
            by_split[split].append(checked)
    statistics = {split: _sum(checked, dataset) for split, checked in by_split.items()}
    findings = [
        finding
        for split, checked in by_split.items()
        for finding in (*_of_files(split, checked), *_repeated(split, checked))
    ]
    findings += _overlap(by_split)
    findings += suspicions(dataset, statistics.values())
    return findings, statistics


def spread(total: int, limit: int | None) -> Sequence[int]:
    """Choose at most `limit` of `total` indices, evenly spaced: 10, 3 -> 0, 3, 6."""
    if limit is None or limit >= total:
        return range(total)
    return [index * total // limit for index in range(limit)]


def check(source: Source, index: int, dataset: Dataset) -> Checked:
    """Check one example: the label pixel by pixel, the image without decoding it."""
    image_path, label_path = source.paths(index)
    try:
        record = source[index]
    except (ValueError, OSError) as error:  # an archive may be damaged
        return Checked(image_path, [Fault("unreadable", image_path, str(error))])
    assert record.label is not None, "splits that are examined have labels"
    faults: list[Fault] = []
    header = raw = None
    try:
        header = check_image(record.image, path=image_path)
        _require_sound(record.image, path=image_path, what="image")
        if header.bits == 16:  # which may turn black
            decode_image(record.image, path=image_path)
    except BadFile as error:
        faults.append(Fault(error.kind, image_path, str(error)))
    try:
        raw = decode_label(record.label, path=label_path)
        _require_sound(record.label, path=label_path, what="label")
    except BadFile as error:
        hint = _palette_hint(record.label, dataset) if error.kind == "format" else ""
        faults.append(Fault(error.kind, label_path, str(error) + hint))
    size = upright_size(record.image, header) if header else (0, 0)
    if header and raw is not None and size != raw.shape:
        mismatch = different_sizes(size, raw, record)
        faults.append(Fault(mismatch.kind, label_path, str(mismatch)))
    counts = None if raw is None else count_values(raw)
    if raw is not None and counts is not None:
        bad_pixels = int(counts[~dataset.lookup_table()[1]].sum())
        if bad_pixels:
            illegal = illegal_values(raw, dataset, path=label_path)
            faults.append(Fault(illegal.kind, label_path, str(illegal), bad_pixels))
    return Checked(
        image_path=image_path,
        faults=faults,
        counts=counts,
        image_kind=_kind(header) if header else "",
        size=size,
        digest=hashlib.sha1(record.image, usedforsecurity=False).digest(),
    )


def count_values(raw: Label) -> Int64[np.ndarray, "256"]:
    """Count the pixels of each value."""
    if raw.size < 2**24:  # beyond, the counts of OpenCV are no longer exact
        counts = cv2.calcHist([np.ascontiguousarray(raw)], [0], None, [256], [0, 256])
        return counts.ravel().astype(np.int64)
    return np.bincount(raw.ravel(), minlength=256).astype(np.int64)


def upright_size(data: bytes, header: Header) -> tuple[int, int]:
    """Return height and width of an image after its EXIF rotation, without decoding it."""
    if header.may_turn:
        with PILImage.open(io.BytesIO(data)) as file:
            if file.getexif().get(0x0112, 1) >= 5:
                return header.width, header.height
    return header.height, header.width


def _require_sound(data: bytes, *, path: str, what: str) -> None:
    if not has_sound_chunks(data):
        reason = "A checksum in it is wrong: bits have changed."
        raise undecodable(data, path=path, what=what, reason=reason)


def _palette_hint(data: bytes, dataset: Dataset) -> str:
    with PILImage.open(io.BytesIO(data)) as file:
        if file.mode not in ("RGB", "RGBA"):
            return ""
        colors = np.unique(np.asarray(file.convert("RGB"))[::4, ::4].reshape(-1, 3), axis=0)
    known = set(map(tuple, dataset.palette)) | {(0, 0, 0)}
    if (colors.min(axis=1) == colors.max(axis=1)).all():
        return " Its three channels are equal: keep one of them."
    if all(tuple(map(int, color)) in known for color in colors):
        return f" Its colours are those of {dataset.name!r}: replace each by its class's value."
    return f" It has {len(colors)} colours, not those of {dataset.name!r}."


def _kind(header: Header) -> str:
    return header.format if header.bits <= 8 else f"{header.bits}-bit {header.format}"


# From examples to findings.


def _sum(checked: Sequence[Checked], dataset: Dataset) -> Statistics:
    counts = [item.counts for item in checked if item.counts is not None]
    raw = np.stack(counts) if counts else np.zeros((0, 256), np.int64)
    table, is_legal = dataset.lookup_table()
    # [256 classes]: which raw values make up each class
    belongs = (table[:, None] == np.arange(dataset.num_classes)) & is_legal[:, None]
    by_class = raw @ belongs.astype(np.int64)
    return Statistics(
        examples=len(checked),
        pixels=raw.sum(axis=0),
        class_pixels=by_class.sum(axis=0),
        class_labels=(by_class > 0).sum(axis=0),
        image_kinds=collections.Counter(item.image_kind for item in checked if item.image_kind),
        sizes=collections.Counter(item.size for item in checked if item.size != (0, 0)),
    )


def wrong_counts(dataset: Dataset, sources: Mapping[str, Source]) -> list[Finding]:
    """Find the splits that hold more or fewer examples than the dataset officially has."""
    if not dataset.counts_are_official:
        return []
    return [
        Finding(
            kind="count",
            split=split,
            problem=f"{len(sources[split])} examples, but {dataset.name} has {official} officially",
            files=[],
            details=[],
            suggestion=SUGGESTIONS["count"],
            stops_training=False,
        )
        for split, official in dataset.counts.items()
        if split in sources and len(sources[split]) != official
    ]


def _of_files(split: str, checked: Sequence[Checked]) -> Iterator[Finding]:
    faults = [fault for item in checked for fault in item.faults]
    for kind in SUGGESTIONS:
        of_kind = sorted((f for f in faults if f.kind == kind), key=lambda f: (-f.weight, f.path))
        if of_kind:
            pixels = sum(fault.weight for fault in of_kind)
            what = {
                "unreadable": "cannot be read",
                "too large": "declare too many pixels",
                "format": "have the wrong channels or bits",
                "size": "differ from their image in size",
                "values": f"hold values outside the label mapping, {pixels:,} pixels in all",
            }[kind]
            yield Finding(
                kind=kind,
                split=split,
                problem=f"{len(of_kind)} of {2 * len(checked)} files {what}",
                files=[fault.path for fault in of_kind],
                details=[fault.text for fault in of_kind],
                suggestion=SUGGESTIONS[kind],
                stops_training=True,
            )


def _repeated(split: str, checked: Sequence[Checked]) -> Iterator[Finding]:
    groups = [group for group in _by_digest(checked).values() if len(group) > 1]
    if groups:
        yield Finding(
            kind="twice",
            split=split,
            problem=f"images that are there more than once, byte for byte: {len(groups)}",
            files=[path for group in groups for path in group[1:]],
            details=["\n  is also ".join(group) for group in groups],
            suggestion=SUGGESTIONS["twice"],
            stops_training=False,
        )


def _overlap(by_split: Mapping[str, Sequence[Checked]]) -> Iterator[Finding]:
    for (first, one), (second, two) in itertools.combinations(by_split.items(), 2):
        mine, yours = _by_digest(one), _by_digest(two)
        pairs = sorted((mine[digest][0], yours[digest][0]) for digest in mine.keys() & yours.keys())
        if pairs:
            yield Finding(
                kind="overlap",
                split=f"{first} and {second}",
                problem=f"images of {second} that are in {first} too, byte for byte: {len(pairs)}",
                files=[path for _, path in pairs],
                details=["\n  is also ".join(pair[::-1]) for pair in pairs],
                suggestion=SUGGESTIONS["overlap"],
                stops_training=False,
            )


def _by_digest(checked: Iterable[Checked]) -> dict[bytes, list[str]]:
    groups: dict[bytes, list[str]] = {}
    for item in checked:
        if item.digest and item.size != (0, 0):  # all empty files are equal
            groups.setdefault(item.digest, []).append(item.image_path)
    return groups


def suspicions(dataset: Dataset, statistics: Iterable[Statistics]) -> list[Finding]:
    """Conclude from the values that occur in all labels together what the files really are."""
    statistics = list(statistics)
    present = set(np.flatnonzero(sum(s.pixels for s in statistics)).tolist())
    found = _meaning(dataset, present, num_labels=sum(s.examples for s in statistics))
    if not present or found is None:
        return []
    return [
        Finding(
            kind="meaning",
            split="all splits",
            problem=found[0],
            files=[],
            details=[],
            suggestion=found[1],
            stops_training=False,
        )
    ]


def _meaning(dataset: Dataset, present: set[int], *, num_labels: int) -> tuple[str, str] | None:
    """Return problem and suggestion; only one, because the first explains the others."""
    are_indices = all(raw == index for raw, index in _classes(dataset).items())
    as_values = _meaning_of_indices if are_indices else _meaning_of_raw_values
    return _meaning_of_pictures(dataset, present, num_labels=num_labels) or as_values(
        dataset, present
    )


def _classes(dataset: Dataset) -> dict[int, int]:
    """The raw values of a dataset that mean a class, and which."""
    return {raw: index for raw, index in dataset.label_map.items() if index != IGNORE_LABEL}


def _meaning_of_pictures(
    dataset: Dataset, present: set[int], *, num_labels: int
) -> tuple[str, str] | None:
    """Labels whose values are no classes at all, but colours or a single one."""
    count = dataset.num_classes
    step = math.gcd(*present)
    if present == {0, 255} and count > 1 and 255 not in _classes(dataset):
        return (
            "the labels hold 0 and 255 only: binary masks?",
            "Map 255 to class 1 in the label map ({0: 0, 255: 1}), or save them with 0 and 1.",
        )
    if len(present) == 1 and num_labels > 2 and count > 1:
        return (
            f"every pixel of every label is {max(present)}",
            "Are these the right label files?",
        )
    if (
        present - set(dataset.label_map)
        and len(present) > 2
        and step >= 5
        and max(present) // step < max(count, 256 // step)
    ):
        return (
            f"all label values are multiples of {step}: drawn to be looked at?",
            f"Map each value to a {step}th of it, or use the files with class values.",
        )
    return None


def _meaning_of_indices(dataset: Dataset, present: set[int]) -> tuple[str, str] | None:
    """Labels of another numbering, where each value should be the class of this number."""
    count = dataset.num_classes
    illegal = present - set(dataset.label_map)
    values = present - {IGNORE_LABEL}
    if count == 19 and values <= set(range(34)) and len(illegal) > 1:
        return (
            f"the labels hold values up to {max(values)} where 19 classes are expected:"
            " they look like Cityscapes' labelIds",
            "Use --config.data.name=cityscapes, which reads labelIds, or the *_labelTrainIds.png.",
        )
    if illegal == {count} and 0 in present:
        known = {59: "Pascal Context's 60 classes", 150: "ADE20K's files"}.get(count, "ADE20K")
        return (
            f"the labels hold 0 to {count}, one value more than there are classes: they look like"
            f" classes counted from 1, with 0 for unlabelled or background (as in {known})",
            "Map 0 to 255 and each other value to one less, or add a class for 0 at the front.",
        )
    if count == 150 and 0 in present and IGNORE_LABEL not in present:
        return (
            "no pixel of 150 classes is 255: they look like ADE20K's own files, where 0 means"
            " unlabelled and classes count from 1",
            "Map 0 to 255 and each other value to one less.",
        )
    if (
        count == 60
        and dataset.classes[0] == "background"
        and IGNORE_LABEL in present
        and 59 not in present
    ):
        return (
            "the labels hold 255 and never 59: they look like Pascal Context's 59 classes, without"
            " background",
            "Use the dataset with 59 classes, or the files with 60.",
        )
    return None


def _meaning_of_raw_values(dataset: Dataset, present: set[int]) -> tuple[str, str] | None:
    """Labels that hold class indices already, where the dataset's label map makes them."""
    count = dataset.num_classes
    values = present - {IGNORE_LABEL}
    beyond = {raw for raw in _classes(dataset) if raw >= count}
    if len(beyond) >= 3 and values and max(values) < count:
        return (
            f"no label holds a value above {count - 1}, although {len(beyond)} classes have such"
            " raw values: they look like class indices (for Cityscapes: trainIds)",
            f"Give the files with raw ids, which {dataset.name!r} maps itself.",
        )
    if present - set(dataset.label_map) == {IGNORE_LABEL} and max(values, default=0) < count:
        return (
            "the labels hold 255 and no value above the last class index: they look already mapped"
            " (zero label reduced)",
            f"Give the original files, which {dataset.name!r} maps itself.",
        )
    return None


# What follows for training.


def class_weights(pixels: Int64[np.ndarray, " classes"]) -> Float64[np.ndarray, " classes"]:
    """Return the inverse square roots of the classes' shares, 1 on average over pixels.

    A class without pixels gets the largest weight of the others; it has no effect.
    """
    if not pixels.any():
        return np.ones(len(pixels))
    share = pixels / pixels.sum()
    with np.errstate(divide="ignore"):
        weights = np.where(pixels > 0, share, np.nan) ** -0.5
    weights /= np.nansum(share * weights)
    return np.where(pixels > 0, weights, np.nanmax(weights))
