"""Decode files into an example: RGB image and class indices. Every error names its file."""

import io
import struct
from typing import Literal

import cv2
import kornia_rs.io
import numpy as np
from jaxtyping import UInt8
from PIL import Image as PILImage
from PIL import ImageOps

from hrnet_jax.data.dataset import Dataset, ranges
from hrnet_jax.data.headers import BadFile, Header, read_header, undecodable
from hrnet_jax.data.sources.folder import Record
from hrnet_jax.data.types import IGNORE_LABEL, Example, Image, Label

_SIXTEEN_BITS = ("I;16", "I;16B", "I")  # Pillow's modes of integers beyond 8 bits


def decode(record: Record, dataset: Dataset) -> Example:
    """Decode image and label of a record, and map the label to class indices.

    Raises:
        BadFile: one of the files cannot be used, or their sizes differ.
    """
    image = decode_image(record.image, path=record.image_path)
    if record.label is None:
        ignored = np.full(image.shape[:2], IGNORE_LABEL, np.uint8)
        return Example(id=record.id, image=image, label=ignored)
    raw = decode_label(record.label, path=record.label_path)
    if image.shape[:2] != raw.shape:
        raise different_sizes(image.shape[:2], raw, record=record)
    return Example(id=record.id, image=image, label=map_label(raw, dataset, path=record.label_path))


def decode_image(data: bytes, *, path: str) -> Image:
    """Decode to 8-bit RGB, rotated upright by the EXIF tag.

    The content decides the format, not the file name. Grey becomes three equal channels, palette
    indices become colours, alpha is dropped, and of 16 bits the upper 8 remain (all as in the
    reference).

    Raises:
        BadFile: it is no image, truncated, larger than `MAX_PIXELS`, or would become black.
    """
    header = check_image(data, path=path)
    if (plain := _decode_plain_png(data, mode="rgb")) is not None:
        return plain
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
    except cv2.error:
        image = None
    if image is None:
        raise undecodable(data, path=path, what="image", reason="It is damaged.")
    if header.bits == 16 and np.max(image) < 16:
        raise BadFile(
            f"The 16-bit image {path} uses less than a sixteenth of its range (12 bits in 16?)"
            " and would become almost black. Scale its values up, or save it with 8 bits.",
            path=path,
            kind="format",
        )
    return image


def check_image(data: bytes, *, path: str) -> Header:
    """Run the checks that need no decoding.

    Raises:
        BadFile: it is no image, truncated, too large, or has more than 16 bits per channel.
    """
    header = read_header(data, path=path, what="image")
    if header.bits > 16:
        raise BadFile(
            f"The image {path} has {header.bits} bits per channel; save it with 8.",
            path=path,
            kind="format",
        )
    return header


def decode_label(data: bytes, *, path: str) -> Label:
    """Return the raw values of a label file: of a palette PNG the indices.

    An EXIF tag rotates it like an image.

    Raises:
        BadFile: it is no image, truncated, too large, or does not hold 8-bit class values.
    """
    if is_mat(data):
        return _decode_mat(data, path=path)
    header = read_header(data, path=path, what="label")
    if (plain := _decode_plain_png(data, mode="mono")) is not None:
        return plain[..., 0]
    try:
        with PILImage.open(io.BytesIO(data)) as file:
            mode, values = file.mode, np.asarray(file)
            if file.getexif().get(0x0112, 1) != 1:
                values = np.asarray(ImageOps.exif_transpose(file))
    except (OSError, SyntaxError, ValueError) as error:
        raise undecodable(data, path=path, what="label", reason=f"{error}.") from error
    _check_label_format(mode, header, path=path)
    if mode in _SIXTEEN_BITS and not 0 <= values.min() <= values.max() <= 255:
        raise BadFile(
            f"The 16-bit label {path} holds values up to {values.max()}; they must be below 256.",
            path=path,
            kind="values",
        )
    if mode == "L" and header.bits < 8:  # Pillow scales 2 and 4 bits to 0-255
        values = values // (255 // (2**header.bits - 1))
    return values.astype(np.uint8, copy=False)


def _check_label_format(mode: str, header: Header, *, path: str) -> None:
    if mode not in ("L", "P", "1", *_SIXTEEN_BITS):
        raise BadFile(
            f"The label {path} has Pillow mode {mode!r}; a label has one channel of class values"
            " (modes 'L', 'P', '1', or 'I;16' with values below 256)."
            " Convert colours to class values first.",
            path=path,
            kind="format",
        )
    if header.format == "JPEG":
        raise BadFile(
            f"The label {path} is a JPEG, whose compression mixes class values along all borders."
            " Make it again as a PNG; a JPEG label cannot be repaired.",
            path=path,
            kind="format",
        )


