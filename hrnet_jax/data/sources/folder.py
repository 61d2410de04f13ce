"""Random access to the undecoded files of each example."""

import dataclasses
import os
from pathlib import Path
from typing import Protocol, runtime_checkable

from hrnet_jax.data.dataset import Dataset, Part
from hrnet_jax.data.sources.pairs import Files, OnProblem, PairFinder, suffixes_seen


@dataclasses.dataclass(frozen=True, kw_only=True)
class Record:
    """One example as stored, not decoded."""

    id: str  # the relative path that image and label share, for reports
    image: bytes
    label: bytes | None  # None: no pixel has a class
    image_path: str  # for messages; includes the archive, if any
    label_path: str


@runtime_checkable
class Source(Protocol):
    """The input of the pipeline; pickled for workers."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Record: ...

    def paths(self, index: int) -> tuple[str, str]:
        """Return the names of image and label for messages, without reading them."""


class FileSource:
    """The records of one split, read from files in a dataset's official layout.

    Order: part by part; within a part the order of its list files, else the sorted relative paths
    of the images. All pairs are checked here, so a missing label is reported before training
    starts. `on_problem` is called with each problem and the names of its files; if it returns
    instead of raising, the complete pairs are read.
    """

    def __init__(
        self,
        files: Files,
        dataset: Dataset,
        split: str,
        *,
        on_problem: OnProblem | None = None,  # default: raise a ValueError
    ):
        on_problem = on_problem or _refuse
        parts = dataset.parts(split)
        finder = PairFinder(files, dataset, on_problem)
        self._files = files
        self._pairs: list[tuple[str, Part]] = []  # (stem, part)
        for part in parts:
            if part.fallback and not (part.labels and files.has_folder(part.labels)):
                part = part.fallback
            self._pairs += [(stem, part) for stem in finder.stems(part)]
        if not self._pairs:
            on_problem(
                f"Split {split!r} of dataset {dataset.name!r} is empty: no image under"
                + "".join(
                    f"\n  {files.where(part.images)} ends in {part.image_suffix!r}"
                    f" ({suffixes_seen(files, part.images)})"
                    for part in parts
                )
                + f"\n{dataset.obtain}",
                [],
            )

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, index: int) -> Record:
        image, label = self._names(index)
        image_path, label_path = self.paths(index)
        return Record(
            id=self._pairs[index][0],
            image=self._files.read(image),
            label=self._files.read(label) if label else None,
            image_path=image_path,
            label_path=label_path,
        )

    def paths(self, index: int) -> tuple[str, str]:
        image, label = self._names(index)
        return self._files.where(image), self._files.where(label) if label else "no label"

    def _names(self, index: int) -> tuple[str, str | None]:
        stem, part = self._pairs[index]
        image = f"{part.images}/{stem}{part.image_suffix}"
        return image, part.labels and f"{part.labels}/{stem}{part.label_suffix}"


class Folder:
    """The files in a folder."""

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
        # Symbolic links are followed: image folders often link to another disk.
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


def _refuse(problem: str, names: list[str]) -> None:
    raise ValueError(problem)
