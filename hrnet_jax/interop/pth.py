"""Read PyTorch's weight files: tensors, text and numbers, but no code.

Both formats of `torch.save` are read: the zip file of PyTorch 1.6 and later, and the legacy one.
"""

import dataclasses
import io
import os
from typing import Any, Literal

import numpy as np

from hrnet_jax.interop.torch_tensors import Storage, TorchTensors
from hrnet_jax.interop.unpickle import unpickle
from hrnet_jax.interop.untrusted import (
    AGAIN,
    RESAVE,
    CorruptFileError,
    brief,
    errors_about,
    read_whole,
    read_zip,
)

MAX_PICKLE_BYTES = 64 << 20  # the zoo's have less than 1 MB

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_HEAD = b"\x8a\x0a" + _LEGACY_MAGIC.to_bytes(10, "little")  # after the pickle's protocol


@dataclasses.dataclass(frozen=True, kw_only=True)
class PthFile:
    """The content of a weight file.

    `content` is a tree of dicts, lists, tuples, text, bytes, numbers, None, `Placeholder` and
    arrays. The arrays are read-only, and those of one storage share its memory.
    """

    content: Any
    sha256: str
    format: Literal["zip", "legacy"]


def read_pth(path: str | os.PathLike[str]) -> PthFile:
    """Read a file of `torch.save`.

    Raises only OSError, `UnsafeFileError` and `CorruptFileError`.
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
                "It has the tar format of PyTorch 0.1. Load it with a PyTorch 1.x, then save it "
                "again with torch.save."
            )
        raise CorruptFileError(
            f"It begins with {head!r}, unlike any file of torch.save: it may be empty, a web page, "
            f"or the file of another program. {AGAIN}"
        )


def _read_zip(data: bytes) -> Any:
    entries = read_zip(data)
    roots = {name.split("/")[0] for name in entries}
    root = min(roots)
    if len(roots) != 1 or f"{root}/data.pkl" not in entries:
        raise CorruptFileError(f"The zip file has no `<name>/data.pkl` with tensors. {RESAVE}")
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
    pickled = entries[f"{root}/data.pkl"]
    file = io.BytesIO(pickled[:MAX_PICKLE_BYTES])
    prefix = f"{root}/data/"
    blocks = {n.removeprefix(prefix): entries[n] for n in entries if n.startswith(prefix)}
    tensors = TorchTensors(blocks, file_size=len(data))
    content = unpickle(file, tensors=tensors)
    if rest := len(pickled) - file.tell():
        raise CorruptFileError(f"{rest} bytes follow the pickle. {AGAIN}")
    tensors.check_booleans()
    return content


def _read_legacy(data: bytes) -> Any:
    """Read five pickles, then the element count and the elements of every storage."""
    file = io.BytesIO(data[:MAX_PICKLE_BYTES])
    magic, version, system = unpickle(file), unpickle(file), unpickle(file)
    little = isinstance(system, dict) and system.get("little_endian") is True
    if (magic, version, little) != (_LEGACY_MAGIC, 1001, True):
        raise CorruptFileError(
            "Its header does not belong to a little-endian file of PyTorch 0.2 to 1.5. "
            "Save it again on a little-endian machine with a newer PyTorch."
        )
    tensors = TorchTensors(None, file_size=len(data))
    content = unpickle(file, tensors=tensors)
    keys = unpickle(file)
    valid = isinstance(keys, list) and all(isinstance(key, str) for key in keys)
    if not valid or sorted(keys) != sorted(tensors.storages):
        raise CorruptFileError(f"Its list of storages contradicts its tensors. {AGAIN}")
    _fill({key: tensors.storages[key] for key in keys}, data, start=file.tell())
    tensors.check_booleans()
    return content


def _fill(storages: dict[str, Storage], data: bytes, *, start: int) -> None:
    """Copy the elements of all storages from the end of a legacy file."""
    expected = start + sum(8 + storage.values.nbytes for storage in storages.values())
    if expected != len(data):
        raise CorruptFileError(
            f"It has {len(data)} bytes, but its storages end at byte {expected}: it was truncated, "
            f"or something was appended. {AGAIN}"
        )
    for key, storage in storages.items():
        values = storage.values
        count = int.from_bytes(data[start : start + 8], "little")
        if count != values.size:
            raise CorruptFileError(
                f"The storage {brief(key)} has {count} elements, but its tensors expect "
                f"{values.size}. {AGAIN}"
            )
        values.view(np.uint8)[:] = np.ndarray(values.nbytes, np.uint8, data, offset=start + 8)
        start += 8 + values.nbytes
