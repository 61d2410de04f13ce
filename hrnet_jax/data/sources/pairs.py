"""Find the pairs of image and label in a dataset's layout, and report missing files."""

import collections
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Protocol, runtime_checkable

from hrnet_jax.data.dataset import Dataset, Part

OnProblem = Callable[[str, list[str]], None]  # gets a problem and the names of all its files


@runtime_checkable
class Files(Protocol):
    """Named files, on a disk or in archives. Names are relative paths with slashes."""

    def where(self, name: str) -> str:
        """Return the full name of a file or folder, for messages."""

    def has_folder(self, folder: str) -> bool: ...

    def has_file(self, name: str) -> bool: ...

    def below(self, folder: str) -> list[str]:
        """Return the names of all files in a folder and its subfolders, relative to it."""

    def read(self, name: str) -> bytes: ...


@dataclasses.dataclass(frozen=True)
class PairFinder:
    """Finds the pairs of image and label of a dataset, and reports missing files."""

    files: Files
    dataset: Dataset
    on_problem: OnProblem

    def stems(self, part: Part) -> list[str]:
        """Return the stems of all complete pairs of a part, in order.

        Raises:
            FileNotFoundError: a folder or a list file is missing.
        """
        files, name = self.files, self.dataset.name
        for folder in filter(None, (part.images, part.labels)):
            if not files.has_folder(folder):
                raise FileNotFoundError(not_found(f"folder {files.where(folder)}", self.dataset))
        images = _stems(files, part.images, suffix=part.image_suffix)
        labels = _stems(files, part.labels, suffix=part.label_suffix) if part.labels else images
        where_images = f"{files.where(part.images)}/*{part.image_suffix}"
        where_labels = f"{files.where(part.labels or '')}/*{part.label_suffix}"
        if not part.lists:
            wanted = images
            self._require_none(
                set(labels) - set(images),
                f"labels of dataset {name!r} have no image",
                present=where_labels,
                missing=where_images,
            )
        else:
            wanted = self._listed(part)
            self._require_none(
                set(wanted) - set(images),
                f"images of dataset {name!r} are listed but missing",
                present=", ".join(map(files.where, part.lists)),
                missing=where_images,
            )
        self._require_none(
            set(wanted) - set(labels),
            f"images of dataset {name!r} have no label",
            present=where_images,
            missing=where_labels,
        )
        complete = set(images) & set(labels)
        return [stem for stem in wanted if stem in complete]

    def _listed(self, part: Part) -> list[str]:
        excluded = {stem for name in part.exclude_lists for stem in self._read_list(name)}
        stems = dict.fromkeys(stem for name in part.lists for stem in self._read_list(name))
        return [stem for stem in stems if stem not in excluded]

    def _read_list(self, name: str) -> list[str]:
        where = self.files.where(name)
        if not self.files.has_file(name):
            raise FileNotFoundError(not_found(f"list file {where}", self.dataset))
        try:
            text = self.files.read(name).decode("utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(f"{where} is not a list of names in UTF-8: {error}.") from error
        stems = collections.Counter(line.strip() for line in text.split("\n") if line.strip())
        if repeated := [stem for stem, count in stems.items() if count > 1]:
            self.on_problem(
                f"{where} lists {len(repeated)} names more than once: {_first(repeated)}."
                " Remove the repetitions; they would be trained on and counted twice.",
                repeated,
            )
        return list(stems)

    def _require_none(self, stems: set[str], problem: str, *, present: str, missing: str) -> None:
        if stems:
            self.on_problem(
                f"{len(stems)} {problem}: {_first(sorted(stems))}.\n  present in {present}\n"
                f"  missing in {missing}\nImage and label must have the same relative path up to"
                " their suffixes; add the missing files or remove the unpaired ones.",
                sorted(stems),
            )


def _stems(files: Files, folder: str, *, suffix: str) -> list[str]:
    """Return relative paths without suffix, sorted as full paths, like the reference."""
    paths = sorted(path for path in files.below(folder) if path.endswith(suffix))
    # Hidden files are not images: macOS writes "._name.png" next to "name.png" on other disks.
    return [path.removesuffix(suffix) for path in paths if not _is_hidden(path)]


def _is_hidden(path: str) -> bool:
    return path.rpartition("/")[2].startswith(".")


def _first(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def suffixes_seen(files: Files, folder: str) -> str:
    """Count the suffixes of the files in a folder, for messages."""
    paths = [path for path in files.below(folder) if not _is_hidden(path)]
    counts = collections.Counter(Path(path).suffix for path in paths)
    seen = ", ".join(f"{count} x {suffix!r}" for suffix, count in counts.most_common(3))
    return f"found: {seen or 'no file'}"


def not_found(what: str, dataset: Dataset) -> str:
    """Return the message for a missing folder or file."""
    return (
        f"Dataset {dataset.name!r}: there is no {what}\n{dataset.obtain}\n"
        f"Point to the folder with --config.data.root=/path/to/{dataset.name}; to try the program"
        " without any download, use configs/hr18s_minicity.py."
    )
