"""Arithmetic and least bytes of a traced program, by layer group: the paper part of `roofline.py`.

This counts the program as it is written (its jaxpr), not what a compiler made of it. Its operations
are gathered into kernels as a perfect compiler would do it: one convolution or product with all
that can be computed where its result appears, and one pass over an array wherever a mean over
pixels must be known first. A kernel reads every array that it needs once and writes once what
others need. What costs fewer bytes to compute again than to read (a cast, an upsampled branch) is
computed again. No kernel spans two layer groups. A real device needs more, never less.
"""

import collections
import contextlib
import math
import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple
from unittest.mock import patch

import jax
from flax import nnx

from hrnet_jax.commands.step_costs import Chip
from hrnet_jax.models import Segmentor

LANES = 128  # of a TPU's registers, and of its matrix unit on either side
_STAGE = re.compile(r"backbone\.stage(\d)\.\d+(?:\.branches\.(\d))?")
_TRANSITION = re.compile(r"backbone\.transition(\d)\.(\d)")
_VIEWS = {"slice", "reshape", "squeeze", "transpose", "rev", "split", "copy"}
_PRODUCTS = {"conv_general_dilated", "dot_general"}


class Kernel(NamedTuple):
    """What a device does without storing anything in between."""

    group: str  # "stem", "stage 3, stride 8", "stage 3, fusion", "head", "loss", "update", ...
    flops: float  # 2 x multiply-adds of convolutions and products; the rest is negligible
    bytes: int  # read and written
    padded_flops: float  # with the sides of the matrices padded to `LANES`
    padded_bytes: int  # with the last axis padded to `LANES`

    def seconds(self, chip: Chip, *, dtype: str, padded: bool = False) -> tuple[float, float]:
        """The least time of arithmetic and of memory."""
        flops, size = self[3:] if padded else self[1:3]
        return flops / chip.flops[dtype], size / chip.bandwidth


class _Operation(NamedTuple):
    """An equation of the jaxpr; arrays are numbers."""

    name: str
    params: dict[str, Any]
    inputs: list[int]
    outputs: list[int]
    scope: str


def kernels_of(trace: Callable[[], jax.stages.Traced]) -> list[Kernel]:
    """Trace a program that calls a `Segmentor`, and gather its operations into kernels."""
    with _named_modules():
        jaxpr = trace().jaxpr
    program = _Program(jaxpr)
    return list(_demanded(program, *_gathered(program)))


@contextlib.contextmanager
def _named_modules() -> Iterator[None]:
    """Write the path of each module of a `Segmentor` into the names of what it computes."""
    paths: dict[int, str] = {}

    def naming(original: Callable) -> Callable:
        def call(module: nnx.Module, *args: Any) -> Any:
            if isinstance(module, Segmentor):
                paths.update(_paths(module))
            with jax.named_scope(f"@{paths.get(id(module), '')}"):
                return original(module, *args)

        return call

    with contextlib.ExitStack() as stack:
        for kind in [Segmentor, *_subclasses(nnx.Module)]:
            if kind.__module__.startswith("hrnet_jax.") and "__call__" in vars(kind):
                stack.enter_context(patch.object(kind, "__call__", naming(kind.__call__)))
        yield


def _subclasses(kind: type) -> Iterator[Any]:
    for below in kind.__subclasses__():
        if below is not Segmentor:
            yield below
        yield from _subclasses(below)


def _paths(model: nnx.Module) -> dict[int, str]:
    return {
        id(module): ".".join(map(str, path))
        for path, module in nnx.iter_graph(model)
        if isinstance(module, nnx.Module)
    }


def group_of(scope: str) -> str:
    """The layer group of an operation by the names around it; "" where its operands decide."""
    path = (re.findall(r"@([\w.]*)", scope) or [None])[-1]
    if path is None:
        return "loss" if "jvp" in scope else "update"
    if path.startswith("decode_head"):
        return "head"
    if match := _STAGE.match(path):
        stage, branch = match.groups()
        return f"stage {stage}, " + (f"stride {4 * 2 ** int(branch)}" if branch else "fusion")
    if match := _TRANSITION.match(path):
        return f"stage {int(match[1]) + 1}, stride {4 * 2 ** int(match[2])}"
    if path.startswith("backbone.layer1"):
        return "stage 1"
    return "stem" if path.startswith("backbone.") else ""


