import io
import pickle
import struct
import zlib

import numpy as np
import pytest
from PIL import Image as PILImage
from PIL.PngImagePlugin import PngInfo

from hrnet_jax.data.headers import BadFile, has_valid_checksums, read_header

IMAGE = np.random.default_rng(0).integers(0, 256, (37, 61, 3), dtype=np.uint8)


def encoded(format, image=IMAGE, mode="RGB", **options):
    file = io.BytesIO()
    PILImage.fromarray(image).convert(mode).save(file, format, **options)
    return file.getvalue()


def claiming(height, width):
    """A small PNG that claims to be large."""

    def chunk(name, data):
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    body = zlib.compress(bytes(1000))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        (chunk(b"IHDR", header), chunk(b"IDAT", body), chunk(b"IEND", b""))
    )


FILES = {
    "PNG": encoded("PNG"),
    "JPEG": encoded("JPEG"),
    "progressive": encoded("JPEG", progressive=True),
    "with restarts": encoded("JPEG", restart_marker_blocks=2),
    "CMYK": encoded("JPEG", mode="CMYK"),
    "with a thumbnail": encoded("JPEG", exif=b"Exif\0\0" + encoded("JPEG")),  # has its own end
    "BMP": encoded("BMP"),
    "TIFF": encoded("TIFF"),
    "WEBP": encoded("WEBP"),
}


@pytest.mark.parametrize("data", FILES.values(), ids=FILES)
def test_format_and_size_equal_pillows(data):
    header = read_header(data, path="a", what="image")
    with PILImage.open(io.BytesIO(data)) as file:
        assert header[:3] == (file.format, file.height, file.width)
    assert header.bits == 8
    assert read_header(data + b"trailing bytes", path="a", what="image") == header


@pytest.mark.parametrize(
    "name", ["PNG", "JPEG", "progressive", "with restarts", "with a thumbnail"]
)
def test_a_truncated_file_is_never_complete(name):
    data = FILES[name]
    for length in range(0, len(data) - 1, 7):
        with pytest.raises(BadFile) as error:
            read_header(data[:length], path="a", what="image")
        assert error.value.kind == "unreadable", length


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "It is empty"),
        (b"no image", "damaged or no image"),
        (b"\n<!DOCTYPE html>", "web page of a failed download"),
        (b"version https://git-lfs.github.com/spec/v1", "git lfs pull"),
        (b"PK\x03\x04rest", "unpack it"),
        (b"\xff\xd8\xff", "damaged or no image"),
        (b"\x89PNG\r\n\x1a\n\0\0", "damaged or no image"),
    ],
)
def test_a_file_that_is_not_an_image_is_described(data, reason):
    with pytest.raises(BadFile, match=rf"the image dir/a\.png \({len(data)} bytes\)\. .*{reason}"):
        read_header(data, path="dir/a.png", what="image")


@pytest.mark.parametrize("size", [(60_000, 60_000), (1, 2**27)])
def test_a_file_that_claims_too_many_pixels_is_refused_by_its_header(size):
    with pytest.raises(BadFile, match=rf"declares {size[0]} x {size[1]} pixels") as error:
        read_header(claiming(*size), path="a.png", what="image")
    assert error.value.kind == "too large"


def test_other_formats_are_refused_by_their_header_too():
    data = bytearray(encoded("BMP"))
    data[18:26] = struct.pack("<ii", 60_000, 60_000)
    with pytest.raises(BadFile, match="too many pixels"):
        read_header(bytes(data), path="a.bmp", what="image")


def test_one_changed_bit_breaks_a_checksum():
    data = FILES["PNG"]
    assert has_valid_checksums(data)
    for place in range(10, len(data) - 12, 97):
        damaged = bytearray(data)
        damaged[place] ^= 4
        assert not has_valid_checksums(bytes(damaged)), place


def test_a_long_text_in_a_png_is_not_damage():
    texts = PngInfo()
    texts.add_text("comment", "x" * 2**21, zip=True)
    assert has_valid_checksums(encoded("PNG", pnginfo=texts))


def test_a_pickled_error_keeps_path_and_kind():
    error = pickle.loads(pickle.dumps(BadFile("text", path="a.png", kind="size")))
    assert (str(error), error.path, error.kind) == ("text", "a.png", "size")
