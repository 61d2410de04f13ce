"""Writing files so that a kill leaves the old one or the new one, never half of one."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO


@contextlib.contextmanager
def written_in_one_piece(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Open a temporary neighbour, which takes the place of `path` if the block succeeds."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a text file in one piece."""
    with written_in_one_piece(path) as file:
        file.write(text.encode())
