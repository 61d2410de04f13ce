"""Random-access readers: number -> the undecoded files of one example."""

import collections
import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import Protocol, runtime_checkable

from hrnet_jax.data.dataset import Dataset, Part

HOW_TO_POINT = (
    "Point to the folder with --config.data.root=/path/to/{name}; to try the program without"
    " any download, use configs/hr18s_minicity.py."
)


Complain = Callable[[str, list[str]], None]  # gets a problem and all names that have it


@dataclasses.dataclass(frozen=True, kw_only=True)
class Record:
    """One example as stored: nothing decoded yet."""

    id: str  # the relative path that image and label share, for reports
    image: bytes
    label: bytes
    image_path: str  # for messages; a member of an archive gives its archive as well
    label_path: str


@runtime_checkable
class Source(Protocol):
    """What the pipeline reads from; workers get it by pickle."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Record: ...

    def paths(self, index: int) -> tuple[str, str]:
        """Name image and label of an example without reading them."""


class FolderSource:
    """The records of one split, read from a dataset's official folder layout.

    Order: the parts of the split one after the other; within a part the order of its list file,
    else the sorted relative paths of the images. All pairs are checked here, so that a missing
    label shows before training starts, not hours into it. `complain` hears of each problem with
    the pairs and the names that have it; where it returns instead of raising, the complete pairs
    are read.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        dataset: Dataset,
        split: str,
        *,
        complain: Complain | None = None,  # by default a ValueError
    ):
        complain = complain or _refuse
        root = Path(root).expanduser().absolute()
        if split not in dataset.splits:
            raise ValueError(
                f"Dataset {dataset.name!r} has no split {split!r}; use one of"
                f" {sorted(dataset.splits)}."
            )
        if not root.is_dir():
            raise FileNotFoundError(_not_found(root, "folder", dataset))
        self._root = str(root)
        self._pairs: list[tuple[str, Part]] = []  # (stem, part)
        for part in dataset.splits[split]:
            self._pairs += [(stem, part) for stem in _paired_stems(root, part, dataset, complain)]
        if not self._pairs:
            complain(
                f"Split {split!r} of dataset {dataset.name!r} is empty: no image under"
                + "".join(
                    f"\n  {root / part.images} ends in {part.image_suffix!r}"
                    f" ({_suffixes_seen(root / part.images)})"
                    for part in dataset.splits[split]
                )
                + f"\n{dataset.obtain}",
                [],
            )

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, index: int) -> Record:
        image_path, label_path = self.paths(index)
        return Record(
            id=self._pairs[index][0],
            image=Path(image_path).read_bytes(),
            label=Path(label_path).read_bytes(),
            image_path=image_path,
            label_path=label_path,
        )

    def paths(self, index: int) -> tuple[str, str]:
        stem, part = self._pairs[index]
        return (
            os.path.join(self._root, part.images, stem + part.image_suffix),
            os.path.join(self._root, part.labels, stem + part.label_suffix),
        )


def _refuse(problem: str, names: list[str]) -> None:
    raise ValueError(problem)


def _paired_stems(root: Path, part: Part, dataset: Dataset, complain: Complain) -> list[str]:
    for folder in (root / part.images, root / part.labels):
        if not folder.is_dir():
            raise FileNotFoundError(_not_found(folder, "folder", dataset))
    images = _stems(root / part.images, part.image_suffix)
    labels = _stems(root / part.labels, part.label_suffix)
    if part.list_file is None:
        wanted = images
        _require_none(
            complain,
            set(labels) - set(images),
            f"labels of dataset {dataset.name!r} have no image",
            found=f"{root / part.labels}/*{part.label_suffix}",
            missing=f"{root / part.images}/*{part.image_suffix}",
        )
    else:
        wanted = _read_list(root / part.list_file, dataset, complain)
        _require_none(
            complain,
            set(wanted) - set(images),
            f"images of dataset {dataset.name!r} are listed but missing",
            found=f"{root / part.list_file}",
            missing=f"{root / part.images}/*{part.image_suffix}",
        )
    _require_none(
        complain,
        set(wanted) - set(labels),
        f"images of dataset {dataset.name!r} have no label",
        found=f"{root / part.images}/*{part.image_suffix}",
        missing=f"{root / part.labels}/*{part.label_suffix}",
    )
    complete = set(images) & set(labels)
    return [stem for stem in wanted if stem in complete]


def _stems(folder: Path, suffix: str) -> list[str]:
    """Relative paths without suffix, in the order of the full paths (as the reference sorts)."""
    return [path.removesuffix(suffix) for path in sorted(_walk(folder)) if path.endswith(suffix)]


def _walk(folder: Path) -> list[str]:
    paths = []
    # Links are followed: a city or the whole image folder often lies on another disk.
    for parent, _, names in os.walk(folder, followlinks=True):
        prefix = Path(parent).relative_to(folder).as_posix()
        # Hidden files are no images: macOS leaves "._name.png" beside "name.png" on other disks.
        names = [name for name in names if not name.startswith(".")]
        paths += names if prefix == "." else [f"{prefix}/{name}" for name in names]
    return paths


def _read_list(path: Path, dataset: Dataset, complain: Complain) -> list[str]:
    if not path.is_file():
        raise FileNotFoundError(_not_found(path, "list file", dataset))
    stems = path.read_text(encoding="utf-8").split("\n")
    stems = [stem.strip() for stem in stems if stem.strip()]
    if repeated := [stem for stem, count in collections.Counter(stems).items() if count > 1]:
        complain(
            f"{path} lists {len(repeated)} names more than once: {_first(repeated)}."
            " Remove the repetitions; they would be trained on and counted twice.",
            repeated,
        )
    return list(dict.fromkeys(stems))


def _require_none(
    complain: Complain, stems: set[str], problem: str, *, found: str, missing: str
) -> None:
    if stems:
        complain(
            f"{len(stems)} {problem}: {_first(sorted(stems))}.\n  found in {found}\n"
            f"  absent from {missing}\nImage and label must have the same relative path up to"
            " their suffixes; add the missing files or remove the lone ones.",
            sorted(stems),
        )


def _first(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def _suffixes_seen(folder: Path) -> str:
    counts = collections.Counter(Path(path).suffix for path in _walk(folder))
    seen = ", ".join(f"{count} x {suffix!r}" for suffix, count in counts.most_common(3))
    return f"found: {seen or 'no file'}"


def _not_found(path: Path, kind: str, dataset: Dataset) -> str:
    return (
        f"Dataset {dataset.name!r}: there is no {kind} {path}\n{dataset.obtain}\n"
        + HOW_TO_POINT.format(name=dataset.name)
    )
