"""Datasets in zip files, read without unpacking.

Nothing is written, so a hostile name cannot do harm here. Archives with features that no honest
archive of images has are refused all the same, because they were made to attack some program.

Members are read by our own code. A `zipfile.ZipFile` cannot be pickled for workers, its threads
share one file handle under a lock (8 threads take a quarter longer), and it has none of these
checks.
"""

import dataclasses
import os
import re
import stat
import struct
import zipfile
import zlib
from pathlib import Path

from hrnet_jax.data.dataset import Dataset

MAX_ENTRIES = 250_000  # in one archive
MAX_FILE_BYTES = 2**28  # of one file, unpacked
_MAX_DIRECTORY_BYTES = 2**26  # of the central directory, which is read before it can be checked


@dataclasses.dataclass(frozen=True)
class _Member:
    """One file in an archive. It can be pickled, because no archive is kept open."""

    archive: Path
    info: zipfile.ZipInfo

    def __str__(self) -> str:
        return f"{self.archive}/{self.info.filename}"

    def read(self) -> bytes:
        info, damaged = self.info, f"{self.archive} is damaged at {self.info.filename}"
        try:
            with self.archive.open("rb") as file:
                file.seek(info.header_offset)
                header = file.read(30)
                if header[:4] != b"PK\3\4":
                    raise zlib.error("its header is not at the declared position")
                # Name and extra field may have other lengths here than in the central directory.
                file.seek(sum(struct.unpack_from("<HH", header, 26)), os.SEEK_CUR)
                data = file.read(info.compress_size)
            if info.compress_type == zipfile.ZIP_DEFLATED:
                # One byte more than declared reveals a larger file.
                data = zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, info.file_size + 1)
        except (zlib.error, struct.error) as error:
            raise ValueError(f"{damaged}: {error}.{_AGAIN}") from error
        if len(data) != info.file_size or zlib.crc32(data) != info.CRC:
            raise ValueError(f"{damaged}: size or checksum do not match.{_AGAIN}")
        return data


_AGAIN = " Download or pack the archive again."


class ZipFiles:
    """The files of one dataset in one zip file, or in several that together hold the layout.

    The layout may begin at the top of an archive or in a folder of it.

    Raises:
        ValueError: an archive is damaged or was made to attack a program.
    """

    def __init__(self, paths: list[Path], dataset: Dataset):
        parts = [part for split in (*dataset.splits.values(), dataset.test) for part in split]
        parts += [part.fallback for part in parts if part.fallback]
        folders = {f for part in parts for f in (part.images, part.labels) if f is not None}
        lists = {name for part in parts for name in (*part.lists, *part.exclude_lists)}
        starts = tuple(f"{folder}/" for folder in folders)
        self._archives = ", ".join(map(str, paths))
        self._members: dict[str, _Member] = {}
        for path in paths:
            infos = _contents(path)
            top = _top(infos, folders | lists)
            for info in infos:
                name = info.filename.removeprefix(top)
                is_wanted = name in lists or name.startswith(starts)
                if not info.filename.startswith(top) or not is_wanted:
                    continue
                if (other := self._members.get(name)) is not None:
                    raise ValueError(
                        f"{name} is in two archives: {other.archive} and {path}. Use a folder with"
                        " the archives of one dataset only."
                    )
                self._members[name] = _Member(path, info)

    def where(self, name: str) -> str:
        member = self._members.get(name)
        return str(member) if member else f"{name} in {self._archives}"

    def has_folder(self, folder: str) -> bool:
        return any(name.startswith(f"{folder}/") for name in self._members)

    def has_file(self, name: str) -> bool:
        return name in self._members

    def below(self, folder: str) -> list[str]:
        start = f"{folder}/"
        return [name.removeprefix(start) for name in self._members if name.startswith(start)]

    def read(self, name: str) -> bytes:
        return self._members[name].read()


def _top(infos: list[zipfile.ZipInfo], wanted: set[str]) -> str:
    """Return the folder in which the layout begins: "" or "ADEChallengeData2016/"."""
    pattern = re.compile(f"((?:[^/]+/)*?)(?:{'|'.join(map(re.escape, sorted(wanted)))})(?:/|$)")
    tops = {match[1] for info in infos if (match := pattern.match(info.filename))}
    tops = {top for top in tops if not top.startswith("__MACOSX/")}
    return min(tops, key=lambda top: (top.count("/"), top), default="")


def _contents(path: Path) -> list[zipfile.ZipInfo]:
    """Return the files in an archive's central directory; refuse hostile entries."""
    try:
        _check_directory_size(path)
        with zipfile.ZipFile(path) as archive:
            infos = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, struct.error, EOFError) as error:
        raise ValueError(f"{path} is not a zip file, or damaged: {error}.{_AGAIN}") from error
    files: dict[str, zipfile.ZipInfo] = {}
    for info in infos:
        if problem := _problem(info):
            raise _refusal(path, f"{info.orig_filename!r} {problem}")
        if info.is_dir():
            continue
        if info.filename in files:
            raise _refusal(path, f"{info.filename!r} is in it twice")
        files[info.filename] = info
    return list(files.values())


def _problem(info: zipfile.ZipInfo) -> str | None:
    name, kind = info.orig_filename, stat.S_IFMT(info.external_attr >> 16)
    if name.startswith(("/", "\\")) or re.match("[A-Za-z]:", name):
        return "is an absolute name"
    if ".." in re.split(r"[/\\]", name):
        return "leads out of the archive"
    if "\0" in name:
        return "has a zero byte in its name"
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "is a link" if kind == stat.S_IFLNK else "is a device"
    if info.flag_bits & 1:
        return "is encrypted"
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return "is packed by another method than stored or deflated"
    if info.file_size > MAX_FILE_BYTES:
        return f"unpacks to {info.file_size:,} bytes, over the limit of {MAX_FILE_BYTES:,}"
    return None


def _refusal(path: Path, problem: str) -> ValueError:
    return ValueError(
        f"{path} is refused: {problem}. No archive of images needs that; download it from its"
        " publisher, or unpack it yourself and point to the folder."
    )


def _check_directory_size(path: Path) -> None:
    """Check the last record of an archive, because `zipfile` loads all entries at once."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 2**16 - 22 - 20 - 56))  # comment, end, locator, end of zip64
        tail = file.read()
    end = tail.rfind(b"PK\5\6")
    if end < 0:
        raise zipfile.BadZipFile("the central directory at its end is missing")
    entries, directory = struct.unpack_from("<HI", tail, end + 10)
    # A zip64 archive has the true numbers in a record of 56 bytes, followed by a locator of 20.
    if tail[max(0, end - 20) :].startswith(b"PK\6\7") and end >= 76:
        entries, directory = struct.unpack_from("<QQ", tail, end - 76 + 32)
    if entries > MAX_ENTRIES or directory > _MAX_DIRECTORY_BYTES:
        raise _refusal(
            path,
            f"it has {entries:,} entries in {directory:,} bytes, over the limit of"
            f" {MAX_ENTRIES:,} in {_MAX_DIRECTORY_BYTES:,}",
        )
