"""Reading PyTorch's weight files: tensors, text and numbers, and nothing that runs.

Both layouts of `torch.save` are read: the zip file of PyTorch 1.6 and later, and the one before.
"""

import dataclasses
import io
import math
import os
from collections.abc import Callable, Iterable
from typing import Any, Literal

import ml_dtypes
import numpy as np

from hrnet_jax.interop.pickle_names import Placeholder
from hrnet_jax.interop.unpickle import Tensors, unpickle
from hrnet_jax.interop.untrusted import (
    AGAIN,
    RESAVE,
    CorruptFileError,
    UnsafeFileError,
    brief,
    errors_about,
    read_whole,
    read_zip,
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
MAX_PICKLE_BYTES = 64 << 20  # of pickles; the zoo's have less than 1 MB
MAX_DIMENSIONS = 16
MAX_REUSE = 8  # all tensors together may be so many times larger than the file

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_HEAD = b"\x8a\x0a" + _LEGACY_MAGIC.to_bytes(10, "little")  # after the pickle's protocol
_LEGACY_PROTOCOL = 1001


@dataclasses.dataclass(frozen=True, kw_only=True)
class PthFile:
    """What a weight file holds.

    `content` is a tree of dicts, lists, tuples, text, bytes, numbers, None, `Placeholder` and
    arrays. The arrays are read-only, and those of one storage share its memory.
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
        head = data[:14]
        if head.startswith(b"PK\3\4"):
            return PthFile(content=_read_zip(data), sha256=sha256, format="zip")
        if head[:1] == b"\x80" and head[2:] == _LEGACY_HEAD:
            return PthFile(content=_read_legacy(data), sha256=sha256, format="legacy")
        if data[257:262] == b"ustar":
            raise CorruptFileError(
                "It has the tar layout of PyTorch 0.1. Load it with a PyTorch 1.x, then save it "
                "again with torch.save."
            )
        raise CorruptFileError(
            f"It begins with {head!r}, as no file of torch.save does: it may be empty, a web page, "
            f"or of another program. {AGAIN}"
        )


def _read_zip(data: bytes) -> Any:
    entries = read_zip(data)
    roots = {name.split("/")[0] for name in entries}
    root = min(roots)
    if len(roots) != 1 or f"{root}/data.pkl" not in entries:
        raise CorruptFileError(f"The zip file is not `<name>/data.pkl` and company. {RESAVE}")
    if f"{root}/constants.pkl" in entries:
        raise CorruptFileError(
            "It is a TorchScript archive, a program. Save its weights: "
            "torch.save(torch.jit.load(path).state_dict(), new_path)."
        )
    order = entries.get(f"{root}/byteorder", b"little")
    if order != b"little":
        raise CorruptFileError(
            f"Its byte order is {order!r:.40}, not b'little'. "
            "Save it again on a little-endian machine."
        )

    storages: dict[str, np.ndarray] = {}

    def load(key: str, dtype: np.dtype, count: int) -> np.ndarray:
        entry, size = entries.get(f"{root}/data/{key}"), count * dtype.itemsize
        if entry is None or len(entry) != size:
            found = "is not there" if entry is None else f"has {len(entry)}"
            raise CorruptFileError(
                f"claims {size} bytes for the storage {brief(key)}, which {found}. {AGAIN}"
            )
        return storages.setdefault(key, np.ndarray(count, dtype, buffer=entry))

    pickled = entries[f"{root}/data.pkl"]
    file = io.BytesIO(pickled[:MAX_PICKLE_BYTES])
    content = unpickle(file, tensors=_StorageViews(load, limit=MAX_REUSE * len(data)))
    if rest := len(pickled) - file.tell():
        raise CorruptFileError(f"{rest} bytes follow the pickle. {AGAIN}")
    _check_booleans(storages.values())
    return content


def _read_legacy(data: bytes) -> Any:
    """Read five pickles, then for every storage its element count and its elements."""
    file = io.BytesIO(data[:MAX_PICKLE_BYTES])
    magic, version, system = unpickle(file), unpickle(file), unpickle(file)
    little = isinstance(system, dict) and system.get("little_endian") is True
    if (magic, version, little) != (_LEGACY_MAGIC, _LEGACY_PROTOCOL, True):
        raise CorruptFileError(
            "Its header is not that of a little-endian file of PyTorch 0.2 to 1.5. "
            "Save it again on a little-endian machine with a newer PyTorch."
        )
    storages: dict[str, np.ndarray] = {}
    left = len(data)

    def allocate(key: str, dtype: np.dtype, count: int) -> np.ndarray:
        nonlocal left
        left -= count * dtype.itemsize
        if left < 0:
            raise CorruptFileError(f"describes more data than the file has. {AGAIN}")
        return storages.setdefault(key, np.empty(count, dtype))  # filled in below

    content = unpickle(file, tensors=_StorageViews(allocate, limit=MAX_REUSE * len(data)))
    keys = unpickle(file)
    known = isinstance(keys, list) and all(isinstance(key, str) for key in keys)
    if not known or len(keys) != len(storages) or set(keys) != set(storages):
        raise CorruptFileError(f"Its list of storages contradicts its tensors. {AGAIN}")
    _fill({key: storages[key] for key in keys}, data, start=file.tell())
    _check_booleans(storages.values())
    return content


def _fill(storages: dict[str, np.ndarray], data: bytes, *, start: int) -> None:
    """Copy the elements of all storages from the end of a legacy file."""
    expected = start + sum(8 + values.nbytes for values in storages.values())
    if expected != len(data):
        raise CorruptFileError(
            f"It has {len(data)} bytes, but its storages end at byte {expected}: it was cut short, "
            f"or something was appended. {AGAIN}"
        )
    for key, values in storages.items():
        count = int.from_bytes(data[start : start + 8], "little")
        if count != values.size:
            raise CorruptFileError(
                f"The storage {brief(key)} has {count} elements, but its tensors expect "
                f"{values.size}. {AGAIN}"
            )
        values.view(np.uint8)[:] = np.ndarray(values.nbytes, np.uint8, data, offset=start + 8)
        start += 8 + values.nbytes


def _check_booleans(storages: Iterable[np.ndarray]) -> None:
    for values in storages:
        if values.dtype == np.bool_ and (values.view(np.uint8) > 1).any():
            raise CorruptFileError(f"A torch.BoolStorage has values other than 0 and 1. {AGAIN}")


@dataclasses.dataclass(frozen=True)
class _Storage:
    """A flat array, of which tensors are views."""

    values: np.ndarray


class _StorageViews(Tensors):
    """Builds tensors as read-only views of storages.

    Args:
        load: returns a storage of a key, a type and a number of elements.
        limit: of the bytes that all tensors together may have.
    """

    def __init__(self, load: Callable[[str, np.dtype, int], np.ndarray], *, limit: int):
        self.load = load
        self.storages: dict[str, _Storage] = {}
        self.bytes_left = limit

    def storage(self, identity: Any) -> _Storage:
        """Understand a persistent id; a second one of the same key must agree."""
        match identity:
            case ("storage", Placeholder(name=kind), str(key), str(), count, *view) if (
                kind in DTYPES and type(count) is int and 0 <= count < 2**60 and len(view) <= 1
            ):
                pass
            case ("module", *_):
                raise UnsafeFileError(f"holds a pickled model, which is a program. {RESAVE}")
            case _:
                raise UnsafeFileError(f"has a strange persistent id, {brief(identity)}. {RESAVE}")
        if any(item is not None for item in view):
            raise CorruptFileError(
                f"has a view of the storage {brief(key)}, as PyTorch 0.3 wrote. "
                "Load it with a PyTorch 1.x, then save it again."
            )
        if key not in self.storages:
            self.storages[key] = _Storage(self.load(key, DTYPES[kind], count))
        values = self.storages[key].values
        if (values.dtype, values.size) != (DTYPES[kind], count):
            raise CorruptFileError(f"describes the storage {brief(key)} in two ways. {AGAIN}")
        return self.storages[key]

    def tensor(self, arguments: tuple) -> np.ndarray:
        """View a storage with an offset, a size and strides (all in elements)."""
        storage, offset, size, stride = _view_of(arguments)
        values = storage.values
        elements, item = math.prod(size), values.itemsize
        last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
        self.bytes_left -= elements * item
        if not elements:
            if math.prod(n for n in size if n) > 2**31:
                raise CorruptFileError(f"has an empty tensor of the vast size {size}. {RESAVE}")
            return np.empty(size, values.dtype)
        if last >= values.size:
            raise CorruptFileError(
                f"has a tensor that ends at element {last} of a storage of {values.size}. {AGAIN}"
            )
        if elements > values.size or self.bytes_left < 0:
            raise CorruptFileError(
                f"has a tensor of size {size} over a storage of {values.size} elements, used "
                "again and again. Save it again with `.clone()` applied."
            )
        strides = [step * item if n > 1 else 0 for n, step in zip(size, stride, strict=True)]
        view = np.ndarray(size, values.dtype, values, offset=offset * item, strides=strides)
        view.flags.writeable = False
        return view


def _view_of(arguments: tuple) -> tuple[_Storage, int, tuple[int, ...], tuple[int, ...]]:
    """A tensor's storage, offset, size and strides, from the arguments that rebuild it."""
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
            "which should be an offset, a size and strides, none negative, of a storage. " + RESAVE
        )
    if arguments[6:] not in ((), (None,), ({},)):
        raise CorruptFileError(
            "has a tensor with a conjugate or negative bit. Save it again with "
            "`.resolve_conj().resolve_neg()`."
        )
    return storage, offset, size, stride
