"""Read the header of an image file without decoding it: format, size, and completeness.

Some decoders accept a truncated file and leave the rest grey or black. So the end of the file is
searched here, in 0.02 to 0.2 ms. Pillow must decode to find it, which takes 10 to 40 ms for images
of Cityscapes' size.
"""

import io
import re
import struct
from typing import NamedTuple

from PIL import Image as PILImage

# 8192 x 8192: 200 MB as RGB in each thread that reads ahead, and below the size at which Pillow
# warns of an attack. The largest images of the zoo's datasets have a thirtieth of these pixels.
MAX_PIXELS = 2**26

_PNG = b"\x89PNG\r\n\x1a\n"
_JPEG_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")  # the others belong to the pixels
_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_FOREIGN = {
    b"version https://git-lfs": "It is a Git LFS pointer: run `git lfs pull`.",
    b"<": "It is a text, perhaps the web page of a failed download.",
    b"PK\x03\x04": "It is a zip archive: unpack it.",
    b"%PDF": "It is a PDF.",
}


class BadFile(ValueError):
    """A file of a dataset that cannot be used for training; the message says what to do.

    `path` is the file, `kind` the kind of problem: "unreadable", "too large", "format", "size" or
    "values". Both need defaults: unpickling an exception from a worker process first makes it from
    its text, then sets its attributes.
    """

    def __init__(self, message: str, *, path: str = "", kind: str = "unreadable"):
        super().__init__(message)
        self.path, self.kind = path, kind


class Header(NamedTuple):
    """The header of an image file."""

    format: str  # "PNG", "JPEG" or Pillow's name of another one
    height: int  # as stored, before any EXIF rotation
    width: int
    bits: int  # per channel
    has_exif: bool  # which may include a rotation


def read_header(data: bytes, *, path: str, what: str) -> Header:
    """Read the header of a file; refuse a truncated one, or more than `MAX_PIXELS` pixels.

    `data` is the whole file; `path` and `what` ("image" or "label") are for messages.

    Raises:
        BadFile: it is empty, no image, truncated, or too large.
    """
    try:
        if data.startswith(_PNG):
            header, is_complete = _png(data)
        elif data.startswith(b"\xff\xd8"):
            header, is_complete = _jpeg(data)
        else:
            with PILImage.open(io.BytesIO(data)) as file:  # reads no pixels yet
                bits = 16 if "16" in file.mode else 32 if file.mode in ("I", "F") else 8
                header = Header(file.format or "?", file.height, file.width, bits, True)
            is_complete = None
    except (PILImage.DecompressionBombError, PILImage.DecompressionBombWarning) as error:
        raise _too_large(f"too many pixels: {error}", path=path, what=what) from error
    except (OSError, SyntaxError, ValueError, IndexError, struct.error) as error:
        raise undecodable(data, path=path, what=what) from error
    if header.height * header.width > MAX_PIXELS:
        raise _too_large(f"{header.height} x {header.width} pixels.", path=path, what=what)
    if not (_can_decode(data) if is_complete is None else is_complete):
        reason = "It ends too early, as after an interrupted copy."
        raise undecodable(data, path=path, what=what, reason=reason)
    return header


def _too_large(size: str, *, path: str, what: str) -> BadFile:
    return BadFile(
        f"The {what} {path} declares {size} The limit is {MAX_PIXELS:,}, because each thread holds"
        " one decoded image in memory; cut it into tiles, or remove it if the size is wrong.",
        path=path,
        kind="too large",
    )


def undecodable(data: bytes, *, path: str, what: str, reason: str = "") -> BadFile:
    """Return the error for a file that is damaged or no image."""
    if not reason:
        known = [text for start, text in _FOREIGN.items() if data.lstrip().startswith(start)]
        reason = known[0] if known else "It is damaged or no image." if data else "It is empty."
    return BadFile(
        f"Cannot decode the {what} {path} ({len(data)} bytes). {reason} Restore or remove it.",
        path=path,
    )


def _can_decode(data: bytes) -> bool:
    try:
        with PILImage.open(io.BytesIO(data)) as file:
            file.load()  # stops at the first missing byte
    except (OSError, SyntaxError, ValueError):
        return False
    return True


def _png(data: bytes) -> tuple[Header, bool]:
    """Return the header, and whether the file is complete."""
    if data[12:16] != b"IHDR":
        raise ValueError("a PNG must begin with its header")
    width, height, bits = struct.unpack(">IIB", data[16:25])
    offset, names = len(_PNG), set()
    while offset + 12 <= len(data) and b"IEND" not in names:
        length, name = struct.unpack_from(">I4s", data, offset)
        names.add(name)
        offset += length + 12
    return Header("PNG", height, width, bits, b"eXIf" in names), b"IEND" in names


def _jpeg(data: bytes) -> tuple[Header, bool]:
    """Return the header, and whether the file is complete."""
    frame, offset, codes = None, 2, set()
    while 0xD9 not in codes and (marker := _JPEG_MARKER.search(data, offset)):
        code, offset = data[marker.start() + 1], marker.end()
        codes.add(code)
        if code in _JPEG_FRAMES and frame is None:
            frame = struct.unpack_from(">BHH", data, offset + 2)
        if code not in (0x01, 0xD9):  # all others have a length
            offset += struct.unpack_from(">H", data, offset)[0]
    if frame is None:
        raise ValueError("a JPEG without a frame")
    bits, height, width = frame
    return Header("JPEG", height, width, bits, 0xE1 in codes), 0xD9 in codes


def has_valid_checksums(data: bytes) -> bool:
    """Whether every chunk of a PNG matches its checksum; other formats have none."""
    if not data.startswith(_PNG):
        return True
    try:
        with PILImage.open(io.BytesIO(data)) as file:
            file.verify()
    except (OSError, SyntaxError):
        return False
    except ValueError:  # Pillow refuses long text chunks, which do not affect the pixels
        pass
    return True
