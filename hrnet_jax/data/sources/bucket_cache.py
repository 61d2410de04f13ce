"""Local copies of what lies in a bucket and can only be read from a disk."""

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

_PART = 8 << 20  # bytes at a time


def local_copy(folder: AnyPath, *, terminal: Terminal) -> Path:
    """Copy a prepared dataset from a bucket, unless it was copied before; returns the copy.

    What lies on a disk, in whatever form, is returned as it is.

    Copies lie in the cache folder of this user, each under a name made of the address and of the
    sizes and times of all files: a dataset that was prepared anew is copied anew. Files get their
    names when they are complete, so a copy that was cut off goes on with the next file. The
    processes of one machine share the copy.

    Raises:
        FileNotFoundError: where no prepared dataset lies.
        OSError: the disk has no room for it; tells how much it needs.
    """
    if not is_remote(folder):
        return folder
    below = map(epath.Path, files_below(folder) if folder.exists() else [])
    files = {path: size_of(path) for path in below}
    if not any(path.name == "dataset_info.json" for path in files):
        raise FileNotFoundError(
            f"{folder} holds no dataset that --mode prepare wrote. Prepare it on a local disk, "
            "copy the folder with `gcloud storage cp --recursive`, and give the copy's address."
        )
    state = [(str(path), size, path.stat().mtime) for path, size in files.items()]
    name = hashlib.sha256(json.dumps(state).encode()).hexdigest()[:16]
    copy = cache_folder() / "data" / name
    copy.mkdir(parents=True, exist_ok=True)
    with (copy / ".lock").open("w") as file:
        with contextlib.suppress(OSError):  # without locks each process copies for itself
            lock_descriptor(file.fileno())
        targets = {path: copy / path.relative_to(folder) for path in files}
        missing = [path for path in files if not targets[path].exists()]
        needed = sum(files[path] for path in missing)
        if needed > (free := shutil.disk_usage(copy).free):
            raise OSError(
                f"{folder} is read from a copy in {copy}, which needs {needed / 1e9:.1f} GB more, "
                f"but {free / 1e9:.1f} GB are free; make room, or set XDG_CACHE_HOME to a folder "
                "on another disk."
            )
        if missing:
            terminal.line(f"Copying {needed / 1e6:,.0f} MB from {folder} to {copy}")
        with terminal.live("Copying", total=needed, in_bytes=True) as live:
            for path in missing:
                targets[path].parent.mkdir(parents=True, exist_ok=True)
                with path.open("rb") as source, atomic_write(targets[path]) as target:
                    while part := source.read(_PART):
                        target.write(part)
                        live.advance(len(part))
    return copy


@contextlib.contextmanager
def local_file(path: epath.Path) -> Iterator[Path]:
    """Copy one file from a bucket to a place where it is while the block runs."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / path.name
        with path.open("rb") as source, copy.open("wb") as target:
            shutil.copyfileobj(source, target, _PART)
        yield copy
