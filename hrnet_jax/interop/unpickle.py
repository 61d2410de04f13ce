"""Read a pickle of text, numbers, containers and tensors without running code.

`pickletools` splits the file into operations, and the few that PyTorch writes are executed here.
Names are never imported. The names that weights need are known, harmless ones in training
checkpoints become a `Placeholder`, and a file with any other name is refused.

`pickle.Unpickler` with a closed `find_class` is not enough, because it hashes the keys of a dict
before we can check them. A deeply nested tuple as a key overflows the C stack and kills the
process; tuples that share their parts, or integers of equal hash, keep it busy for hours. The tests
have these files: deepest_key, laughing_key and colliding_keys in `tests/interop/hostile.py`.
"""

import io
import itertools
import pickletools
import typing
import warnings
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import numpy as np

from hrnet_jax.interop.pickle_names import ALLOWED_NAMES, PLACEHOLDER_NAMES, Placeholder
from hrnet_jax.interop.untrusted import AGAIN, RESAVE, CorruptFileError, UnsafeFileError, brief

MAX_OPERATIONS = 2_000_000  # a training checkpoint of the largest model has some 200,000
MAX_DEPTH = 50
MAX_NODES = 2_000_000  # shared ones count once per place

_LEAVES = (str, bytes, int, float, type(None), np.ndarray, Placeholder)
_CONTAINERS = (dict, list, tuple)


class Tensors:
    """Builds the tensors of a pickle; this base class refuses them."""

    def storage(self, identity: Any) -> Any:
        """Return the object of a persistent id."""
        raise UnsafeFileError(f"refers to {brief(identity)}, where no tensor belongs. {RESAVE}")

    def tensor(self, arguments: tuple) -> Any:
        """Do the work of `_rebuild_tensor` (4 arguments) or `_rebuild_tensor_v2` (6 or 7)."""
        raise UnsafeFileError(f"holds a tensor where none belongs. {RESAVE}")


def unpickle(file: io.BytesIO, *, tensors: Tensors | None = None) -> Any:
    """Read the pickle at the file's position, and move the position past it.

    Raises only `UnsafeFileError` and `CorruptFileError`.
    """
    machine = _Machine(tensors or Tensors())
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pickletools warns of odd escapes in names
            for count, (operation, argument, _) in enumerate(pickletools.genops(file)):
                if count >= MAX_OPERATIONS:
                    raise UnsafeFileError(f"has more than {MAX_OPERATIONS} operations. {RESAVE}")
                machine.perform(operation.name, argument)
        _check_tree(content := machine.result())
    except (UnsafeFileError, CorruptFileError) as error:
        raise type(error)(f"Near byte {file.tell()}, its pickle {error}") from None
    except (ValueError, IndexError, KeyError) as error:  # invalid text, stack or memo
        raise CorruptFileError(
            f"Near byte {file.tell()}, its pickle is damaged: {error!r:.200}. {AGAIN}"
        ) from None
    return content


