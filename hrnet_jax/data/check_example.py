"""Check one example: every pixel of its label, integrity and header of its image."""

import hashlib
import io
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Int64
from PIL import Image as PILImage

from hrnet_jax.data.dataset import Dataset
from hrnet_jax.data.decode import (
    check_image,
    decode_image,
    decode_label,
    different_sizes,
    illegal_values,
)
from hrnet_jax.data.headers import BadFile, Header, has_valid_checksums, undecodable
from hrnet_jax.data.sources.folder import Source
from hrnet_jax.data.types import Label


class Fault(NamedTuple):
    """A problem with one file."""

    kind: str  # a key of SUGGESTIONS
    path: str
    text: str
    bad_pixels: int = 0


class Checked(NamedTuple):
    """The result for one example."""

    image_path: str
    faults: list[Fault]
    counts: Int64[np.ndarray, "256"] | None = None  # pixels of each raw value; None: unreadable
    image_kind: str = ""  # "JPEG", "16-bit PNG", ...
    size: tuple[int, int] = (0, 0)  # (height, width) of the upright image
    digest: bytes = b""  # of the image file


def check(source: Source, index: int, *, dataset: Dataset) -> Checked:
    """Check one example: the label pixel by pixel, the image without decoding it."""
    image_path, label_path = source.paths(index)
    try:
        record = source[index]
    except (ValueError, OSError) as error:  # a damaged archive
        return Checked(image_path, [Fault("unreadable", image_path, str(error))])
    assert record.label is not None, "splits that are examined have labels"
    header, faults = _check_image(record.image, path=image_path)
    raw, label_faults = _check_label(record.label, dataset, path=label_path)
    faults += label_faults
    size = upright_size(record.image, header) if header else (0, 0)
    if header and raw is not None and size != raw.shape:
        mismatch = different_sizes(size, raw, record=record)
        faults.append(Fault(mismatch.kind, label_path, str(mismatch)))
    counts = None
    if raw is not None:
        counts = count_values(raw)
        if bad_pixels := int(counts[~dataset.lookup_table()[1]].sum()):
            illegal = illegal_values(raw, dataset, path=label_path)
            faults.append(Fault(illegal.kind, label_path, str(illegal), bad_pixels))
    return Checked(
        image_path=image_path,
        faults=faults,
        counts=counts,
        image_kind=_kind(header) if header else "",
        size=size,
        digest=hashlib.sha1(record.image, usedforsecurity=False).digest(),
    )


def _check_image(data: bytes, *, path: str) -> tuple[Header | None, list[Fault]]:
    header = None
    try:
        header = check_image(data, path=path)
        _check_checksums(data, path=path, what="image")
        if header.bits == 16:  # the upper 8, which training reads, may all be 0
            decode_image(data, path=path)
    except BadFile as error:
        return header, [Fault(error.kind, path, str(error))]
    return header, []


def _check_label(data: bytes, dataset: Dataset, *, path: str) -> tuple[Label | None, list[Fault]]:
    raw = None
    try:
        raw = decode_label(data, path=path)
        _check_checksums(data, path=path, what="label")
    except BadFile as error:
        hint = _palette_hint(data, dataset) if error.kind == "format" else ""
        return raw, [Fault(error.kind, path, str(error) + hint)]
    return raw, []


def count_values(raw: Label) -> Int64[np.ndarray, "256"]:
    """Count the pixels of each value."""
    if raw.size < 2**24:  # OpenCV counts in float32
        counts = cv2.calcHist([np.ascontiguousarray(raw)], [0], None, [256], [0, 256])
        return counts.ravel().astype(np.int64)
    return np.bincount(raw.ravel(), minlength=256).astype(np.int64)


def upright_size(data: bytes, header: Header) -> tuple[int, int]:
    """Return (height, width) of an image after its EXIF rotation, without decoding it."""
    if header.has_exif:
        with PILImage.open(io.BytesIO(data)) as file:
            if file.getexif().get(0x0112, 1) >= 5:
                return header.width, header.height
    return header.height, header.width


def _check_checksums(data: bytes, *, path: str, what: str) -> None:
    if not has_valid_checksums(data):
        reason = "A checksum is wrong: bits have changed."
        raise undecodable(data, path=path, what=what, reason=reason)


def _palette_hint(data: bytes, dataset: Dataset) -> str:
    with PILImage.open(io.BytesIO(data)) as file:
        if file.mode not in ("RGB", "RGBA"):
            return ""
        colors = np.unique(np.asarray(file.convert("RGB"))[::4, ::4].reshape(-1, 3), axis=0)
    known = set(map(tuple, dataset.palette)) | {(0, 0, 0)}
    if (colors.min(axis=1) == colors.max(axis=1)).all():
        return " Its three channels are equal: keep one of them."
    if all(tuple(map(int, color)) in known for color in colors):
        return f" It shows the palette of {dataset.name!r}: replace each colour by its class index."
    return f" It has {len(colors)} colours, some of them not in the palette of {dataset.name!r}."


def _kind(header: Header) -> str:
    return header.format if header.bits <= 8 else f"{header.bits}-bit {header.format}"
