"""Local and gs:// paths, and atomic writes: a kill leaves the old file or the new one.

Local paths are pathlib's. Paths in Google Cloud Storage use `etils.epath` and gcsfs: there, writes
are atomic anyway, but there are no folders, renames, locks or appends.
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

# Without gcsfs's cache of folder listings, because Orbax writes without gcsfs.
fsspec.config.conf.setdefault("gcs", {}).setdefault("use_listings_cache", False)


def cache_folder() -> Path:
    """Return the folder for files that can be computed or downloaded again."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hrnet_jax"


def to_path(text: str | os.PathLike[str]) -> AnyPath:
    """Turn a user's text into a path: in a bucket if it begins with gs://, else local.

    Raises:
        ValueError: another kind of address, or gcsfs is not installed.
    """
    text = os.fspath(text)
    address = re.match(r"([A-Za-z][\w+.-]+)://", text)
    if address is None:
        return Path(os.path.expanduser(text))  # like a shell, leaves the ~name of no user
    if address[1] != "gs":
        raise ValueError(
            f"{text} is an address of a kind that is not supported; give a local path, or one in "
            "Google Cloud Storage, gs://BUCKET/FOLDER."
        )
    if importlib.util.find_spec("gcsfs") is None:
        raise ValueError(
            f"{text} cannot be read without the package gcsfs; pip install 'hrnet-jax[gcs]', or "
            "give a local path."
        )
    # Otherwise epath would use TensorFlow if it is installed, which we do not test.
    os.environ.setdefault("EPATH_USE_TF", "false")
    return epath.Path(text)


def to_local_path(text: str | os.PathLike[str]) -> Path:
    """Turn a user's text into a local path.

    Raises:
        ValueError: it is an address of any kind.
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
    """Make a folder and its parents, and check before hours of work that it is writable.

    Raises:
        OSError: the folder cannot be made or written to.
    """
    if is_remote(path):  # has no folders, and gcsfs would create a bucket with a mistyped name
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
    """List all files below a folder, sorted."""
    if not is_remote(folder):
        return sorted(path for path in folder.rglob("*") if path.is_file())
    # `walk` makes one request per folder, `rglob` two per file. epath's walk drops gs://.
    return sorted(
        epath.Path("gs://" + os.fspath(place).removeprefix("gs://")) / name
        for place, _, names in folder.walk()
        for name in names
    )


def size_of(path: AnyPath) -> int:
    """Return the size of a file in bytes."""
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
    """Open a temporary file next to `path` that replaces `path` if the block succeeds.

    For a bucket the contents stay in memory until then.

    Raises:
        OSError: the file cannot be written.
    """
    path = epath.Path(path) if is_remote(path) else Path(path)
    if is_remote(path):
        # Not a file of gcsfs, which is sent even if the block fails.
        contents = io.BytesIO()
        yield contents
        try:
            path.write_bytes(contents.getvalue())
        except Exception as error:  # gcsfs raises many types, often with poor messages
            raise OSError(
                f"{path} could not be written ({error}). Check that the bucket exists and that "
                "this account may write to it."
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
    """Whether the process that was writing `.name.<pid>.tmp` on this machine has ended.

    Call it before this process writes: containers often reuse a pid, so its own pid means that an
    earlier process has ended.
    """
    pid = temporary.name.split(".")[-2]
    if not pid.isdigit() or os.name == "nt":  # Windows would send Ctrl-C below
        return False
    if int(pid) == os.getpid():
        return True
    try:
        os.kill(int(pid), 0)  # signal 0 only checks
    except OSError as error:  # without permission it is a process of another user
        return isinstance(error, ProcessLookupError)
    return False


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a text file atomically."""
    with atomic_write(path) as file:
        file.write(text.encode())


def write_json(path: str | os.PathLike[str], content: Any) -> None:
    """Write a JSON file atomically.

    Raises:
        ValueError: a number is not finite, which JSON does not allow.
        TypeError: a value is not plain data.
    """
    write_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


def append_text(path: AnyPath, text: str) -> None:
    """Append to a text file; a file in a bucket is read and rewritten."""
    if is_remote(path):  # gcsfs would overwrite it, with only a warning
        write_text(path, (path.read_text() if path.exists() else "") + text)
    else:
        with path.open("ab") as file:
            file.write(text.encode())