@typing.no_type_check  # tests would check 100,000 calls per file; mypy still reads it
class _Machine:
    """The stack machine of the pickle format, limited to the operations that PyTorch writes."""

    def __init__(self, tensors: Tensors):
        self.tensors = tensors
        self.stack: list[Any] = []
        self.outer: list[list[Any]] = []  # one stack for every open mark
        self.memo: dict[int, Any] = {}

    def perform(self, name: str, argument: Any) -> None:
        if name not in _OPERATIONS:
            raise UnsafeFileError(f"uses the operation {name}, which PyTorch never does. {RESAVE}")
        _OPERATIONS[name](self, argument)

    def result(self) -> Any:
        if len(self.stack) != 1 or self.outer:
            raise CorruptFileError(f"ends with {len(self.stack)} objects, not 1. {AGAIN}")
        return self.stack[0]

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def push_text(self, text: str) -> None:
        text.encode()  # fails for surrogates, which pickletools accepts
        self.stack.append(text)

    def pop(self, count: int) -> list[Any]:
        if count > len(self.stack):
            raise CorruptFileError(f"takes more objects than there are. {AGAIN}")
        items = self.stack[-count:]
        del self.stack[-count:]
        return items

    def mark(self) -> None:
        self.outer.append(self.stack)
        self.stack = []

    def pop_mark(self) -> list[Any]:
        items, self.stack = self.stack, self.outer.pop()
        return items

    def protocol(self, version: int) -> None:
        if version not in (2, 3, 4, 5):
            raise CorruptFileError(f"has pickle protocol {version}, not 2 to 5. {RESAVE}")

    def name(self, module: Any, name: Any) -> None:
        if not isinstance(module, str) or not isinstance(name, str):
            raise UnsafeFileError(f"has {brief((module, name))} as a name. {RESAVE}")
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
        """Drop the state of a placeholder, or the `_metadata` of a state dict."""
        target, _ = self.pop(2)
        if not isinstance(target, Placeholder | OrderedDict):
            raise UnsafeFileError(f"sets attributes of a {type(target).__name__}. {RESAVE}")
        self.push(target)

    def extend(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if isinstance(target, list):
            target.extend(items)
        elif not isinstance(target, Placeholder):
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


def _is_plain_key(key: Any) -> bool:
    """Whether a key is safe to hash: text, a small integer, or a flat tuple of them."""
    if isinstance(key, tuple):
        return all(not isinstance(part, tuple) and _is_plain_key(part) for part in key)
    return isinstance(key, str) or (isinstance(key, int) and abs(key) < 2**31)


_VALUES = "NONE BININT BININT1 BININT2 LONG1 BINFLOAT SHORT_BINBYTES BINBYTES BINBYTES8"
_TEXTS = "SHORT_BINUNICODE BINUNICODE BINUNICODE8 SHORT_BINSTRING"  # the last is from Python 2

_OPERATIONS: dict[str, Callable[[_Machine, Any], Any]] = {
    **dict.fromkeys(_VALUES.split(), _Machine.push),
    **dict.fromkeys(_TEXTS.split(), _Machine.push_text),
    "PROTO": _Machine.protocol,
    "FRAME": lambda m, _: None,
    "STOP": lambda m, _: None,
    "MARK": lambda m, _: m.mark(),
    "NEWTRUE": lambda m, _: m.push(True),
    "NEWFALSE": lambda m, _: m.push(False),
    "EMPTY_TUPLE": lambda m, _: m.push(()),
    "TUPLE1": lambda m, _: m.push(tuple(m.pop(1))),
    "TUPLE2": lambda m, _: m.push(tuple(m.pop(2))),
    "TUPLE3": lambda m, _: m.push(tuple(m.pop(3))),
    "TUPLE": lambda m, _: m.push(tuple(m.pop_mark())),
    "EMPTY_LIST": lambda m, _: m.push([]),
    "APPEND": lambda m, _: m.extend(m.pop(1)),
    "APPENDS": lambda m, _: m.extend(m.pop_mark()),
    "EMPTY_DICT": lambda m, _: m.push({}),
    "SETITEM": lambda m, _: m.set_items(m.pop(2)),
    "SETITEMS": lambda m, _: m.set_items(m.pop_mark()),
    "EMPTY_SET": lambda m, _: m.push(Placeholder("builtins.set")),
    "ADDITEMS": lambda m, _: m.extend(m.pop_mark()),
    "GLOBAL": lambda m, names: m.name(*names.rpartition(" ")[::2]),
    "STACK_GLOBAL": lambda m, _: m.name(*m.pop(2)),
    "REDUCE": lambda m, _: m.call(),
    "NEWOBJ": lambda m, _: m.call(),
    "BUILD": lambda m, _: m.set_state(),
    "BINPERSID": lambda m, _: m.push(m.tensors.storage(*m.pop(1))),
    "BINPUT": _Machine.remember,
    "LONG_BINPUT": _Machine.remember,
    "MEMOIZE": lambda m, _: m.remember(len(m.memo)),
    "BINGET": lambda m, place: m.push(m.memo[place]),
    "LONG_BINGET": lambda m, place: m.push(m.memo[place]),
}


def _check_tree(content: Any) -> None:
    """Refuse a tree that is too deep, too large or endless."""
    level, nodes, depth = [content], 1, 0
    while level:
        for node in level:
            if not isinstance(node, _LEAVES + _CONTAINERS):
                raise CorruptFileError(f"holds a bare {type(node).__name__}. {RESAVE}")
        containers = [node for node in level if isinstance(node, _CONTAINERS)]
        nodes += sum(map(len, containers))  # checked before the next level is built
        if nodes > MAX_NODES:
            raise UnsafeFileError(f"unfolds to more than {MAX_NODES} objects. {RESAVE}")
        if containers and depth > MAX_DEPTH:
            raise UnsafeFileError(f"is nested deeper than {MAX_DEPTH} or endlessly. {RESAVE}")
        parts = [node.values() if isinstance(node, dict) else node for node in containers]
        level, depth = list(itertools.chain.from_iterable(parts)), depth + 1