class _Program:
    """A jaxpr without calls: each operation in its place, as accelerators would run it."""

    def __init__(self, jaxpr: Any):
        self.shapes: list[tuple[int, ...]] = []
        self.item: list[int] = []  # bytes of one element
        self.operations: list[_Operation] = []
        variables = [*jaxpr.jaxpr.constvars, *jaxpr.jaxpr.invars]
        found = self._inlined(jaxpr.jaxpr, [self._new(v.aval) for v in variables], scope="")
        self.results = {value for value in found if value >= 0}
        self.ahead = _ahead(self)

    def bytes(self, value: int) -> int:
        """Of an array."""
        return math.prod(self.shapes[value]) * self.item[value]

    def padded(self, value: int) -> float:
        """How many times larger it is with its last axis padded."""
        shape = self.shapes[value]
        return _filled(shape[-1]) / shape[-1] if len(shape) > 1 and shape[-1] else 1

    def _new(self, aval: Any) -> int:
        self.shapes.append(aval.shape)
        self.item.append(aval.dtype.itemsize)
        return len(self.shapes) - 1

    def _inlined(self, jaxpr: Any, arguments: list[int], *, scope: str) -> list[int]:
        variables = [*jaxpr.constvars, *jaxpr.invars]
        known = dict(zip(variables, arguments, strict=True))

        def number(atom: Any) -> int:
            return -1 if hasattr(atom, "val") else known[atom]  # a literal is in no memory

        for equation in jaxpr.eqns:
            here = f"{scope}/{equation.source_info.name_stack}"
            inputs = [number(atom) for atom in equation.invars]
            inner, inputs = _called(equation, inputs)
            if inner is None:
                outputs = [self._new(variable.aval) for variable in equation.outvars]
                read = [value for value in inputs if value >= 0]
                name, params = equation.primitive.name, equation.params
                self.operations.append(_Operation(name, params, read, outputs, here))
            else:
                jaxpr_, consts = getattr(inner, "jaxpr", inner), getattr(inner, "consts", [])
                held = [self._new(variable.aval) for variable in jaxpr_.constvars[: len(consts)]]
                outputs = self._inlined(jaxpr_, held + inputs, scope=here)
            known.update(zip(equation.outvars, outputs, strict=True))
        return [number(atom) for atom in jaxpr.outvars]


def _called(equation: Any, inputs: list[int]) -> tuple[Any, list[int]]:
    """The function that an equation calls, and what with; None where it computes itself."""
    if equation.primitive.name == "cond":  # of platforms: the last one is for accelerators
        return equation.params["branches"][-1], inputs[1:]
    if equation.primitive.name in ("while", "scan"):
        raise ValueError("A loop's body would be counted once; trace with accumulate=1.")
    for name in ("jaxpr", "call_jaxpr", "fun_jaxpr"):
        if name in equation.params:
            return equation.params[name], inputs
    return None, inputs


def _gathered(program: _Program) -> tuple[list[str], list[int], set[int]]:
    """Groups of the kernels, the kernel of each operation, and arrays known after a whole pass."""
    groups = ["update"]  # the first kernel is for results that need no convolution nor pass
    kernel_of: dict[int, int] = {}  # by array
    places, late = [], set[int]()
    for number, operation in enumerate(program.operations):
        before = {value: kernel_of.get(value, 0) for value in operation.inputs}
        latest = max(before.values(), default=0)
        group = group_of(operation.scope) or groups[latest]
        waits = any(value in late for value, kernel in before.items() if kernel == latest)
        if number in program.ahead:
            latest = 0
        elif latest == 0 or waits or groups[latest] != group or operation.name in _PRODUCTS:
            groups.append(group)
            latest = len(groups) - 1
        places.append(latest)
        kernel_of.update(dict.fromkeys(operation.outputs, latest))
        if _is_a_pass(operation, program):
            late.update(operation.outputs)
    return groups, places, late


def _ahead(program: _Program) -> set[int]:
    """Casts of weights and the like: no convolution, product or pass comes before them."""
    found, after = set[int](), set[int]()
    for number, operation in enumerate(program.operations):
        if (
            operation.name in _PRODUCTS
            or _is_a_pass(operation, program)
            or after.intersection(operation.inputs)
        ):
            after.update(operation.outputs)
        else:
            found.add(number)
    return found


