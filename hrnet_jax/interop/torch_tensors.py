"""The tensors of a PyTorch file: views of storages, which are flat arrays."""

import dataclasses
import math
from typing import Any

import ml_dtypes
import numpy as np

from hrnet_jax.interop.pickle_names import Placeholder
from hrnet_jax.interop.unpickle import Tensors
from hrnet_jax.interop.untrusted import AGAIN, RESAVE, CorruptFileError, UnsafeFileError, brief

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
MAX_REUSE = 8  # limits the bytes of all tensors together, in multiples of the file's size


@dataclasses.dataclass(frozen=True)
class Storage:
    """A flat array, viewed by tensors; a class, so that no tensor can pass for a storage."""

    values: np.ndarray


class TorchTensors(Tensors):
    """Builds tensors as read-only views of storages.

    Args:
        blocks: the bytes of each storage, by key; None if they follow the pickle.
        file_size: limits the bytes of the storages, and of the tensors that share them.
    """

    def __init__(self, blocks: dict[str, bytes] | None, *, file_size: int):
        self.blocks = blocks
        self.storages: dict[str, Storage] = {}
        self.bytes_left = file_size
        self.reuse_left = MAX_REUSE * file_size

    def check_booleans(self) -> None:
        """Refuse booleans other than 0 and 1, which numpy cannot handle."""
        for key, storage in self.storages.items():
            if storage.values.dtype == np.bool_ and (storage.values.view(np.uint8) > 1).any():
                raise CorruptFileError(
                    f"The torch.BoolStorage {brief(key)} has values other than 0 and 1. {AGAIN}"
                )

    def storage(self, identity: Any) -> Storage:
        """Return the storage of a persistent id; all ids with the same key must agree."""
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
            self.storages[key] = Storage(self._load(key, DTYPES[kind], count=count))
        values = self.storages[key].values
        if (values.dtype, values.size) != (DTYPES[kind], count):
            raise CorruptFileError(f"describes the storage {brief(key)} in two ways. {AGAIN}")
        return self.storages[key]

    def _load(self, key: str, dtype: np.dtype, *, count: int) -> np.ndarray:
        size = count * dtype.itemsize
        self.bytes_left -= size
        if self.bytes_left < 0:
            raise CorruptFileError(f"describes more data than the file has. {AGAIN}")
        if self.blocks is None:
            return np.empty(count, dtype)
        block = self.blocks.get(key)
        if block is None or len(block) != size:
            actual = "is missing" if block is None else f"has {len(block)}"
            raise CorruptFileError(
                f"claims {size} bytes for the storage {brief(key)}, which {actual}. {AGAIN}"
            )
        return np.ndarray(count, dtype, buffer=block)

    def tensor(self, arguments: tuple) -> np.ndarray:
        """View a storage with an offset, a size and strides (all in elements)."""
        storage, offset, size, stride = _view_of(arguments)
        values = storage.values
        elements, item = math.prod(size), values.itemsize
        last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
        self.reuse_left -= elements * item
        if not elements:
            if math.prod(filter(None, size)) > 2**31:
                raise CorruptFileError(f"has an empty tensor of the huge size {size}. {RESAVE}")
            return np.empty(size, values.dtype)
        if last >= values.size:
            raise CorruptFileError(
                f"has a tensor that ends at element {last} of a storage of {values.size}. {AGAIN}"
            )
        if elements > values.size or self.reuse_left < 0:
            raise CorruptFileError(
                f"has a tensor of size {size} that repeats a storage of {values.size} elements. "
                "Save it again with `.clone()` applied."
            )
        strides = [step * item if n > 1 else 0 for n, step in zip(size, stride, strict=True)]
        view = np.ndarray(size, values.dtype, values, offset=offset * item, strides=strides)
        view.flags.writeable = False
        return view


def _view_of(arguments: tuple) -> tuple[Storage, int, tuple[int, ...], tuple[int, ...]]:
    """Return storage, offset, size and strides from the arguments that rebuild a tensor."""
    storage, offset, size, stride = arguments[:4]
    if not (
        isinstance(storage, Storage)
        and isinstance(size, tuple)
        and isinstance(stride, tuple)
        and len(size) == len(stride) <= MAX_DIMENSIONS
        and all(type(n) is int and 0 <= n < 2**60 for n in (offset, *size, *stride))
    ):
        raise CorruptFileError(
            f"describes a tensor by {brief(offset)}, {brief(size)} and {brief(stride)}, not by "
            "a non-negative offset, size and strides of a storage. " + RESAVE
        )
    if arguments[6:] not in ((), (None,), ({},)):
        raise CorruptFileError(
            "has a tensor with a conjugate or negative bit. Save it again with "
            "`.resolve_conj().resolve_neg()`."
        )
    return storage, offset, size, stride
