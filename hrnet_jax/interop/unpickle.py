"""A pickle reader that cannot run code: it builds text, numbers, containers and tensors.

Python's own unpickler imports the names in a file and calls them. Here a name stays a name: those
that weights need are acted upon below, those of harmless company in training checkpoints become a
`Placeholder`, and every other name refuses the file. So does every operation PyTorch never writes.
"""

import dataclasses
import pickle
import pickletools
import struct
import typing
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import numpy as np

from hrnet_jax.interop.untrusted import AGAIN, CorruptFileError, UnsafeFileError

MAX_BYTES = 64 << 20  # of one pickle, the tensors' data aside; the zoo's have less than 1 MB
MAX_OPERATIONS = 2_000_000  # a training checkpoint of the largest model has some 200,000
MAX_DEPTH = 50
MAX_NODES = 10_000_000  # as someone walks them who visits a shared part again and again

RESAVE = "Save only the weights: torch.save(model.state_dict(), path)."

STORAGES = "Double Float Half BFloat16 Long Int Short Char Byte Bool Untyped"


def _names(module: str, names: str) -> frozenset[str]:
    return frozenset(f"{module}.{name}" for name in names.split())


_TORCH_NAMES = (
    _names("torch", "Size")
    | _names("torch._utils", "_rebuild_tensor _rebuild_tensor_v2 _rebuild_parameter")
    | frozenset(f"torch.{kind}Storage" for kind in STORAGES.split())
)
_PATHS = "Path PosixPath WindowsPath PurePath PurePosixPath PureWindowsPath"
_BUILTINS = "bool bytearray bytes complex dict float frozenset int list set str tuple"
PLACEHOLDER_NAMES = frozenset().union(  # in published or training checkpoints, beside the weights
    _names("torch", "device bool uint8 int8 int16 int32 int64 float16 bfloat16 float32 float64"),
    _names("builtins", _BUILTINS),
    _names("__builtin__", _BUILTINS),  # as protocol 2 calls them
    _names("_codecs", "encode"),
    _names("argparse", "Namespace"),
    _names("collections", "Counter defaultdict deque"),
    _names("datetime", "date datetime time timedelta timezone"),
    _names("pathlib", _PATHS),
    _names("pathlib._local", _PATHS),
    _names("types", "SimpleNamespace"),
    _names("numpy", "dtype ndarray"),
    _names("numpy.core.multiarray", "_reconstruct scalar"),
    _names("numpy.core.numeric", "_frombuffer"),
    _names("numpy._core.multiarray", "_reconstruct scalar"),
    _names("numpy._core.numeric", "_frombuffer"),
    _names("addict.addict", "Dict"),
    _names("mmcv.utils.config", "Config ConfigDict"),
    _names("mmengine.config.config", "Config ConfigDict"),
    _names("mmengine.logging.history_buffer", "HistoryBuffer"),
    _names("mmengine.logging.message_hub", "MessageHub"),
)
ALLOWED_NAMES = _TORCH_NAMES | PLACEHOLDER_NAMES | {"collections.OrderedDict"}


@dataclasses.dataclass(frozen=True)
class Placeholder:
    """Stands for something known by name that is not built; what belonged to it is dropped."""

    name: str  # "datetime.datetime"


def brief(value: Any) -> str:
    """Describe a value for a message; its full text could be endless or fill the memory."""
    if isinstance(value, str):
        return repr(value[:100])
    if isinstance(value, tuple) and not any(isinstance(part, tuple) for part in value[:8]):
        return f"({', '.join(map(brief, value[:8]))})"
    return repr(value) if isinstance(value, int | float | None) else f"a {type(value).__name__}"


class Tensors:
    """What a file's container adds to a pickle; as it stands, to one without tensors."""

    def storage(self, identity: Any) -> Any:
        """What a persistent id stands for."""
        raise UnsafeFileError(f"refers to {brief(identity)}, where no tensor belongs. {RESAVE}")

    def tensor(self, arguments: tuple) -> Any:
        """What `_rebuild_tensor` (4 arguments) or `_rebuild_tensor_v2` (6 or 7) returns."""
        raise UnsafeFileError(f"holds a tensor where none belongs. {RESAVE}")


def unpickle(source: memoryview, start: int, *, tensors: Tensors | None = None) -> tuple[Any, int]:
    """Read the pickle that begins at `start`; return its content and where it ends."""
    machine = _Machine(source[: start + MAX_BYTES], start, tensors or Tensors())
    try:
        content = machine.run()
        _Measure().visit(content, depth=0)
    except (UnsafeFileError, CorruptFileError) as error:
        raise type(error)(f"Near byte {machine.position}, its pickle {error}") from None
    except (ValueError, IndexError, KeyError) as error:  # text, stack or memo out of order
        raise CorruptFileError(
            f"Near byte {machine.position}, its pickle is damaged: {error!r:.200}. {AGAIN}"
        ) from None
    return content, machine.position


