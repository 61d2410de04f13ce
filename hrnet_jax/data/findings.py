"""Group the faults of single examples into findings per split, each with a suggestion."""

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence

from hrnet_jax.data.check_example import Checked
from hrnet_jax.data.dataset import Dataset
from hrnet_jax.data.sources.folder import Source

SUGGESTIONS = {  # by kind of fault
    "pairs": "",  # part of the problem's text
    "count": "Unpack the whole archives again into an empty folder; scores on another set of images"
    " are not comparable with published ones.",
    "unreadable": "Copy the files again from their origin. To train without them:"
    " --config.data.on_error=quarantine.",
    "too large": "Cut them into tiles of a few megapixels.",
    "format": "Save labels as PNGs with one channel of class values, images as 8-bit PNG or JPEG.",
    "size": "Make these labels again from their images; resizing them would move borders.",
    "values": "Correct the files, or give the values a class or 255 (ignored) in the label map.",
    "twice": "Remove the copies, unless an image should count more than others.",
    "overlap": "Remove them from one split: scores on training images are meaningless.",
    "meaning": "",  # each finding has its own
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Finding:
    """One kind of problem in one split, with all affected files, the worst first."""

    kind: str  # a key of SUGGESTIONS
    split: str
    problem: str  # one line
    files: list[str] = dataclasses.field(default_factory=list)
    details: list[str] = dataclasses.field(default_factory=list)  # at most one text per file
    suggestion: str
    stops_training: bool = False  # False: a warning; it may be intended, or is only a guess


def wrong_counts(dataset: Dataset, sources: Mapping[str, Source]) -> list[Finding]:
    """Find the splits whose number of examples differs from the official one."""
    if not dataset.counts_are_official:
        return []
    return [
        Finding(
            kind="count",
            split=split,
            problem=f"{len(sources[split])} examples, but {dataset.name} has {official} officially",
            suggestion=SUGGESTIONS["count"],
        )
        for split, official in dataset.counts.items()
        if split in sources and len(sources[split]) != official
    ]


def file_findings(split: str, checked: Sequence[Checked]) -> Iterator[Finding]:
    """Group the faults of single files by kind."""
    faults = [fault for item in checked for fault in item.faults]
    faults.sort(key=lambda fault: (-fault.bad_pixels, fault.path))
    for kind in SUGGESTIONS:
        if of_kind := [fault for fault in faults if fault.kind == kind]:
            pixels = sum(fault.bad_pixels for fault in of_kind)
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


def copies_within_split(split: str, checked: Sequence[Checked]) -> Iterator[Finding]:
    """Find images that occur more than once in a split."""
    groups = [group for group in _by_digest(checked).values() if len(group) > 1]
    if groups:
        yield Finding(
            kind="twice",
            split=split,
            problem=f"images that occur more than once, byte for byte: {len(groups)}",
            files=[path for group in groups for path in group[1:]],
            details=["\n  equals ".join(group) for group in groups],
            suggestion=SUGGESTIONS["twice"],
        )


def copies_across_splits(by_split: Mapping[str, Sequence[Checked]]) -> Iterator[Finding]:
    """Find images that occur in more than one split."""
    for (first, one), (second, two) in itertools.combinations(by_split.items(), 2):
        mine, yours = _by_digest(one), _by_digest(two)
        pairs = sorted((mine[digest][0], yours[digest][0]) for digest in mine.keys() & yours.keys())
        if pairs:
            yield Finding(
                kind="overlap",
                split=f"{first} and {second}",
                problem=f"images of {second} that {first} holds too, byte for byte: {len(pairs)}",
                files=[path for _, path in pairs],
                details=["\n  equals ".join(pair[::-1]) for pair in pairs],
                suggestion=SUGGESTIONS["overlap"],
            )


def _by_digest(checked: Iterable[Checked]) -> dict[bytes, list[str]]:
    groups: dict[bytes, list[str]] = {}
    for item in checked:
        if item.digest and item.size != (0, 0):  # all empty files are equal
            groups.setdefault(item.digest, []).append(item.image_path)
    return groups
