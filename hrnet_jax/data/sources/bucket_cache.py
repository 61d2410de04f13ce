"""Local copies of files in a bucket, for readers that need a disk."""

import contextlib
import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from etils import epath
from filelock import lock_descriptor

from hrnet_jax.runs.paths import (
    AnyPath,
    atomic_write,
    cache_folder,
    files_below,
    is_remote,
    size_of,
)
from hrnet_jax.runs.terminal import Terminal

_BLOCK = 8 << 20  # bytes


def local_copy(folder: AnyPath, *, terminal: Terminal) -> Path:
    """Copy a prepared dataset from a bucket, unless it was copied before; return the copy.

    A path on a local disk is returned unchanged.

    Copies are in the user's cache folder. The name of a copy depends on the address and on the
    sizes and times of all files, so a changed dataset is copied again. Files get their names when
    they are complete, so an interrupted copy resumes at the next file. The processes of one machine
    share the copy.

    Raises:
        FileNotFoundError: there is no prepared dataset.
        OSError: the disk is too full; the message says how much is needed.
    """
    if not is_remote(folder):
        return folder
    below = map(epath.Path, files_below(folder) if folder.exists() else [])
    sizes = {path: size_of(path) for path in below}
    if not any(path.name == "dataset_info.json" for path in sizes):
        raise FileNotFoundError(
            f"{folder} holds no dataset that --mode prepare wrote. Prepare it on a local disk, "
            "copy the folder with `gcloud storage cp --recursive`, and use the address of the copy."
        )
    state = [(str(path), size, path.stat().mtime) for path, size in sizes.items()]
    name = hashlib.sha256(json.dumps(state).encode()).hexdigest()[:16]
    copy = cache_folder() / "data" / name
    copy.mkdir(parents=True, exist_ok=True)
    with (copy / ".lock").open("w") as file:
        with contextlib.suppress(OSError):  # without locks each process makes its own copy
            lock_descriptor(file.fileno())
        _copy_missing(folder, copy, sizes=sizes, terminal=terminal)
    return copy


def _copy_missing(
    folder: epath.Path, copy: Path, *, sizes: dict[epath.Path, int], terminal: Terminal
) -> None:
    targets = {path: copy / path.relative_to(folder) for path in sizes}
    missing = [path for path in sizes if not targets[path].exists()]
    needed = sum(sizes[path] for path in missing)
    if needed > (free := shutil.disk_usage(copy).free):
        raise OSError(
            f"{folder} is read from a copy in {copy}, which needs {needed / 1e9:.1f} GB more, "
            f"but {free / 1e9:.1f} GB are available; free some, or set XDG_CACHE_HOME to a folder "
            "on another disk."
        )
    if missing:
        terminal.line(f"Copying {needed / 1e6:,.0f} MB from {folder} to {copy}")
    with terminal.live("Copying", total=needed, in_bytes=True) as live:
        for path in missing:
            targets[path].parent.mkdir(parents=True, exist_ok=True)
            with path.open("rb") as source, atomic_write(targets[path]) as target:
                while block := source.read(_BLOCK):
                    target.write(block)
                    live.advance(len(block))


@contextlib.contextmanager
def local_file(path: epath.Path) -> Iterator[Path]:
    """Copy one file from a bucket into a temporary folder, removed after the block."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / path.name
        with path.open("rb") as source, copy.open("wb") as target:
            shutil.copyfileobj(source, target, _BLOCK)
        yield copy
