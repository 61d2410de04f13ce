"""The directory of an uncompressed zip file, read strictly (PKWARE's APPNOTE, section 4.3).

PyTorch never compresses, so an entry is a part of the file and needs no copy. Python's `zipfile`
is laxer than we want: it accepts bytes before and after the archive, overlapping and equal entries.
"""

import dataclasses
import itertools
import struct
import zlib
from typing import Any

from hrnet_jax.interop.untrusted import AGAIN, CorruptFileError

_END = "<4s4H2LH"
_END64 = "<4sQ2H2L4Q"
_LOCATOR64 = "<4sLQL"
_ENTRY = "<4s6H3L5H2L"
_LOCAL = "<4s5H3L2H"


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Entry:
    header: int  # its first byte
    content: slice
    checksum: int


def stored_entries(data: memoryview) -> dict[str, slice]:
    """Where each entry's bytes lie, after every checksum was verified."""
    count, start, size = _directory_place(data)
    entries: dict[str, _Entry] = {}
    place = start
    for _ in range(count):
        if place >= start + size:
            raise CorruptFileError(f"The zip directory holds fewer than {count} entries. {AGAIN}")
        name, entry, place = _entry(data, place, directory=start)
        if name in entries:
            raise CorruptFileError(f"The zip file has two entries {name!r:.100}. {AGAIN}")
        entries[name] = entry
    if place != start + size:
        raise CorruptFileError(f"The zip directory holds more than {count} entries. {AGAIN}")
    _check_spans(sorted((entry.header, entry.content.stop) for entry in entries.values()))
    for name, entry in entries.items():  # not before: entries that overlap could take for ever
        if zlib.crc32(data[entry.content]) != entry.checksum:
            raise CorruptFileError(
                f"The zip entry {name!r:.100} fails its CRC-32: its bytes changed. {AGAIN}"
            )
    return {name: entry.content for name, entry in entries.items()}


def _directory_place(data: memoryview) -> tuple[int, int, int]:
    """Number of entries, first byte and size of the directory, from the records that end a file."""
    end = len(data) - struct.calcsize(_END)
    if end < 0 or bytes(data[end : end + 4]) != b"PK\5\6":
        raise CorruptFileError(
            "The zip directory is not at the end of the file: it was cut short, or something was "
            f"appended. {AGAIN}"
        )
    _, *disks, here, count, size, start, comment = _unpack(_END, data, end)
    locator = end - struct.calcsize(_LOCATOR64)
    if locator >= 0 and bytes(data[locator : locator + 4]) == b"PK\6\7":
        old = (here, count, size, start)
        _, *disks64, end, total = _unpack(_LOCATOR64, data, locator)
        signature, _, _, _, *more, here, count, size, start = _unpack(_END64, data, end)
        agree = all(
            a in (b, full)
            for a, b, full in zip(
                old, (here, count, size, start), (0xFFFF, 0xFFFF, *[0xFFFFFFFF] * 2), strict=True
            )
        )
        whole = end + struct.calcsize(_END64) == locator and total == 1
        if signature != b"PK\6\6" or not (agree and whole) or any(disks64 + more):
            raise CorruptFileError(f"The two end records of the zip file disagree. {AGAIN}")
    if any(disks) or comment or here != count or start + size != end:
        raise CorruptFileError(
            "The zip directory is not where its end record says: bytes were lost, or put before "
            f"or behind the archive. {AGAIN}"
        )
    return count, start, size


def _entry(data: memoryview, place: int, *, directory: int) -> tuple[str, _Entry, int]:
    """The name and place of an entry, and where the directory goes on."""
    record = _unpack(_ENTRY, data, place)
    signature, _, _, flags, method, _, _, checksum, packed, size = record[:10]
    name_size, extra_size, comment_size, disk, _, _, header = record[10:]
    behind_name = place + struct.calcsize(_ENTRY) + name_size
    encoded = bytes(data[behind_name - name_size : behind_name])
    extra = bytes(data[behind_name : behind_name + extra_size])
    size, packed, header = _zip64_sizes(extra, size, packed, header)
    name = _checked_name(encoded)
    local = _unpack(_LOCAL, data, header)
    content = header + struct.calcsize(_LOCAL) + local[9] + local[10]
    local_name = bytes(data[header + 30 : header + 30 + local[9]])
    if (signature, local[0], local_name) != (b"PK\1\2", b"PK\3\4", encoded) or disk:
        raise CorruptFileError(f"The zip entry {name!r:.100} contradicts its own header. {AGAIN}")
    if (flags | local[2]) & 0x2041:  # the three bits of encryption
        raise CorruptFileError(
            f"The zip entry {name!r:.100} is encrypted. Save it without a password."
        )
    if method or local[3] or packed != size:
        raise CorruptFileError(
            f"The zip entry {name!r:.100} is compressed, as PyTorch's never are. "
            "Save it again with torch.save."
        )
    if content + size > directory:
        raise CorruptFileError(
            f"The zip entry {name!r:.100} claims {size} bytes, more than there are. {AGAIN}"
        )
    following = behind_name + extra_size + comment_size
    found = _Entry(header=header, content=slice(content, content + size), checksum=checksum)
    return name, found, following


def _zip64_sizes(extra: bytes, *sizes: int) -> list[int]:
    """Take those that do not fit 32 bits from the extra field 1."""
    missing = sizes.count(0xFFFFFFFF)
    if not missing:
        return list(sizes)
    if extra[:4] != struct.pack("<2H", 1, 8 * missing) or len(extra) < 4 + 8 * missing:
        raise CorruptFileError(f"A zip entry lacks its 64-bit sizes. {AGAIN}")
    large = iter(struct.unpack_from(f"<{missing}Q", extra, 4))
    return [next(large) if size == 0xFFFFFFFF else size for size in sizes]


def _checked_name(encoded: bytes) -> str:
    name = encoded.decode(errors="backslashreplace")
    parts = name.split("/")
    if not name.isprintable() or "\\" in name or not all(parts) or {".", ".."} & {*parts}:
        raise CorruptFileError(f"The zip entry {name!r:.100} has no proper name. {AGAIN}")
    return name


def _check_spans(spans: list[tuple[int, int]]) -> None:
    """The archive begins with the file, and no byte belongs to two entries."""
    if not spans or spans[0][0] != 0:
        raise CorruptFileError(f"Something was put before the zip file. {AGAIN}")
    for (_, end), (start, _) in itertools.pairwise(spans):
        if start < end:
            raise CorruptFileError(f"Two zip entries share bytes at {start}. {AGAIN}")


def _unpack(layout: str, data: memoryview, place: int) -> tuple[Any, ...]:
    if place < 0 or place + struct.calcsize(layout) > len(data):
        raise CorruptFileError(f"The zip file points to byte {place}, behind its end. {AGAIN}")
    return struct.unpack_from(layout, data, place)
