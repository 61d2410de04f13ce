"""Our own reader of PyTorch's weight files: tensors, text and numbers, and nothing that runs.

Both layouts of `torch.save` are read: the zip file of PyTorch 1.6 and later, and the one before.
"""

import dataclasses
import math
import os
import struct
from collections.abc import Mapping
from typing import Any, Literal

import ml_dtypes
import numpy as np

from hrnet_jax.interop.stored_zip import stored_entries
from hrnet_jax.interop.unpickle import RESAVE, Placeholder, Tensors, brief, unpickle
from hrnet_jax.interop.untrusted import (
    AGAIN,
    CorruptFileError,
    UnsafeFileError,
    errors_about,
    read_whole,
)

DTYPES: dict[str, np.dtype] = {
    "torch.FloatStorage": np.dtype(np.float32),
    "torch.DoubleStorage": np.dtype(np.float64),
    "torch.HalfStorage": np.dtype(np.float16),
    "torch.BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "torch.LongStorage": np.dtype(np.int64),
    "torch.IntStorage": np.dtype(np.int32),
    "torch.ShortStorage": np.dtype(np.int16),
    "torch.CharStorage": np.dtype(np.int8),
    "torch.ByteStorage": np.dtype(np.uint8),
    "torch.BoolStorage": np.dtype(np.bool_),
    "torch.UntypedStorage": np.dtype(np.uint8),
}
MAX_DIMENSIONS = 16
MAX_REUSE = 8  # all tensors together may be so many times larger than the file

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_HEAD = b"\x8a\x0a" + _LEGACY_MAGIC.to_bytes(10, "little")  # after the pickle's protocol
_LEGACY_PROTOCOL = 1001


@dataclasses.dataclass(frozen=True, kw_only=True)
class PthFile:
    """What a weight file holds.

    `content` is a tree of dicts, lists, tuples, text, bytes, numbers, None, `Placeholder` and
    arrays. The arrays cannot be written to: they share the bytes of the file.
    """

    content: Any
    sha256: str
    format: Literal["zip", "legacy"]


def read_pth(path: str | os.PathLike[str]) -> PthFile:
    """Read a file of `torch.save`.

    Raises nothing but OSError, `UnsafeFileError` and `CorruptFileError`.
    """
    with errors_about(path):
        data, sha256 = read_whole(path)
        head = bytes(data[:14])
        if head.startswith(b"PK\3\4"):
            return PthFile(content=_read_zip(data), sha256=sha256, format="zip")
        if head[:1] == b"\x80" and head[2:] == _LEGACY_HEAD:
            return PthFile(content=_read_legacy(data), sha256=sha256, format="legacy")
        if bytes(data[257:262]) == b"ustar":
            raise CorruptFileError(
                "It has the tar layout of PyTorch 0.1. Load it with a PyTorch 1.x, then save it "
                "again with torch.save."
            )
        raise CorruptFileError(
            f"It begins with {head!r}, as no file of torch.save does: it may be empty, a web page, "
            f"or of another program. {AGAIN}"
        )


def tensors_of(mapping: Mapping[Any, Any]) -> dict[str, np.ndarray]:
    """Check that a state dict holds tensors by name, and nothing else."""
    for key, value in mapping.items():
        if isinstance(value, Placeholder):
            raise UnsafeFileError(
                f"The state dict's {brief(key)} is a {value.name}, which is not read. {RESAVE}"
            )
        if not isinstance(key, str) or not isinstance(value, np.ndarray):
            raise CorruptFileError(
                f"The state dict's {brief(key)} is a {type(value).__name__}, not a tensor by name. "
                + RESAVE
            )
    return dict(mapping)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Storage:
    """A flat array within the file, of which tensors are views."""

    dtype: np.dtype
    count: int
    start: int = 0  # its first byte

    @property
    def size(self) -> int:
        return self.count * self.dtype.itemsize


