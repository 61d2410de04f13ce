"""Read files of unknown origin safely."""

import collections
import contextlib
import errno
import hashlib
import io
import os
import stat
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_END = "<4s4H2LH"  # the record that ends an archive: PKWARE's APPNOTE, section 4.3.16
_END64 = "<4sQ2H2L4Q"  # the 64-bit record, if there is one: section 4.3.14
_LOCATOR64 = "<4sLQL"  # follows the 64-bit record
_HEADER_BYTES = 30  # of an entry, without its name

MAX_FILE_BYTES = 16 << 30  # the largest file of the zoo has 0.3 GB

AGAIN = "Download or copy the file again."
RESAVE = "Save only the weights: torch.save(model.state_dict(), path)."


class UnsafeFileError(ValueError):
    """The file needs something that weights never need, such as running code."""


class CorruptFileError(ValueError):
    """The file is damaged, or its format cannot be read."""


def brief(value: Any) -> str:
    """Describe a value for a message; its full text could be endless or exhaust memory."""
    if isinstance(value, str):
        return repr(value[:100])
    if isinstance(value, tuple) and not any(isinstance(part, tuple) for part in value[:8]):
        return f"({', '.join(map(brief, value[:8]))})"
    return repr(value) if isinstance(value, int | float | None) else f"a {type(value).__name__}"


@contextlib.contextmanager
def errors_about(path: str | os.PathLike[str]) -> Iterator[None]:
    """Prefix our own errors with the file's name."""
    try:
        yield
    except (UnsafeFileError, CorruptFileError) as error:
        raise type(error)(f"{os.fspath(path)}: {error}") from None


def read_whole(path: str | os.PathLike[str]) -> tuple[bytes, str]:
    """Return the bytes of a regular file, and their SHA-256 in hexadecimal digits.

    The file is read once and not mapped, so a later change on disk has no effect.
    """
    status = Path(path).stat()
    if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
        # Opening a pipe or a device could block forever; open() refuses a folder itself.
        raise CorruptFileError("It is not a regular file. Copy its content to one first.")
    with Path(path).open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size > MAX_FILE_BYTES:
            raise CorruptFileError(
                f"It has {size} bytes, over the limit of {MAX_FILE_BYTES}. "
                "Save a file that holds only the weights."
            )
        try:
            data = file.read(size)
        except MemoryError:
            raise OSError(errno.ENOMEM, f"No memory for {size} bytes", os.fspath(path)) from None
    if len(data) != size:
        raise CorruptFileError(f"It shrank while it was read. {AGAIN}")
    return data, hashlib.sha256(data).hexdigest()


def read_zip(data: bytes) -> dict[str, bytes]:
    """Read the entries of an uncompressed zip file, by name.

    `zipfile` reads them and verifies their checksums. It also accepts archives that two programs
    could read differently: with bytes before or after them, shared bytes, equal or odd names, or a
    wrong number of entries. These are refused.
    """
    if data[-22:-18] != b"PK\5\6":  # the signature of the end record, if it has no comment
        raise CorruptFileError(
            "The zip directory is not at the end of the file: it was truncated, or something was "
            f"appended. {AGAIN}"
        )
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = archive.infolist()
            _check_count(data, len(entries))
            _check_entries(entries, len(data))
            return {entry.filename: archive.read(entry) for entry in entries}
    except CorruptFileError:
        raise
    except (zipfile.BadZipFile, ValueError, OverflowError, NotImplementedError, EOFError) as error:
        raise CorruptFileError(f"It is not a valid zip file: {error!s:.200}. {AGAIN}") from None


def _check_count(data: bytes, count: int) -> None:
    """Compare the number of entries with the end records."""
    end = len(data) - struct.calcsize(_END)
    _, disk, first_disk, here, total, *_ = struct.unpack_from(_END, data, end)
    counts = {here, total}
    end64 = end - struct.calcsize(_LOCATOR64) - struct.calcsize(_END64)
    if end64 >= 0 and data[end64 : end64 + 4] == b"PK\6\6":
        counts = (counts - {0xFFFF}) | {*struct.unpack_from(_END64, data, end64)[6:8]}
    if disk or first_disk or counts != {count}:
        raise CorruptFileError(
            f"The zip directory holds {count} entries, but its end record disagrees. {AGAIN}"
        )


def _check_entries(entries: list[zipfile.ZipInfo], size: int) -> None:
    """Check that entries are stored uncompressed, with unique names and no shared bytes."""
    names = collections.Counter(entry.filename for entry in entries)
    for entry in entries:
        name = entry.orig_filename
        parts = name.split("/")
        if not name.isprintable() or "\\" in name or not all(parts) or {".", ".."} & {*parts}:
            raise CorruptFileError(f"The zip entry {name!r:.100} has an invalid name. {AGAIN}")
        if names[name] != 1:
            raise CorruptFileError(f"The zip file has two entries {name!r:.100}. {AGAIN}")
        if entry.flag_bits & 0x2041:  # the three bits of encryption
            raise CorruptFileError(
                f"The zip entry {name!r:.100} is encrypted. Save it without a password."
            )
        if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size:
            raise CorruptFileError(
                f"The zip entry {name!r:.100} is compressed, which PyTorch never does. "
                "Save it again with torch.save."
            )
    entries = sorted(entries, key=lambda entry: entry.header_offset)
    if not entries or entries[0].header_offset != 0:
        raise CorruptFileError(
            f"Something was added before the zip file, or its beginning was lost. {AGAIN}"
        )
    ends = [*(entry.header_offset for entry in entries[1:]), size]
    for entry, end in zip(entries, ends, strict=True):
        if entry.header_offset + _HEADER_BYTES + entry.file_size > end:
            raise CorruptFileError(
                f"The zip entry {entry.filename!r:.100} claims {entry.file_size} bytes, and so "
                f"overlaps the next one. {AGAIN}"
            )
