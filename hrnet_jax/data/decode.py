"""Bytes -> example: RGB image, and label in class indices. Every fault names its file."""

import io
import struct
from typing import Literal

import cv2
import kornia_rs.io
import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image as PILImage

from hrnet_jax.data.dataset import Dataset
from hrnet_jax.data.sources import Record
from hrnet_jax.types import IGNORE_LABEL, Example, Image, Label


def decode(record: Record, dataset: Dataset) -> Example:
    """Decode image and label of a record, and map the label to class indices."""
    image = decode_image(record.image, path=record.image_path)
    raw = decode_label(record.label, path=record.label_path)
    if image.shape[:2] != raw.shape:
        raise ValueError(
            "Image and label differ in size (height x width):\n"
            f"  {image.shape[0]} x {image.shape[1]}  {record.image_path}\n"
            f"  {raw.shape[0]} x {raw.shape[1]}  {record.label_path}\n"
            "Labels are never resized to fit; make the label for this image again."
            + _rotation_hint(record.image, raw)
        )
    return Example(id=record.id, image=image, label=map_label(raw, dataset, path=record.label_path))


def decode_image(data: bytes, *, path: str) -> Image:
    """Decode any format OpenCV reads to 8-bit RGB, turned upright as its EXIF tag says."""
    if (plain := _decode_plain_png(data, mode="rgb")) is not None:
        return plain
    # imdecode answers None to damaged data, but an empty buffer is an error of another kind.
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB) if data else None
    except cv2.error:  # more pixels than OpenCV agrees to decode
        image = None
    if image is None:
        raise ValueError(
            f"Cannot decode the image {path} ({len(data)} bytes); it is damaged or no image."
            " Restore or remove it."
        )
    return image


def decode_label(data: bytes, *, path: str) -> Label:
    """Return the stored values of a label file, unmapped: of a palette PNG the indices."""
    if (plain := _decode_plain_png(data, mode="mono")) is not None:
        return plain[..., 0]
    try:
        with PILImage.open(io.BytesIO(data)) as file:
            mode, values = file.mode, np.asarray(file)
    except (OSError, SyntaxError, ValueError, PILImage.DecompressionBombError) as error:
        raise ValueError(
            f"Cannot decode the label {path} ({len(data)} bytes): {error}. Restore or remove it."
        ) from error
    if mode not in ("L", "P", "1", "I;16"):
        raise ValueError(
            f"The label {path} has Pillow mode {mode!r}; a label has one channel of class values"
            " (modes 'L', 'P', '1', or 'I;16' with values below 256)."
            " Convert colours to class values first."
        )
    if mode == "I;16" and values.max() > 255:
        raise ValueError(
            f"The 16-bit label {path} holds values up to {values.max()}; they must be below 256."
        )
    return values.astype(np.uint8, copy=False)


def _decode_plain_png(
    data: bytes, *, mode: Literal["rgb", "mono"]
) -> UInt8[np.ndarray, "h w channels"] | None:
    """Decode a PNG of 8 bits per value and exactly these channels; None for all other data.

    The same bytes as OpenCV's and Pillow's in a third of the time, which is most of the time that
    an example takes.
    """
    bits_and_colors = {"rgb": b"\x08\x02", "mono": b"\x08\x00"}[mode]
    if data[:8] != b"\x89PNG\r\n\x1a\n" or data[24:26] != bits_and_colors or b"eXIf" in data:
        return None
    width, height = struct.unpack(">II", data[16:24])
    try:
        return kornia_rs.io.decode_image_png_u8(data, (height, width), mode)
    except Exception:  # all it raises; damaged data goes to the decoders that everything else takes
        return None


def map_label(raw: Label, dataset: Dataset, *, path: str) -> Label:
    """Translate raw values to class indices or 255; refuse values the dataset does not know."""
    table, is_legal = dataset.lookup_table()
    is_illegal = np.where(is_legal, 0, 1).astype(np.uint8)
    # Lookups of OpenCV take a quarter of numpy's time, which matters at two megapixels.
    if cv2.countNonZero(cv2.LUT(raw, is_illegal)):
        raise ValueError(_illegal_values(raw, is_legal, dataset=dataset, path=path))
    return cv2.LUT(raw, table)


def _illegal_values(
    raw: Label, is_legal: Bool[np.ndarray, "256"], *, dataset: Dataset, path: str
) -> str:
    counts = np.bincount(raw.ravel(), minlength=256)
    lines = []
    for value in np.flatnonzero((counts > 0) & ~is_legal)[:3]:
        y, x = np.argwhere(raw == value)[0]
        lines.append(f"\n  value {value}: {counts[value]} pixels, the first at (y={y}, x={x})")
    return (
        f"The label {path} holds values outside the label mapping of {dataset.name!r}:"
        + "".join(lines)
        + f"\nLegal values: {_ranges(np.flatnonzero(is_legal))}. {_hint(counts, dataset)}"
    )


def _hint(counts: np.ndarray, dataset: Dataset) -> str:
    present = set(np.flatnonzero(counts).tolist())
    of_classes = {raw: index for raw, index in dataset.label_map.items() if index != IGNORE_LABEL}
    holds_indices = all(raw == index for raw, index in of_classes.items())
    if not holds_indices and present <= set(of_classes.values()) | {IGNORE_LABEL}:
        return (
            "It looks like class indices already (for Cityscapes: trainIds), but"
            f" {dataset.name!r} reads raw ids; use the files with raw ids."
        )
    if holds_indices and present - set(dataset.label_map) == {IGNORE_LABEL}:
        return "If 255 marks pixels without a class, add 255: 255 to the label_map."
    return "Correct the file, or give the value a class index or 255 (ignored) in the label_map."


def _rotation_hint(image: bytes, raw: Label) -> str:
    flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
    stored = cv2.imdecode(np.frombuffer(image, np.uint8), flags)
    if stored is not None and stored.shape[:2] == raw.shape:
        return " The image carries an EXIF rotation that the label lacks: rotate the label too."
    return ""


def _ranges(values: np.ndarray) -> str:
    """[0, 1, 2, 255] -> '0-2, 255'."""
    runs = np.split(values, np.flatnonzero(np.diff(values) > 1) + 1)
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else f"{run[0]}" for run in runs)