def _read_zip(data: memoryview) -> Any:
    entries = stored_entries(data)
    roots = {name.split("/")[0] for name in entries}
    root = min(roots)
    if len(roots) != 1 or f"{root}/data.pkl" not in entries:
        raise CorruptFileError(f"The zip file is not `<name>/data.pkl` and company. {RESAVE}")
    if f"{root}/constants.pkl" in entries:
        raise CorruptFileError(
            "It is a TorchScript archive, a program. Save its weights: "
            "torch.save(torch.jit.load(path).state_dict(), new_path)."
        )
    order = entries.get(f"{root}/byteorder")
    if order is not None and bytes(data[order]) != b"little":
        raise CorruptFileError(
            f"Its byte order is {bytes(data[order])!r:.40}, not b'little'. "
            "Save it again on a little-endian machine."
        )
    pickled = entries[f"{root}/data.pkl"]
    source = data[: pickled.stop]
    claims, end = _claimed_storages(source, pickled.start)
    if end != pickled.stop:
        raise CorruptFileError(f"{pickled.stop - end} bytes follow the pickle. {AGAIN}")
    storages = {}
    for key, storage in claims.items():
        entry = entries.get(f"{root}/data/{key}")
        if entry is None or entry.stop - entry.start != storage.size:
            found = "is not there" if entry is None else f"has {entry.stop - entry.start}"
            raise CorruptFileError(
                f"The pickle claims {storage.size} bytes for the storage {brief(key)}, which "
                f"{found}. {AGAIN}"
            )
        storages[key] = _placed(data, storage, entry.start)
    return unpickle(source, pickled.start, tensors=_FileTensors(data, storages))[0]


def _read_legacy(data: memoryview) -> Any:
    """Five pickles, then for every storage its element count and its elements."""
    magic, end = unpickle(data, 0)
    version, end = unpickle(data, end)
    system, start = unpickle(data, end)
    little = isinstance(system, dict) and system.get("little_endian") is True
    if (magic, version, little) != (_LEGACY_MAGIC, _LEGACY_PROTOCOL, True):
        raise CorruptFileError(
            "Its header is not that of a little-endian file of PyTorch 0.2 to 1.5. "
            "Save it again on a little-endian machine with a newer PyTorch."
        )
    claims, end = _claimed_storages(data, start)
    keys, end = unpickle(data, end)
    known = isinstance(keys, list) and all(isinstance(key, str) for key in keys)
    if not known or len(keys) != len(claims) or set(keys) != set(claims):
        raise CorruptFileError(f"Its list of storages contradicts its tensors. {AGAIN}")
    storages = _legacy_storages(data, end, {key: claims[key] for key in keys})
    return unpickle(data, start, tensors=_FileTensors(data, storages))[0]


def _legacy_storages(
    data: memoryview, place: int, claims: dict[str, _Storage]
) -> dict[str, _Storage]:
    expected = place + sum(8 + storage.size for storage in claims.values())
    if expected > len(data):
        missing = expected - len(data)
        raise CorruptFileError(
            f"It is cut short: {missing} of {expected} bytes are missing. {AGAIN}"
        )
    if expected < len(data):
        raise CorruptFileError(f"{len(data) - expected} bytes follow the last storage. {AGAIN}")
    storages = {}
    for key, storage in claims.items():
        (count,) = struct.unpack_from("<q", data, place)
        if count != storage.count:
            raise CorruptFileError(
                f"The storage {brief(key)} has {count} elements, but its tensors expect "
                f"{storage.count}. {AGAIN}"
            )
        storages[key] = _placed(data, storage, place + 8)
        place += 8 + storage.size
    return storages


def _placed(data: memoryview, storage: _Storage, start: int) -> _Storage:
    """Say where a storage lies; move it if it is badly aligned for numpy.

    It moves down by less than 8 bytes, into a header that was read before.
    """
    end = start + storage.size
    if storage.dtype == np.bool_ and bytes(data[start:end]).strip(b"\0\1"):
        raise CorruptFileError(
            f"A torch.BoolStorage has values other than 0 and 1 near byte {start}. {AGAIN}"
        )
    aligned = start - start % storage.dtype.itemsize
    if aligned != start:
        data[aligned : aligned + storage.size] = data[start:end]
    return dataclasses.replace(storage, start=aligned)


