"""A strict reader and writer of safetensors files.

Eight bytes give the size of a JSON header; that says where each tensor lies in the rest. As in the
format's specification the data have neither holes nor overlaps, and no name occurs twice.
"""

import collections
import dataclasses
import json
import math
import os
import struct
from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np

from hrnet_jax.interop.untrusted import (
    AGAIN,
    CorruptFileError,
    errors_about,
    read_whole,
)
from hrnet_jax.runs.paths import atomic_write

MAX_HEADER_BYTES = 4 << 20  # a tensor takes about 100; the format's own limit is 100 MB

_DTYPES = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "I64": np.dtype(np.int64),
    "I32": np.dtype(np.int32),
    "I16": np.dtype(np.int16),
    "I8": np.dtype(np.int8),
    "U8": np.dtype(np.uint8),
    "BOOL": np.dtype(np.bool_),
}
_CODES = {dtype: code for code, dtype in _DTYPES.items()}


@dataclasses.dataclass(frozen=True, kw_only=True)
class SafetensorsFile:
    """What a safetensors file holds; the arrays share its bytes and cannot be written to."""

    tensors: dict[str, np.ndarray]
    metadata: dict[str, str]
    sha256: str


def read_safetensors(path: str | os.PathLike[str]) -> SafetensorsFile:
    """Read a file; raises nothing but OSError and `CorruptFileError`."""
    with errors_about(path):
        data, sha256 = read_whole(path)
        header, block = _parts(data.toreadonly())
        metadata = header.pop("__metadata__", {})
        if not isinstance(metadata, dict) or {*map(type, metadata.values())} - {str}:
            raise CorruptFileError(f"Its __metadata__ is not text by name. {AGAIN}")
        tensors = {name: _tensor(block, name, entry) for name, entry in header.items()}
        _check_order({name: header[name]["data_offsets"] for name in header}, len(block))
        return SafetensorsFile(tensors=tensors, metadata=metadata, sha256=sha256)


def write_safetensors(
    path: str | os.PathLike[str],
    tensors: Mapping[str, np.ndarray],
    *,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write arrays by name, the widest types first so that all are aligned."""
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    end = 0
    names = sorted(tensors, key=lambda name: (-tensors[name].dtype.itemsize, name))
    for name in names:
        array = tensors[name]
        if array.dtype not in _CODES or name == "__metadata__":
            raise ValueError(
                f"tensors[{name!r}] is an array of {array.dtype}, which cannot be written. Use any "
                f"name but __metadata__, and one of {', '.join(map(str, _CODES))}."
            )
        begin, end = end, end + array.nbytes
        place = {"shape": list(array.shape), "data_offsets": [begin, end]}
        header[name] = {"dtype": _CODES[array.dtype], **place}
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)
    if len(encoded) > MAX_HEADER_BYTES:
        raise ValueError(
            f"The names and metadata take {len(encoded)} bytes, over the limit of "
            f"{MAX_HEADER_BYTES}: shorten them."
        )
    with atomic_write(path) as file:
        file.write(struct.pack("<Q", len(encoded)) + encoded)
        for name in names:
            file.write(tensors[name].tobytes())


def _parts(data: memoryview) -> tuple[dict[str, Any], memoryview]:
    """The header, and the data behind it."""
    size = int.from_bytes(data[:8], "little")
    if len(data) < 8 or size > min(len(data) - 8, MAX_HEADER_BYTES):
        raise CorruptFileError(
            f"Its header claims {size} bytes of {len(data)}; the limit is {MAX_HEADER_BYTES}. "
            + AGAIN
        )
    encoded = bytes(data[8 : 8 + size])
    if not encoded.startswith(b"{"):
        raise CorruptFileError(f"Its header begins with {encoded[:1]!r} instead of '{{'. {AGAIN}")
    try:
        return json.loads(encoded.decode(), object_pairs_hook=_without_duplicates), data[8 + size :]
    except (ValueError, RecursionError) as error:
        raise CorruptFileError(f"Its header is no proper JSON ({error!s:.200}). {AGAIN}") from None


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    counts = collections.Counter(name for name, _ in pairs)
    if len(counts) < len(pairs):
        raise ValueError(f"the name {counts.most_common(1)[0][0]!r:.200} occurs twice")
    return dict(pairs)


def _tensor(block: memoryview, name: str, entry: Any) -> np.ndarray:
    match entry:
        case {"dtype": str(code), "shape": [*shape], "data_offsets": [begin, end], **rest} if (
            not rest and len(shape) <= 16 and all(map(_is_count, [*shape, begin, end]))
        ):
            pass
        case _:
            raise CorruptFileError(
                f"The tensor {name!r:.100} is described by {entry!r:.200}, instead of by dtype, "
                f"shape and data_offsets alone. {AGAIN}"
            )
    if code not in _DTYPES:
        known = ", ".join(_DTYPES)
        raise CorruptFileError(
            f"The tensor {name!r:.100} is of type {code!r:.20}. Convert to {known}."
        )
    dtype = _DTYPES[code]
    fits = end <= len(block) and math.prod(shape) * dtype.itemsize == end - begin
    if not fits or math.prod(filter(None, shape)) > 2**40:
        raise CorruptFileError(
            f"The tensor {name!r:.100} of type {code} and shape {shape} does not fit the bytes "
            f"{begin} to {end} of {len(block)}. {AGAIN}"
        )
    if dtype == np.bool_ and bytes(block[begin:end]).strip(b"\0\1"):
        raise CorruptFileError(f"The tensor {name!r:.100} has other values than 0 and 1. {AGAIN}")
    array = np.frombuffer(block[begin:end], dtype) if end > begin else np.empty(0, dtype)
    return np.require(array, requirements="A").reshape(shape)


def _check_order(offsets: dict[str, list[int]], size: int) -> None:
    """Every byte belongs to one tensor."""
    expected = 0
    for name, (begin, end) in sorted(offsets.items(), key=lambda item: item[1]):
        if begin != expected:
            raise CorruptFileError(
                f"The tensor {name!r:.100} begins at byte {begin} of the data, not at {expected}: "
                f"there is {'a hole' if begin > expected else 'an overlap'}. {AGAIN}"
            )
        expected = end
    if expected != size:
        raise CorruptFileError(f"Its tensors fill {expected} bytes of {size}. {AGAIN}")


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**40
