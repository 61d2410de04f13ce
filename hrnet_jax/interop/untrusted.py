"""Reading files nobody vouches for."""

import contextlib
import errno
import hashlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import numpy as np

MAX_FILE_BYTES = 16 << 30  # the largest file of the zoo has 0.3 GB

AGAIN = "Download or copy the file again."


class UnsafeFileError(ValueError):
    """The file asks for something that weights never need, such as running code."""


class CorruptFileError(ValueError):
    """The file is damaged, or laid out in a way that cannot be read."""


@contextlib.contextmanager
def errors_about(path: str | os.PathLike[str]) -> Iterator[None]:
    """Put the file's name in front of our own errors."""
    try:
        yield
    except (UnsafeFileError, CorruptFileError) as error:
        raise type(error)(f"{os.fspath(path)}: {error}") from None


def read_whole(path: str | os.PathLike[str]) -> tuple[memoryview, str]:
    """Read a regular file into memory: its bytes, and their SHA-256 in hexadecimal digits.

    It is read once and not mapped: what was checked is what is used, whatever happens on disk.
    """
    status = Path(path).stat()
    if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
        # Opening a pipe or a device could wait or read for ever; open() refuses a folder itself.
        raise CorruptFileError("It is not a regular file. Copy its content to one first.")
    with Path(path).open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size > MAX_FILE_BYTES:
            raise CorruptFileError(
                f"It has {size} bytes, over the limit of {MAX_FILE_BYTES}. "
                "Save a file that holds only the weights."
            )
        try:
            data = np.empty(size, np.uint8).data
        except MemoryError:
            raise OSError(errno.ENOMEM, f"No memory for {size} bytes", os.fspath(path)) from None
        if file.readinto(data) != size:
            raise CorruptFileError(f"It shrank while it was read. {AGAIN}")
    return data, hashlib.sha256(data).hexdigest()