@typing.no_type_check  # when tests run: a file takes 100,000 calls; mypy checks it all the same
class _Machine:
    """The stack machine of the pickle format, with only what PyTorch's files use."""

    def __init__(self, source: memoryview, position: int, tensors: Tensors):
        self.source = source
        self.position = position
        self.tensors = tensors
        self.stack: list[Any] = []
        self.outer: list[list[Any]] = []  # one stack for every open mark
        self.memo: dict[int, Any] = {}

    def run(self) -> Any:
        """Perform all operations; return what they leave."""
        for _ in range(MAX_OPERATIONS):
            if (code := self.take(1)) == pickle.STOP:
                if len(self.stack) != 1 or self.outer:
                    raise CorruptFileError(f"ends with {len(self.stack)} objects, not 1. {AGAIN}")
                return self.stack.pop()
            if code not in _OPERATIONS:
                raise _unknown_operation(code)
            _OPERATIONS[code](self)
        raise UnsafeFileError(f"has more than {MAX_OPERATIONS} operations. {RESAVE}")

    # What follows an operation in the file.

    def take(self, count: int) -> bytes:
        end = self.position + count
        if end > len(self.source):
            raise CorruptFileError(f"ends early: {end - len(self.source)} bytes missing. {AGAIN}")
        block = bytes(self.source[self.position : end])
        self.position = end
        return block

    def number(self, layout: str) -> Any:
        return struct.unpack(layout, self.take(struct.calcsize(layout)))[0]

    def block(self, length_layout: str) -> bytes:
        return self.take(self.number(length_layout))

    def line(self) -> str:
        window = bytes(self.source[self.position : self.position + 1000])
        return self.take(window.index(b"\n") + 1)[:-1].decode()

    # What operations do.

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def pop(self, count: int) -> list[Any]:
        if count > len(self.stack):
            raise CorruptFileError(f"takes more objects than it made. {AGAIN}")
        items = self.stack[-count:]
        del self.stack[-count:]
        return items

    def mark(self) -> None:
        self.outer.append(self.stack)
        self.stack = []

    def pop_mark(self) -> list[Any]:
        items, self.stack = self.stack, self.outer.pop()
        return items

    def protocol(self) -> None:
        if (version := self.number("<B")) not in (2, 3, 4, 5):
            raise CorruptFileError(f"has pickle protocol {version}, not 2 to 5. {RESAVE}")

    def name(self, module: Any, name: Any) -> None:
        if not isinstance(module, str) or not isinstance(name, str):
            raise UnsafeFileError(f"has {brief((module, name))} for a name. {RESAVE}")
        if "." in name or f"{module}.{name}" not in ALLOWED_NAMES:
            full = brief(f"{module}.{name}")
            raise UnsafeFileError(f"names {full}, which weights do not need. {RESAVE}")
        self.push(Placeholder(f"{module}.{name}"))

    def call(self) -> None:
        function, arguments = self.pop(2)
        if not isinstance(function, Placeholder) or not isinstance(arguments, tuple):
            raise UnsafeFileError(f"calls a {type(function).__name__}, not a name. {RESAVE}")
        match function.name, arguments:
            case "torch._utils._rebuild_tensor", (_, _, _, _):
                self.push(self.tensors.tensor(arguments))
            case "torch._utils._rebuild_tensor_v2", (_, _, _, _, _, _) | (_, _, _, _, _, _, _):
                self.push(self.tensors.tensor(arguments))
            case "torch._utils._rebuild_parameter", (np.ndarray() as tensor, _, _):
                self.push(tensor)
            case "torch.Size", (tuple() as size,):
                self.push(size)
            case "collections.OrderedDict", ():
                self.push(OrderedDict())
            case name, _ if name in PLACEHOLDER_NAMES:
                self.push(function)
            case _:
                raise CorruptFileError(
                    f"calls {function.name} with {len(arguments)} arguments it does not take. "
                    + RESAVE
                )

    def set_state(self) -> None:
        """Drop the state: of a placeholder, or the `_metadata` attribute of a state dict."""
        target, _ = self.pop(2)
        if not isinstance(target, Placeholder | OrderedDict):
            raise UnsafeFileError(f"sets attributes of a {type(target).__name__}. {RESAVE}")
        self.push(target)

    def extend(self, items: list[Any]) -> None:
        match self.stack[-1]:
            case list() as target:
                target.extend(items)
            case Placeholder():
                pass
            case target:
                raise CorruptFileError(f"appends to a {type(target).__name__}. {AGAIN}")

    def set_items(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if isinstance(target, Placeholder):
            return
        if not isinstance(target, dict) or len(items) % 2:
            raise CorruptFileError(f"sets items of a {type(target).__name__}. {AGAIN}")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if not _is_plain_key(key):
                raise CorruptFileError(f"has a key of type {type(key).__name__}. {RESAVE}")
            target[key] = value

    def remember(self, place: int) -> None:
        self.memo[place] = self.stack[-1]


def _unknown_operation(code: bytes) -> Exception:
    for operation in pickletools.opcodes:
        if operation.code == code.decode("latin-1"):
            return UnsafeFileError(
                f"uses the operation {operation.name}, as PyTorch never does. {RESAVE}"
            )
    return CorruptFileError(f"has {code!r} where an operation should be. {AGAIN}")


def _is_plain_key(key: Any) -> bool:
    """Small numbers and text: neither deep nor made to collide."""
    if isinstance(key, tuple):
        return all(not isinstance(part, tuple) and _is_plain_key(part) for part in key)
    return isinstance(key, str) or (isinstance(key, int) and abs(key) < 2**31)


_OPERATIONS: dict[bytes, Callable[[_Machine], Any]] = {
    pickle.PROTO: _Machine.protocol,
    pickle.FRAME: lambda m: m.number("<Q"),
    pickle.MARK: _Machine.mark,
    pickle.NONE: lambda m: m.push(None),
    pickle.NEWTRUE: lambda m: m.push(True),
    pickle.NEWFALSE: lambda m: m.push(False),
    pickle.BININT: lambda m: m.push(m.number("<i")),
    pickle.BININT1: lambda m: m.push(m.number("<B")),
    pickle.BININT2: lambda m: m.push(m.number("<H")),
    pickle.LONG1: lambda m: m.push(int.from_bytes(m.block("<B"), "little", signed=True)),
    pickle.BINFLOAT: lambda m: m.push(m.number(">d")),
    pickle.SHORT_BINUNICODE: lambda m: m.push(m.block("<B").decode()),
    pickle.BINUNICODE: lambda m: m.push(m.block("<I").decode()),
    pickle.BINUNICODE8: lambda m: m.push(m.block("<Q").decode()),
    pickle.SHORT_BINSTRING: lambda m: m.push(m.block("<B").decode("latin-1")),  # of Python 2
    pickle.SHORT_BINBYTES: lambda m: m.push(m.block("<B")),
    pickle.BINBYTES: lambda m: m.push(m.block("<I")),
    pickle.BINBYTES8: lambda m: m.push(m.block("<Q")),
    pickle.EMPTY_TUPLE: lambda m: m.push(()),
    pickle.TUPLE1: lambda m: m.push(tuple(m.pop(1))),
    pickle.TUPLE2: lambda m: m.push(tuple(m.pop(2))),
    pickle.TUPLE3: lambda m: m.push(tuple(m.pop(3))),
    pickle.TUPLE: lambda m: m.push(tuple(m.pop_mark())),
    pickle.EMPTY_LIST: lambda m: m.push([]),
    pickle.APPEND: lambda m: m.extend(m.pop(1)),
    pickle.APPENDS: lambda m: m.extend(m.pop_mark()),
    pickle.EMPTY_DICT: lambda m: m.push({}),
    pickle.SETITEM: lambda m: m.set_items(m.pop(2)),
    pickle.SETITEMS: lambda m: m.set_items(m.pop_mark()),
    pickle.EMPTY_SET: lambda m: m.push(Placeholder("builtins.set")),
    pickle.ADDITEMS: lambda m: m.extend(m.pop_mark()),
    pickle.GLOBAL: lambda m: m.name(m.line(), m.line()),
    pickle.STACK_GLOBAL: lambda m: m.name(*m.pop(2)),
    pickle.REDUCE: _Machine.call,
    pickle.NEWOBJ: _Machine.call,
    pickle.BUILD: _Machine.set_state,
    pickle.BINPERSID: lambda m: m.push(m.tensors.storage(*m.pop(1))),
    pickle.BINPUT: lambda m: m.remember(m.number("<B")),
    pickle.LONG_BINPUT: lambda m: m.remember(m.number("<I")),
    pickle.MEMOIZE: lambda m: m.remember(len(m.memo)),
    pickle.BINGET: lambda m: m.push(m.memo[m.number("<B")]),
    pickle.LONG_BINGET: lambda m: m.push(m.memo[m.number("<I")]),
}


@typing.no_type_check  # as above
class _Measure:
    """Refuses a tree that is too deep, too large or endless for whoever walks it next."""

    def __init__(self):
        self.known: dict[int, tuple[int, int]] = {}  # by the id of a container

    def visit(self, node: Any, *, depth: int) -> tuple[int, int]:
        """Return the height of a part and its number of nodes, those met again included."""
        if isinstance(node, str | bytes | int | float | None | np.ndarray | Placeholder):
            return 0, 1
        if not isinstance(node, dict | list | tuple):
            raise CorruptFileError(f"holds a bare {type(node).__name__}. {RESAVE}")
        if depth > MAX_DEPTH:
            raise UnsafeFileError(f"is nested deeper than {MAX_DEPTH} or endlessly. {RESAVE}")
        if id(node) not in self.known:
            parts = node.values() if isinstance(node, dict) else node
            measures = [self.visit(part, depth=depth + 1) for part in parts]
            height = 1 + max((height for height, _ in measures), default=0)
            self.known[id(node)] = height, 1 + sum(nodes for _, nodes in measures)
        height, nodes = self.known[id(node)]
        if depth + height > MAX_DEPTH + 1 or nodes > MAX_NODES:
            raise UnsafeFileError(f"unfolds to {nodes} objects, {depth + height} deep. {RESAVE}")
        return height, nodes