def _is_a_pass(operation: _Operation, program: _Program) -> bool:
    """Whether its result needs all pixels, unlike a sum over classes."""
    if not operation.name.startswith("reduce_") or "axes" not in operation.params:
        return False
    rank = len(program.shapes[operation.inputs[0]])
    return not (rank == 4 and tuple(operation.params["axes"]) == (3,))


def _demanded(
    program: _Program, groups: list[str], places: list[int], late: set[int]
) -> Iterator[Kernel]:
    """Count what each kernel does for the program's results, last kernel first."""
    maker = {value: number for number, operation in enumerate(program.operations)
             for value in operation.outputs}  # fmt: skip
    sources = _sources(program, late)
    written = set(program.results & maker.keys())
    members: list[list[int]] = [[] for _ in groups]
    for number, place in enumerate(places):
        members[place].append(number)
    for kernel in reversed(range(len(groups))):
        own = {value for number in members[kernel] for value in program.operations[number].outputs}
        writes = own & written
        # What it computes for that, and what it reads: back from what it writes.
        needed, read, seen = list(writes), dict[int, int](), set[int]()
        while needed:
            number = maker[needed.pop()]
            if number in seen:
                continue
            seen.add(number)
            for value in program.operations[number].inputs:
                if value in own:
                    needed.append(value)
                else:
                    _merge(read, sources[value])
        if not seen:
            continue
        written |= read.keys() & maker.keys()
        products = [program.operations[n] for n in seen if program.operations[n].name in _PRODUCTS]
        flops = [_arithmetic(operation, program) for operation in products]
        moved = [*read.items(), *((value, program.bytes(value)) for value in writes)]
        yield Kernel(
            groups[kernel],
            flops=sum(exact for exact, _ in flops),
            bytes=sum(size for _, size in moved),
            padded_flops=sum(filled for _, filled in flops),
            padded_bytes=round(sum(size * program.padded(value) for value, size in moved)),
        )


def _sources(program: _Program, late: set[int]) -> dict[int, dict[int, int]]:
    """What another kernel reads to have an array: bytes of itself, or of what it follows from."""
    sources = {value: {value: program.bytes(value)} for value in range(len(program.shapes))}
    readers = collections.Counter(program.results)
    for operation in program.operations:
        # Twice for a product, which does not compute what it reads.
        for value in operation.inputs:
            readers[value] += 2 if operation.name in _PRODUCTS else 1
    for number, operation in enumerate(program.operations):
        if operation.name in _PRODUCTS or late.intersection(operation.outputs):
            continue
        again, is_sum = dict[int, int](), operation.name in ("add", "add_any")
        for value in operation.inputs:
            _merge(again, sources[value])
        for value in operation.outputs:
            size = program.bytes(value)
            if operation.name in _VIEWS:
                sources[value] = {source: min(size, part) for source, part in again.items()}
            elif (
                number in program.ahead
                or sum(again.values()) < size + (readers[value] == 1)
                # Terms of a sum are added where all of them are there, not one after the other.
                or (is_sum and readers[value] == 1 and max(again.values()) <= size)
            ):
                sources[value] = again
    return sources


def _merge(into: dict[int, int], more: dict[int, int]) -> None:
    for value, size in more.items():
        into[value] = max(size, into.get(value, 0))


def _arithmetic(operation: _Operation, program: _Program) -> tuple[float, float]:
    """2 x multiply-adds, exact and with all sides of the matrix product padded."""
    left, right = (program.shapes[value] for value in operation.inputs[:2])
    result = program.shapes[operation.outputs[0]]
    if operation.name == "dot_general":
        (summed, _), (shared, _) = operation.params["dimension_numbers"]
        inner, times = (math.prod(left[axis] for axis in axes) for axes in (summed, shared))
        outer, zeros = math.prod(right) // inner // times, 1
    else:
        outer, *rest = (right[axis] for axis in operation.params["dimension_numbers"].rhs_spec)
        # The zeros between the rows of a strided gradient are not multiplied.
        inner, zeros = math.prod(rest), math.prod(operation.params["lhs_dilation"])
    exact = 2 * math.prod(result) * inner / zeros
    return exact, exact * _fill(inner) * _fill(outer) * _fill(math.prod(result) // outer)


def _filled(size: int) -> int:
    return -(-size // LANES) * LANES


def _fill(size: int) -> float:
    return _filled(size) / size
