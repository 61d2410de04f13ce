"""Random-access readers: number -> the undecoded files of one example."""

import collections
import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import Protocol, runtime_checkable

from hrnet_jax.data.dataset import Dataset, Part
from hrnet_jax.runs.paths import to_local_path

HOW_TO_POINT = (
    "Point to the folder with --config.data.root=/path/to/{name}; to try the program without"
    " any download, use configs/hr18s_minicity.py."
)


OnProblem = Callable[[str, list[str]], None]  # gets a problem and all names that have it


@dataclasses.dataclass(frozen=True, kw_only=True)
class Record:
    """One example as stored: nothing decoded yet."""

    id: str  # the relative path that image and label share, for reports
    image: bytes
    label: bytes | None  # None: no pixel has a class
    image_path: str  # for messages; a member of an archive gives its archive as well
    label_path: str


@runtime_checkable
class Source(Protocol):
    """What the pipeline reads from; workers get it by pickle."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Record: ...

    def paths(self, index: int) -> tuple[str, str]:
        """Name image and label of an example without reading them."""


@runtime_checkable
class Files(Protocol):
    """Named files, on a disk or in archives. Names are relative paths with slashes."""

    def where(self, name: str) -> str:
        """Return what a message calls a file or a folder."""

    def has_folder(self, folder: str) -> bool: ...

    def has_file(self, name: str) -> bool: ...

    def below(self, folder: str) -> list[str]:
        """Return the names of all files in a folder and its folders, relative to it."""

    def read(self, name: str) -> bytes: ...


class FileSource:
    """The records of one split, read from files in a dataset's official layout.

    Order: the parts of the split one after the other; within a part the order of its list files,
    else the sorted relative paths of the images. All pairs are checked here, so that a missing
    label shows before training starts, not hours into it. `on_problem` hears of each problem with
    the pairs and the names that have it; where it returns instead of raising, the complete pairs
    are read.
    """

    def __init__(
        self,
        files: Files,
        dataset: Dataset,
        split: str,
        *,
        on_problem: OnProblem | None = None,  # by default a ValueError
    ):
        on_problem = on_problem or _refuse
        parts = dataset.parts(split)
        self._files = files
        self._pairs: list[tuple[str, Part]] = []  # (stem, part)
        for part in parts:
            while part.otherwise is not None and not _has_labels(files, part):
                part = part.otherwise
            self._pairs += [
                (stem, part) for stem in _paired_stems(files, part, dataset, on_problem)
            ]
        if not self._pairs:
            on_problem(
                f"Split {split!r} of dataset {dataset.name!r} is empty: no image under"
                + "".join(
                    f"\n  {files.where(part.images)} ends in {part.image_suffix!r}"
                    f" ({_suffixes_seen(files, part.images)})"
                    for part in parts
                )
                + f"\n{dataset.obtain}",
                [],
            )

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, index: int) -> Record:
        stem, part = self._pairs[index]
        image = f"{part.images}/{stem}{part.image_suffix}"
        label = None
        if part.labels is not None:
            label = self._files.read(f"{part.labels}/{stem}{part.label_suffix}")
        image_path, label_path = self.paths(index)
        return Record(
            id=stem,
            image=self._files.read(image),
            label=label,
            image_path=image_path,
            label_path=label_path,
        )

    def paths(self, index: int) -> tuple[str, str]:
        stem, part = self._pairs[index]
        return (
            self._files.where(f"{part.images}/{stem}{part.image_suffix}"),
            "no label"
            if part.labels is None
            else self._files.where(f"{part.labels}/{stem}{part.label_suffix}"),
        )


class FolderSource(FileSource):
    """The records of one split in a folder."""

    def __init__(
        self,
        root: str | os.PathLike[str],
        dataset: Dataset,
        split: str,
        *,
        on_problem: OnProblem | None = None,
    ):
        dataset.parts(split)  # a mistyped split comes first
        folder = to_local_path(root).absolute()
        if not folder.is_dir():
            raise FileNotFoundError(_not_found(str(folder), "folder", dataset))
        super().__init__(_Folder(folder), dataset, split, on_problem=on_problem)


class _Folder:
    def __init__(self, root: Path):
        self._root = str(root)

    def where(self, name: str) -> str:
        return os.path.join(self._root, name)

    def has_folder(self, folder: str) -> bool:
        return os.path.isdir(self.where(folder))

    def has_file(self, name: str) -> bool:
        return os.path.isfile(self.where(name))

    def below(self, folder: str) -> list[str]:
        paths = []
        # Links are followed: a city or the whole image folder often lies on another disk.
        for parent, _, names in os.walk(self.where(folder), followlinks=True):
            prefix = Path(parent).relative_to(self.where(folder)).as_posix()
            paths += names if prefix == "." else [f"{prefix}/{name}" for name in names]
        return paths

    def read(self, name: str) -> bytes:
        return Path(self.where(name)).read_bytes()


@dataclasses.dataclass(frozen=True, kw_only=True)
class First:
    """The first `count` records of a source, or all if there are fewer."""

    source: Source
    count: int

    def __len__(self) -> int:
        return min(self.count, len(self.source))

    def __getitem__(self, index: int) -> Record:
        return self.source[index]

    def paths(self, index: int) -> tuple[str, str]:
        return self.source.paths(index)


def _has_labels(files: Files, part: Part) -> bool:
    return part.labels is not None and files.has_folder(part.labels)


def _refuse(problem: str, names: list[str]) -> None:
    raise ValueError(problem)


def _paired_stems(files: Files, part: Part, dataset: Dataset, on_problem: OnProblem) -> list[str]:
    for folder in filter(None, (part.images, part.labels)):
        if not files.has_folder(folder):
            raise FileNotFoundError(_not_found(files.where(folder), "folder", dataset))
    images = _stems(files, part.images, part.image_suffix)
    labels = images
    if part.labels is not None:
        labels = _stems(files, part.labels, part.label_suffix)
    where_images = f"{files.where(part.images)}/*{part.image_suffix}"
    where_labels = f"{files.where(part.labels or '')}/*{part.label_suffix}"
    if not part.lists:
        wanted = images
        _require_none(
            on_problem,
            set(labels) - set(images),
            f"labels of dataset {dataset.name!r} have no image",
            found=where_labels,
            missing=where_images,
        )
    else:
        wanted = _listed(files, part, dataset, on_problem)
        _require_none(
            on_problem,
            set(wanted) - set(images),
            f"images of dataset {dataset.name!r} are listed but missing",
            found=", ".join(map(files.where, part.lists)),
            missing=where_images,
        )
    _require_none(
        on_problem,
        set(wanted) - set(labels),
        f"images of dataset {dataset.name!r} have no label",
        found=where_images,
        missing=where_labels,
    )
    complete = set(images) & set(labels)
    return [stem for stem in wanted if stem in complete]


def _stems(files: Files, folder: str, suffix: str) -> list[str]:
    """Relative paths without suffix, in the order of the full paths (as the reference sorts)."""
    paths = sorted(path for path in files.below(folder) if path.endswith(suffix))
    # Hidden files are no images: macOS leaves "._name.png" beside "name.png" on other disks.
    return [path.removesuffix(suffix) for path in paths if not _is_hidden(path)]


def _is_hidden(path: str) -> bool:
    return path.rpartition("/")[2].startswith(".")


def _listed(files: Files, part: Part, dataset: Dataset, on_problem: OnProblem) -> list[str]:
    without = {
        stem for name in part.lists_without for stem in _read_list(files, name, dataset, on_problem)
    }
    stems = {
        stem: None for name in part.lists for stem in _read_list(files, name, dataset, on_problem)
    }
    return [stem for stem in stems if stem not in without]


def _read_list(files: Files, name: str, dataset: Dataset, on_problem: OnProblem) -> list[str]:
    where = files.where(name)
    if not files.has_file(name):
        raise FileNotFoundError(_not_found(where, "list file", dataset))
    try:
        text = files.read(name).decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{where} is no list of names in UTF-8: {error}.") from error
    stems = [stem.strip() for stem in text.split("\n") if stem.strip()]
    if repeated := [stem for stem, count in collections.Counter(stems).items() if count > 1]:
        on_problem(
            f"{where} lists {len(repeated)} names more than once: {_first(repeated)}."
            " Remove the repetitions; they would be trained on and counted twice.",
            repeated,
        )
    return list(dict.fromkeys(stems))


def _require_none(
    on_problem: OnProblem, stems: set[str], problem: str, *, found: str, missing: str
) -> None:
    if stems:
        on_problem(
            f"{len(stems)} {problem}: {_first(sorted(stems))}.\n  found in {found}\n"
            f"  absent from {missing}\nImage and label must have the same relative path up to"
            " their suffixes; add the missing files or remove the lone ones.",
            sorted(stems),
        )


def _first(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def _suffixes_seen(files: Files, folder: str) -> str:
    paths = [path for path in files.below(folder) if not _is_hidden(path)]
    counts = collections.Counter(Path(path).suffix for path in paths)
    seen = ", ".join(f"{count} x {suffix!r}" for suffix, count in counts.most_common(3))
    return f"found: {seen or 'no file'}"


def _not_found(where: str, kind: str, dataset: Dataset) -> str:
    return (
        f"Dataset {dataset.name!r}: there is no {kind} {where}\n{dataset.obtain}\n"
        + HOW_TO_POINT.format(name=dataset.name)
    )