def _claimed_storages(source: memoryview, start: int) -> tuple[dict[str, _Storage], int]:
    """The storages a pickle speaks of, and where it ends.

    A first reading: in a legacy file the data lie behind the pickle that describes them.
    """
    claims = _Claims()
    _, end = unpickle(source, start, tensors=claims)
    return claims.storages, end


class _Claims(Tensors):
    """Collects storages, none of which has a place yet."""

    def __init__(self) -> None:
        self.storages: dict[str, _Storage] = {}

    def storage(self, identity: Any) -> _Storage:
        """Understand a persistent id; a second one of the same key must agree."""
        match identity:
            case ("storage", Placeholder(name=kind), str(key), str(), count, *view) if (
                kind in DTYPES and type(count) is int and 0 <= count < 2**60 and len(view) <= 1
            ):
                if any(item is not None for item in view):
                    raise CorruptFileError(
                        f"has a view of the storage {brief(key)}, as PyTorch 0.3 wrote. "
                        "Load it with a PyTorch 1.x, then save it again."
                    )
                storage = _Storage(dtype=DTYPES[kind], count=count)
                if self.storages.setdefault(key, storage) != storage:
                    raise CorruptFileError(
                        f"describes the storage {brief(key)} in two ways. {AGAIN}"
                    )
                return storage
            case ("module", *_):
                raise UnsafeFileError(f"holds a pickled model, which is a program. {RESAVE}")
        raise UnsafeFileError(f"has a strange persistent id, {brief(identity)}. {RESAVE}")

    def tensor(self, arguments: tuple) -> np.ndarray:
        """Nothing yet."""
        return np.empty(0)


class _FileTensors(Tensors):
    """Builds arrays that are views of the file's bytes."""

    def __init__(self, data: memoryview, storages: dict[str, _Storage]):
        self.data = data.toreadonly()
        self.storages = storages
        self.bytes_left = MAX_REUSE * len(data)

    def storage(self, identity: Any) -> _Storage:
        """The one of this key: the first reading has checked the rest."""
        return self.storages[identity[2]]

    def tensor(self, arguments: tuple) -> np.ndarray:
        """View a storage with an offset, a size and strides (all in elements)."""
        storage, offset, size, stride = arguments[:4]
        if not (
            isinstance(storage, _Storage)
            and isinstance(size, tuple)
            and isinstance(stride, tuple)
            and len(size) == len(stride) <= MAX_DIMENSIONS
            and all(type(n) is int and 0 <= n < 2**60 for n in (offset, *size, *stride))
        ):
            raise CorruptFileError(
                f"describes a tensor by {brief(offset)}, {brief(size)} and {brief(stride)}, "
                "which should be an offset, a size and strides, none negative, of a storage. "
                + RESAVE
            )
        if arguments[6:] not in ((), (None,), ({},)):
            raise CorruptFileError(
                "has a tensor with a conjugate or negative bit. Save it again with "
                "`.resolve_conj().resolve_neg()`."
            )
        elements = math.prod(size)
        last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
        self.bytes_left -= elements * storage.dtype.itemsize
        if not elements:
            if math.prod(n for n in size if n) > 2**31:
                raise CorruptFileError(f"has an empty tensor of the vast size {size}. {RESAVE}")
            return np.empty(size, storage.dtype)
        if last >= storage.count:
            raise CorruptFileError(
                f"has a tensor that ends at element {last} of a storage of {storage.count}. {AGAIN}"
            )
        if elements > storage.count or self.bytes_left < 0:
            raise CorruptFileError(
                f"has a tensor of size {size} over a storage of {storage.count} elements, used "
                "again and again. Save it again with `.clone()` applied."
            )
        itemsize = storage.dtype.itemsize
        return np.ndarray(
            size,
            storage.dtype,
            buffer=self.data,
            offset=storage.start + offset * itemsize,
            strides=[step * itemsize if n > 1 else 0 for n, step in zip(size, stride, strict=True)],
        )
