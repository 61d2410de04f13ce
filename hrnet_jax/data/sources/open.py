"""Open the source at `config.data.root`: a folder, zip files, or ArrayRecord shards."""

import os

from hrnet_jax.data.dataset import Dataset
from hrnet_jax.data.sources.array_record import ArrayRecordSource, prepared_folder
from hrnet_jax.data.sources.folder import FileSource, Folder, Source
from hrnet_jax.data.sources.pairs import Files, OnProblem, not_found
from hrnet_jax.data.sources.zip_files import ZipFiles
from hrnet_jax.runs.paths import to_local_path

_TARS = (".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz")


def open_source(
    root: str | os.PathLike[str],
    dataset: Dataset,
    split: str,
    *,
    on_problem: OnProblem | None = None,  # called for incomplete pairs; by default an error
) -> Source:
    """Open one split of the dataset at `root`.

    `root` is the folder with the dataset's layout, a zip file of it, a folder with the zip files
    that together hold it, or the output of `--mode prepare`. All give the same examples bit for
    bit.

    Raises:
        FileNotFoundError: there is none of these; the message names what is missing.
        ValueError: it is something else; the message says what to do.
    """
    parts = dataset.parts(split)
    path = to_local_path(root).absolute()
    files: Files
    if path.is_file():
        if path.name.endswith(_TARS):
            raise ValueError(
                f"{path} allows no random access; unpack it with 'tar xf {path.name}' and point to"
                " the folder with --config.data.root."
            )
        files = ZipFiles([path], dataset)
    elif not path.is_dir():
        raise FileNotFoundError(not_found(f"folder {path}", dataset))
    elif any((path / part.images).is_dir() for part in parts):
        files = Folder(path)
    elif archives := sorted(path.glob("*.zip")):
        files = ZipFiles(archives, dataset)
    elif folder := prepared_folder(path, dataset):
        return ArrayRecordSource(folder, dataset, split)
    else:
        below = sorted([*path.glob("*"), *path.glob("*/*")])
        if deeper := [f for f in below if any((f / part.images).is_dir() for part in parts)]:
            raise FileNotFoundError(
                f"{path} does not hold {dataset.name}, but a folder in it does:"
                f" --config.data.root={deeper[0]}"
            )
        files = Folder(path)  # reports the missing folders
    return FileSource(files, dataset, split, on_problem=on_problem)
