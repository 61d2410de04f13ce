"""Our own writer of PyTorch's weight files, which `torch.load(weights_only=True)` accepts."""

import os
import pickle
import struct
import zipfile
from collections import OrderedDict
from typing import Any

import numpy as np

from hrnet_jax.interop.pth import DTYPES
from hrnet_jax.runs.paths import atomic_write

_KINDS = {dtype: name for name, dtype in DTYPES.items() if name != "torch.UntypedStorage"}
_ROOT = "archive"  # PyTorch takes the file's name, but accepts any
_Arrays = dict[int, tuple[int, np.ndarray]]  # by identity: number of the storage, content
_ALIGNMENT = 64  # as PyTorch does, for readers that map the file


def write_pth(path: str | os.PathLike[str], content: Any) -> None:
    """Write a tree of dicts, lists, tuples, text, numbers, None and arrays; see `read_pth`.

    The same content makes the same bytes. An array met twice is stored once, its tensors shared.
    """
    arrays: _Arrays = {}
    pickled = b"".join([pickle.PROTO, b"\2", *_operations(content, arrays, at=""), pickle.STOP])
    with atomic_write(path) as file, zipfile.ZipFile(file, "w") as archive:
        _add(archive, "data.pkl", pickled, at=file.tell())
        _add(archive, "byteorder", b"little", at=file.tell())
        for key, array in arrays.values():
            little = np.asarray(array, array.dtype.newbyteorder("<"), order="C")
            _add(archive, f"data/{key}", little.reshape(-1).view(np.uint8).data, at=file.tell())
        _add(archive, "version", b"3\n", at=file.tell())


def _add(archive: zipfile.ZipFile, name: str, block: bytes | memoryview, *, at: int) -> None:
    info = zipfile.ZipInfo(f"{_ROOT}/{name}")  # dated 1980: the same bytes on any day
    info.create_system = 3  # and on any machine
    info.file_size = len(block)
    padding = -(at + 30 + len(info.filename) + 4) % _ALIGNMENT
    info.extra = struct.pack("<2s H", b"FB", padding) + b"Z" * padding
    with archive.open(info, "w") as entry:
        entry.write(block)


def _operations(value: Any, arrays: _Arrays, *, at: str) -> list[bytes]:
    """The pickle operations that make a value."""
    match value:
        case None:
            return [pickle.NONE]
        case bool():
            return [pickle.NEWTRUE if value else pickle.NEWFALSE]
        case int() if -(2**63) <= value < 2**63:
            return [_integer(value)]
        case float():
            return [pickle.BINFLOAT, struct.pack(">d", value)]
        case str():
            return [_text(value)]
        case np.ndarray() if value.dtype.newbyteorder("=") in _KINDS:
            return _tensor(value, arrays)
        case list() | tuple():
            items = [
                operation
                for place, item in enumerate(value)
                for operation in _operations(item, arrays, at=f"{at}[{place}]")
            ]
            if isinstance(value, tuple):
                return [pickle.MARK, *items, pickle.TUPLE]
            return [pickle.EMPTY_LIST, pickle.MARK, *items, pickle.APPENDS]
        case dict() if all(isinstance(key, str | int) for key in value):
            ordered = isinstance(value, OrderedDict)
            operations = [_ORDERED_DICT if ordered else pickle.EMPTY_DICT, pickle.MARK]
            for key, item in value.items():
                operations += _operations(key, arrays, at=f"{at} key")
                operations += _operations(item, arrays, at=f"{at}[{key!r}]")
            return [*operations, pickle.SETITEMS]
    raise ValueError(
        f"content{at} is {_description(value)}, which cannot be written. Use dicts with text or "
        "integer keys, lists, tuples, text, integers of 64 bits, floats, None, and arrays of "
        f"{', '.join(map(str, _KINDS))}."
    )


def _description(value: Any) -> str:
    kind = f"a {type(value).__name__}"
    return f"an array of {value.dtype}" if isinstance(value, np.ndarray) else kind


def _tensor(array: np.ndarray, arrays: _Arrays) -> list[bytes]:
    """The call of `_rebuild_tensor_v2` on a storage of the tensor's own."""
    key, _ = arrays.setdefault(id(array), (len(arrays), array))
    strides = [int(np.prod(array.shape[axis + 1 :])) for axis in range(array.ndim)]
    return [
        _global("torch._utils", "_rebuild_tensor_v2"),
        pickle.MARK,
        pickle.MARK,
        _text("storage"),
        _global(*_KINDS[array.dtype.newbyteorder("=")].split(".")),
        _text(str(key)),
        _text("cpu"),
        _integer(array.size),
        pickle.TUPLE,
        pickle.BINPERSID,
        _integer(0),
        *(pickle.MARK, *map(_integer, array.shape), pickle.TUPLE),
        *(pickle.MARK, *map(_integer, strides), pickle.TUPLE),
        pickle.NEWFALSE,  # requires_grad
        _ORDERED_DICT,  # no hooks
        pickle.TUPLE,
        pickle.REDUCE,
    ]


def _integer(value: int) -> bytes:
    if -(2**31) <= value < 2**31:
        return pickle.BININT + struct.pack("<i", value)
    return pickle.LONG1 + b"\x08" + struct.pack("<q", value)


def _text(value: str) -> bytes:
    encoded = value.encode()
    return pickle.BINUNICODE + struct.pack("<I", len(encoded)) + encoded


def _global(module: str, name: str) -> bytes:
    return pickle.GLOBAL + f"{module}\n{name}\n".encode()


_ORDERED_DICT = _global("collections", "OrderedDict") + pickle.EMPTY_TUPLE + pickle.REDUCE
