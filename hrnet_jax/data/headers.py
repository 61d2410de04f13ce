"""What an image file says before its pixels are decoded: format, size, and whether it is complete.

Decoders differ in what they make of a truncated file: some say nothing and leave the rest grey or
black. So the end of the file is looked for here. It takes 0.02 to 0.2 ms; Pillow, which finds it
only by decoding, takes 10 to 40 ms for the same images of Cityscapes' size.
"""

import io
import re
import struct
from typing import NamedTuple

from PIL import Image as PILImage

# 8192 x 8192: 200 MB as RGB in each thread that reads ahead, and below the size at which Pillow
# suspects an attack. The largest images of the zoo's datasets have a thirtieth of that.
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

    `path` is the file, `kind` what is wrong in general: "unreadable", "too large", "format",
    "size" or "values". Both have defaults because an exception that comes from a worker process is
    first made from its text, then gets its attributes.
    """

    def __init__(self, message: str, *, path: str = "", kind: str = "unreadable"):
        super().__init__(message)
        self.path, self.kind = path, kind


class Header(NamedTuple):
    """What an image file states about itself."""

    format: str  # "PNG", "JPEG" or Pillow's name of another one
    height: int  # as stored, before any EXIF rotation
    width: int
    bits: int  # per channel
    is_complete: bool  # false for a file that was cut off
    has_exif: bool  # it may ask for a rotation


def read_header(data: bytes, *, path: str, what: str) -> Header:
    """Read format and size of a file, and refuse one with more than `MAX_PIXELS` pixels.

    Args:
        data: the whole file.
        path: for messages.
        what: "image" or "label", for messages.

    Raises:
        BadFile: it is empty, no image, or too large.
    """
    try:
        if data.startswith(_PNG):
            header = _png(data)
        elif data.startswith(b"\xff\xd8"):
            header = _jpeg(data)
        else:
            with PILImage.open(io.BytesIO(data)) as file:  # reads no pixels yet
                bits = 16 if "16" in file.mode else 32 if file.mode in ("I", "F") else 8
                header = Header(file.format or "?", file.height, file.width, bits, True, True)
    except (PILImage.DecompressionBombError, PILImage.DecompressionBombWarning) as error:
        raise BadFile(
            f"The {what} {path} declares too many pixels: {error} {_TOO_LARGE}",
            path=path,
            kind="too large",
        ) from error
    except (OSError, SyntaxError, ValueError, IndexError, struct.error) as error:
        raise undecodable(data, path=path, what=what) from error
    if header.height * header.width > MAX_PIXELS:
        raise BadFile(
            f"The {what} {path} declares {header.height} x {header.width} pixels. {_TOO_LARGE}",
            path=path,
            kind="too large",
        )
    return header


_TOO_LARGE = (
    f"At most {MAX_PIXELS:,} are decoded, because each thread holds one decoded image in memory;"
    " cut it into tiles, or remove it if the size is wrong."
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


def _png(data: bytes) -> Header:
    if data[12:16] != b"IHDR":
        raise ValueError("a PNG must begin with its header")
    width, height, bits = struct.unpack(">IIB", data[16:25])
    place, names = len(_PNG), set()
    while place + 12 <= len(data) and b"IEND" not in names:
        length, name = struct.unpack_from(">I4s", data, place)
        names.add(name)
        place += length + 12
    return Header("PNG", height, width, bits, b"IEND" in names, b"eXIf" in names)


def _jpeg(data: bytes) -> Header:
    frame, place, codes = None, 2, set()
    while 0xD9 not in codes and (marker := _JPEG_MARKER.search(data, place)):
        code, place = data[marker.start() + 1], marker.end()
        codes.add(code)
        if code in _JPEG_FRAMES and frame is None:
            frame = struct.unpack_from(">BHH", data, place + 2)
        if code not in (0x01, 0xD9):  # the others are followed by their length
            place += struct.unpack_from(">H", data, place)[0]
    if frame is None:
        raise ValueError("a JPEG without a frame")
    bits, height, width = frame
    return Header("JPEG", height, width, bits, 0xD9 in codes, 0xE1 in codes)


def has_right_checksums(data: bytes) -> bool:
    """Whether every chunk of a PNG matches its checksum; other formats carry none."""
    if not data.startswith(_PNG):
        return True
    try:
        with PILImage.open(io.BytesIO(data)) as file:
            file.verify()
    except (OSError, SyntaxError):
        return False
    except ValueError:  # Pillow refuses long texts; they do not concern the pixels
        pass
    return True