def _decode_plain_png(
    data: bytes, *, mode: Literal["rgb", "mono"]
) -> UInt8[np.ndarray, "h w channels"] | None:
    """Decode a PNG with 8 bits per value and exactly these channels; None for all other data.

    Decoding dominates the time of an example. The pixels equal OpenCV's and Pillow's; images take
    half of OpenCV's time, labels an eighth of Pillow's.
    """
    bits_and_colors = {"rgb": b"\x08\x02", "mono": b"\x08\x00"}[mode]
    if data[:8] != b"\x89PNG\r\n\x1a\n" or data[24:26] != bits_and_colors or b"eXIf" in data:
        return None
    width, height = struct.unpack(">II", data[16:24])
    try:
        return kornia_rs.io.decode_image_png_u8(data, (height, width), mode)
    except Exception:  # it raises no narrower class; the general decoders report damaged data
        return None


def is_mat(data: bytes) -> bool:
    """Whether this is a MATLAB file, like the labels of SBD."""
    return data.startswith(b"MATLAB")


def _decode_mat(data: bytes, *, path: str) -> Label:
    import scipy.io  # takes a quarter of a second, and only SBD's labels need it

    # The format holds arrays only: scipy executes nothing in it.
    try:
        content = scipy.io.loadmat(io.BytesIO(data), variable_names=["GTcls"])
        values = content["GTcls"]["Segmentation"][0, 0]
    except Exception as error:  # scipy documents no exceptions for damaged files
        raise BadFile(
            f"Cannot decode the label {path} ({len(data)} bytes): {error!r}. A .mat label must be"
            " one of SBD's, with GTcls.Segmentation (folder cls). Restore or remove it.",
            path=path,
        ) from error
    if values.ndim != 2 or values.dtype != np.uint8:
        raise BadFile(
            f"The label {path} has GTcls.Segmentation of shape {values.shape} and type"
            f" {values.dtype}; it must be two-dimensional and uint8.",
            path=path,
            kind="format",
        )
    return np.ascontiguousarray(values)  # MATLAB stores column by column


def different_sizes(size: tuple[int, int], raw: Label, *, record: Record) -> BadFile:
    """Return the error for an image of `size` (height, width) and a label of another size."""
    header, hint = read_header(record.image, path=record.image_path, what="image"), ""
    if (header.height, header.width) == raw.shape:
        hint = " The image carries an EXIF rotation that the label lacks: rotate the label too."
    elif size == raw.shape[::-1]:
        hint = " Height and width are swapped: the label is transposed or rotated."
    return BadFile(
        "Image and label differ in size (height x width):\n"
        f"  {size[0]} x {size[1]}  {record.image_path}\n"
        f"  {raw.shape[0]} x {raw.shape[1]}  {record.label_path}\n"
        f"Labels are never resized to fit; make the label again from this image.{hint}",
        path=record.label_path,
        kind="size",
    )


def map_label(raw: Label, dataset: Dataset, *, path: str) -> Label:
    """Map raw values to class indices or 255; raise `BadFile` for a value outside the map."""
    table, is_legal = dataset.lookup_table()
    is_illegal = np.where(is_legal, 0, 1).astype(np.uint8)
    # OpenCV's table lookup is four times as fast as numpy's, which matters at two megapixels.
    if cv2.countNonZero(cv2.LUT(raw, is_illegal)):
        raise illegal_values(raw, dataset, path=path)
    return cv2.LUT(raw, table)


def illegal_values(raw: Label, dataset: Dataset, *, path: str) -> BadFile:
    """Return the error for a label with values outside the label mapping."""
    is_legal = dataset.lookup_table()[1]
    counts = np.bincount(raw.ravel(), minlength=256)
    illegal = np.flatnonzero((counts > 0) & ~is_legal)
    lines = []
    for value in illegal[:3]:
        y, x = np.argwhere(raw == value)[0]
        lines.append(f"\n  value {value}: {counts[value]} pixels, the first at (y={y}, x={x})")
    if len(illegal) > 3:
        lines.append(f"\n  and {len(illegal) - 3} more values: {ranges(illegal[3:])}")
    return BadFile(
        f"The label {path} holds values outside the label mapping of {dataset.name!r}:"
        + "".join(lines)
        + f"\nLegal values: {ranges(np.flatnonzero(is_legal))}. {_hint(counts, dataset)}",
        path=path,
        kind="values",
    )


def _hint(counts: np.ndarray, dataset: Dataset) -> str:
    present = set(np.flatnonzero(counts).tolist())
    classes = dataset.class_values
    holds_indices = all(raw == index for raw, index in classes.items())
    if not holds_indices and present <= set(classes.values()) | {IGNORE_LABEL}:
        return (
            "It looks like class indices already (for Cityscapes: trainIds), but"
            f" {dataset.name!r} expects raw ids; use the files with raw ids."
        )
    if holds_indices and present - set(dataset.label_map) == {IGNORE_LABEL}:
        return "If 255 marks pixels without a class, add 255: 255 to the label_map."
    return "Correct the file, or give the value a class index or 255 (ignored) in the label_map."
