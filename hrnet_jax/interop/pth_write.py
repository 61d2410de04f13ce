"""Write PyTorch's weight files, for `torch.load(weights_only=True)`.

`pickle` writes the plain values. It cannot write a tensor without PyTorch, because a pickler
imports the module of each function that the file names.
"""

import os
import pickle
import struct
import zipfile
from collections import OrderedDict
from typing import Any

import numpy as np

from hrnet_jax.interop.torch_tensors import DTYPES
from hrnet_jax.runs.paths import atomic_write

_KINDS = {dtype: name for name, dtype in DTYPES.items() if name != "torch.UntypedStorage"}
_ROOT = "archive"  # PyTorch takes the file's name, but accepts any
_Arrays = dict[int, tuple[int, np.ndarray]]  # by identity: number of the storage, content
_ALIGNMENT = 64  # as in PyTorch, for readers that map the file


def write_pth(path: str | os.PathLike[str], content: Any) -> None:
    """Write a tree of dicts, lists, tuples, text, numbers, None and arrays; see `read_pth`.

    The same content gives the same bytes. An array that occurs twice is stored once and shared.

    Raises:
        ValueError: for anything else; the message names its place in the tree.
    """
    arrays: _Arrays = {}
    pickled = b"".join([pickle.PROTO, b"\2", _operations(content, arrays, at=""), pickle.STOP])
    with atomic_write(path) as file, zipfile.ZipFile(file, "w") as archive:
        _add(archive, "data.pkl", pickled, at=file.tell())
        _add(archive, "byteorder", b"little", at=file.tell())
        for key, array in arrays.values():
            little = np.asarray(array, array.dtype.newbyteorder("<"), order="C")
            _add(archive, f"data/{key}", little.reshape(-1).view(np.uint8).data, at=file.tell())
        _add(archive, "version", b"3\n", at=file.tell())


def _add(archive: zipfile.ZipFile, name: str, block: bytes | memoryview, *, at: int) -> None:
    info = zipfile.ZipInfo(f"{_ROOT}/{name}")  # dated 1980, for the same bytes on every day
    info.create_system = 3  # and on every machine
    info.file_size = len(block)
    padding = -(at + 30 + len(info.filename) + 4) % _ALIGNMENT
    info.extra = struct.pack("<2s H", b"FB", padding) + b"Z" * padding
    with archive.open(info, "w") as entry:
        entry.write(block)


def _operations(value: Any, arrays: _Arrays, *, at: str) -> bytes:
    """Return the pickle operations that make a value."""
    match value:
        case None | bool():
            return _plain(value)
        case int() if -(2**63) <= value < 2**63:
            return _plain(int(value))
        case float():
            return _plain(float(value))  # also numpy's float64
        case str():
            return _plain(str(value))
        case np.ndarray() if value.dtype.newbyteorder("=") in _KINDS:
            return _tensor(value, arrays)
        case list() | tuple():
            items = [_operations(v, arrays, at=f"{at}[{index}]") for index, v in enumerate(value)]
            if isinstance(value, tuple):
                return _tuple(*items)
            return b"".join([pickle.EMPTY_LIST, pickle.MARK, *items, pickle.APPENDS])
        case dict() if all(isinstance(key, str | int) for key in value):
            empty = _ORDERED_DICT if isinstance(value, OrderedDict) else pickle.EMPTY_DICT
            items = [
                _operations(key, arrays, at=f"{at} key")
                + _operations(item, arrays, at=f"{at}[{key!r}]")
                for key, item in value.items()
            ]
            return b"".join([empty, pickle.MARK, *items, pickle.SETITEMS])
    array = isinstance(value, np.ndarray)
    raise ValueError(
        f"content{at} is {f'an array of {value.dtype}' if array else f'a {type(value).__name__}'}, "
        "which cannot be written. Use dicts with text or integer keys, lists, tuples, text, "
        f"integers of 64 bits, floats, None, and arrays of {', '.join(map(str, _KINDS))}."
    )


def _tensor(array: np.ndarray, arrays: _Arrays) -> bytes:
    """Return a call of `_rebuild_tensor_v2` with a storage for this tensor."""
    key, _ = arrays.setdefault(id(array), (len(arrays), array))
    kind = _name(*_KINDS[array.dtype.newbyteorder("=")].split("."))
    storage = _tuple(_plain("storage"), kind, *map(_plain, (str(key), "cpu", array.size)))
    strides = tuple(int(np.prod(array.shape[axis + 1 :])) for axis in range(array.ndim))
    return b"".join(
        [
            _name("torch._utils", "_rebuild_tensor_v2"),
            _tuple(
                storage + pickle.BINPERSID,
                _plain(0),  # offset
                _plain(array.shape),
                _plain(strides),
                _plain(False),  # requires_grad
                _ORDERED_DICT,  # no hooks
            ),
            pickle.REDUCE,
        ]
    )


def _plain(value: Any) -> bytes:
    """Pickle a plain value, without the operations that begin and end a pickle."""
    return pickle.dumps(value, 2)[2:-1]


def _tuple(*items: bytes) -> bytes:
    return pickle.MARK + b"".join(items) + pickle.TUPLE


def _name(module: str, name: str) -> bytes:
    return pickle.GLOBAL + f"{module}\n{name}\n".encode()


_ORDERED_DICT = _name("collections", "OrderedDict") + pickle.EMPTY_TUPLE + pickle.REDUCE
