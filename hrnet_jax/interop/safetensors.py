"""Read and write safetensors files with the official library.

The library accepts, but we refuse: repeated names, unknown fields, booleans other than 0 and 1,
types that the networks never have, and shapes too large for an array.
"""

import collections
import dataclasses
import json
import math
import os
from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np
import safetensors
import safetensors.numpy

from hrnet_jax.interop.untrusted import AGAIN, CorruptFileError, errors_about, read_whole
from hrnet_jax.runs.paths import atomic_write

MAX_HEADER_BYTES = 4 << 20  # a tensor takes about 100 bytes; the library's limit is 100 MB

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


@dataclasses.dataclass(frozen=True, kw_only=True)
class SafetensorsFile:
    """The content of a safetensors file; the arrays are read-only."""

    tensors: dict[str, np.ndarray]
    metadata: dict[str, str]
    sha256: str


def read_safetensors(path: str | os.PathLike[str]) -> SafetensorsFile:
    """Read a file; raises only OSError and `CorruptFileError`."""
    with errors_about(path):
        data, sha256 = read_whole(path)
        size = int.from_bytes(data[:8], "little")
        if size > MAX_HEADER_BYTES:
            raise CorruptFileError(
                f"Its header claims {size} bytes; the limit is {MAX_HEADER_BYTES}. {AGAIN}"
            )
        try:
            entries = safetensors.deserialize(data)
            header = json.loads(data[8 : 8 + size], object_pairs_hook=_without_duplicates)
        except (safetensors.SafetensorError, ValueError) as error:
            raise CorruptFileError(
                f"It is not a valid safetensors file: {error!s:.200}. {AGAIN}"
            ) from None
        metadata = header.pop("__metadata__", None) or {}
        for name, fields in header.items():
            if len(fields) > 3:
                raise CorruptFileError(
                    f"The tensor {name!r:.100} has the fields {fields!r:.200}, more than dtype, "
                    f"shape and data_offsets. {AGAIN}"
                )
        tensors = {name: _array(name, entry) for name, entry in entries}
        return SafetensorsFile(tensors=tensors, metadata=metadata, sha256=sha256)


def write_safetensors(
    path: str | os.PathLike[str],
    tensors: Mapping[str, np.ndarray],
    *,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write arrays by name."""
    for name, array in tensors.items():
        if array.dtype not in _DTYPES.values() or name == "__metadata__":
            raise ValueError(
                f"tensors[{name!r}] is an array of {array.dtype}, which cannot be written. Use any "
                f"name but __metadata__, and one of {', '.join(map(str, _DTYPES.values()))}."
            )
    contiguous = {name: np.asarray(array, order="C") for name, array in tensors.items()}
    data = safetensors.numpy.save(contiguous, metadata=dict(metadata or {}) or None)
    size = int.from_bytes(data[:8], "little")
    if size > MAX_HEADER_BYTES:
        raise ValueError(
            f"Names and metadata take {size} bytes, over the limit of {MAX_HEADER_BYTES}: "
            "shorten them."
        )
    with atomic_write(path) as file:
        file.write(data)


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    counts = collections.Counter(name for name, _ in pairs)
    if len(counts) < len(pairs):
        raise ValueError(f"the name {counts.most_common(1)[0][0]!r:.100} occurs twice")
    return dict(pairs)


def _array(name: str, entry: Mapping[str, Any]) -> np.ndarray:
    """View the bytes of a tensor as an array."""
    shape, data = entry["shape"], entry["data"]
    if entry["dtype"] not in _DTYPES:
        raise CorruptFileError(
            f"The tensor {name!r:.100} is of type {entry['dtype']!r}. "
            f"Convert it to one of {', '.join(_DTYPES)}."
        )
    dtype = _DTYPES[entry["dtype"]]
    if len(shape) > 16 or math.prod(filter(None, shape)) > 2**40:
        raise CorruptFileError(
            f"The tensor {name!r:.100} has the shape {shape!s:.100}, too large for an array. "
            + AGAIN
        )
    if dtype == np.bool_ and data.strip(b"\0\1"):
        raise CorruptFileError(f"The tensor {name!r:.100} has values other than 0 and 1. {AGAIN}")
    array = np.ndarray(shape, dtype, buffer=data)
    array.flags.writeable = False
    return array
