"""Local and gs:// paths, and atomic writes: a kill leaves the old file or the new one.

Local paths are pathlib's. Those of Google Cloud Storage go through `etils.epath` and gcsfs. Objects
there are written whole or not at all; there are no folders, renames, locks or appends.
"""

import contextlib
import importlib.util
import io
import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias, TypeGuard

import fsspec.config
from etils import epath

AnyPath: TypeAlias = Path | epath.Path

# gcsfs would cache listings of folders, but Orbax writes into them without gcsfs.
fsspec.config.conf.setdefault("gcs", {}).setdefault("use_listings_cache", False)


def cache_folder() -> Path:
    """The folder for what can be computed or downloaded again."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hrnet_jax"


def to_path(text: str | os.PathLike[str]) -> AnyPath:
    """Turn what a user gave into a path: one of a bucket if it begins with gs://, else a local one.

    Raises:
        ValueError: for another kind of address, or if the package that reads it is not installed.
    """
    text = os.fspath(text)
    address = re.match(r"([A-Za-z][\w+.-]+)://", text)
    if address is None:
        return Path(os.path.expanduser(text))  # keeps ~name of no user, as shells do
    if address[1] != "gs":
        raise ValueError(
            f"{text} is an address of a kind that is not read here; give a local path, or one of "
            "Google Cloud Storage, gs://BUCKET/FOLDER."
        )
    if importlib.util.find_spec("gcsfs") is None:
        raise ValueError(
            f"{text} cannot be read without the package gcsfs; pip install 'hrnet-jax[gcs]', or "
            "give a local path."
        )
    # Otherwise epath would use TensorFlow if it is installed, which is not tested.
    os.environ.setdefault("EPATH_USE_TF", "false")
    return epath.Path(text)


def to_local_path(text: str | os.PathLike[str]) -> Path:
    """Turn what a user gave into a path that must be on a local disk.

    Raises:
        ValueError: it lies in a bucket, or is another kind of address.
    """
    path = to_path(text)
    if is_remote(path):
        raise ValueError(f"{path} is in a bucket; copy it to a local disk first.")
    return path


def is_remote(path: str | os.PathLike[str]) -> TypeGuard[epath.Path]:
    """Whether a path lies in a bucket."""
    return os.fspath(path).startswith("gs://")


def absolute(path: AnyPath) -> AnyPath:
    """Make a local path absolute; epath would put the current folder before gs:// too."""
    return path if is_remote(path) else path.absolute()


def make_folder(path: AnyPath) -> None:
    """Make a folder and its parents; a bucket has none, and gcsfs would make a mistyped bucket.

    Raises:
        OSError: it cannot be made or written to; found before hours of work.
    """
    if is_remote(path):
        return
    try:
        path.mkdir(parents=True, exist_ok=True)
        if os.access(path, os.W_OK):
            return
        problem = "cannot be written to (read-only disk, or no permission)"
    except FileExistsError:
        problem = "cannot be made, because a file has this name"
    except OSError as error:
        problem = f"cannot be made ({error.strerror})"
    raise OSError(
        f"the folder {path} {problem}; choose another place with --workdir or --output, or for "
        "data with --config.data.root."
    )


def files_below(folder: AnyPath) -> list[AnyPath]:
    """All files below a folder, sorted."""
    if not is_remote(folder):
        return sorted(path for path in folder.rglob("*") if path.is_file())
    # One request for each folder, not two for each file; epath's walk drops gs://.
    return sorted(
        epath.Path("gs://" + os.fspath(place).removeprefix("gs://")) / name
        for place, _, names in folder.walk()
        for name in names
    )


def size_of(path: AnyPath) -> int:
    """The size of a file in bytes."""
    return path.stat().length if is_remote(path) else path.stat().st_size


def move_folder(folder: AnyPath, target: AnyPath) -> None:
    """Move a folder, replacing `target` if it exists; in a bucket file by file."""
    make_folder(target.parent)
    if not is_remote(folder):
        if target.exists():
            shutil.rmtree(target)
        folder.rename(target)
        return
    for file in map(epath.Path, files_below(folder)):
        file.copy(target / file.relative_to(folder), overwrite=True)
    folder.rmtree()


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Open a temporary file next to `path`, which replaces `path` if the block succeeds.

    For a bucket the contents are kept in memory, and sent if the block succeeds.
    """
    path = epath.Path(path) if is_remote(path) else Path(path)
    if is_remote(path):
        # When a block fails, gcsfs sends what was written so far; so it gets nothing before.
        contents = io.BytesIO()
        yield contents
        try:
            path.write_bytes(contents.getvalue())
        except Exception as error:  # gcsfs raises many types, and often names only its request
            raise OSError(
                f"{path} could not be written ({error}). Is there such a bucket, and may this "
                "account write to it?"
            ) from error
        return
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def has_ended(temporary: Path) -> bool:
    """Whether the process that writes `.name.<its number>.tmp` on this machine has ended.

    Containers often give the next process the same number; then it is this one, which asks before
    it writes.
    """
    number = temporary.name.split(".")[-2]
    if not number.isdigit() or os.name == "nt":  # where the call below sends Ctrl-C
        return False
    if int(number) == os.getpid():
        return True
    try:
        os.kill(int(number), 0)  # only asks
    except ProcessLookupError:
        return True
    except OSError:  # another user's
        return False
    return False


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a text file atomically."""
    with atomic_write(path) as file:
        file.write(text.encode())


def write_json(path: str | os.PathLike[str], content: Any) -> None:
    """Write a JSON file atomically.

    Raises:
        ValueError: a number in it is not finite, which JSON cannot hold.
        TypeError: it holds something that is not plain data.
    """
    write_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


def append_text(path: AnyPath, text: str) -> None:
    """Append to a text file; one in a bucket is read and written again."""
    if is_remote(path):  # gcsfs would overwrite instead, with no more than a warning
        write_text(path, (path.read_text() if path.exists() else "") + text)
    else:
        with path.open("ab") as file:
            file.write(text.encode())
