"""The cost of a training step by its compiled program, and its least time on a chip."""

import math
import re
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from hrnet_jax.config.build_training import build_training
from hrnet_jax.config.stored import from_dict
from hrnet_jax.parallel.mesh import make_mesh
from hrnet_jax.runs.terminal import Terminal

_BITS = {"pred": 8, "bf16": 16, "f32": 32, "f64": 64, "u8": 8, "s32": 32, "u32": 32, "s64": 64}
_KINDS = "all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter|collective-broadcast"
_OPERATION = re.compile(rf"= (.+?) ({_KINDS})(?:-start)?\((.*)")
_TRANSPOSED = re.compile(
    r"= (\w+)\[([\d,]+)\]\S* convolution\(.*window=\{size=(\d+)x(\d+)\b.*lhs_dilate=(\d+)x(\d+)"
)
_ARRAY = re.compile(r"\b([a-z]+\d*)\[([\d,]*)\]")


class Collective(NamedTuple):
    """One collective operation of a step."""

    kind: str  # "all-reduce", "collective-permute", ...
    bytes: int  # of its result, per device
    devices: int  # in each group; 0 for pairs
    times: int  # per step, more than 1 in a loop


class Chip(NamedTuple):
    """A manufacturer's figures of one device. Rates are per second."""

    name: str
    flops: dict[str, float]  # by config.model.dtype
    memory: float  # bytes
    bandwidth: float  # bytes from and to its memory
    link: float  # bytes to other devices, one way
    latency: float  # seconds of one small collective; our assumption


# TPUs: cloud.google.com/tpu/docs/v5e and /v5p; links are half of the bidirectional figure. float32
# at highest precision is six passes in bfloat16. H100 SXM: NVIDIA's data sheet, dense, NVLink
# within 8 GPUs; float32 without TF32. Latencies are assumptions: 5 us on an ICI torus, 10 for NCCL.
CHIPS = (
    Chip("TPU v5e", {"bfloat16": 197e12, "float32": 197e12 / 6}, 16e9, 819e9, 200e9, 5e-6),
    Chip("TPU v5p", {"bfloat16": 459e12, "float32": 459e12 / 6}, 95e9, 2765e9, 600e9, 5e-6),
    Chip("H100", {"bfloat16": 989e12, "float32": 67e12}, 80e9, 3350e9, 450e9, 10e-6),
)


class Costs(NamedTuple):
    """The costs of one training step. Bytes are per device."""

    parameters: int
    images: int  # per step
    devices: int
    flops: float  # of all devices
    traffic: float  # bytes that the program reads and writes in memory
    arguments: int  # bytes of state and batch
    temporary: int  # bytes during a step, by the compiler's analysis
    workspace: int  # bytes of convolutions, which that analysis omits
    collectives: list[Collective]

    @property
    def memory(self) -> int:
        """Bytes that a device needs; the new state replaces the old one."""
        return self.arguments + self.temporary + self.workspace

    @property
    def exchanges(self) -> int:
        """Collectives per step."""
        return sum(c.times for c in self.collectives)


class Bound(NamedTuple):
    """The least time of each part of a step on a chip, in seconds."""

    compute: float
    memory: float
    latency: float  # of all collectives, one after another
    transfer: float  # of their bytes

    @property
    def step(self) -> float:
        """Arithmetic and memory traffic overlap; collectives do not."""
        return max(self.compute, self.memory) + self.latency + self.transfer

    @property
    def first(self) -> str:
        """The part that takes longest."""
        return max(self._fields, key=lambda part: getattr(self, part))


def costs(
    config: ConfigDict, *, mesh: Mesh, terminal: Terminal
) -> tuple[Costs, jax.stages.Compiled]:
    """Compile the training step for a mesh; return its costs and the program."""
    training = build_training(config, mesh=mesh)
    state, batch = training.state_shape, training.batch_shape
    with terminal.announced("Counting the arithmetic"):
        # On one device and without accumulation: loops and shards would hide a part of it.
        whole = from_dict(config.to_dict())
        whole.train.accumulate = 1
        alone: Any = build_training(whole, mesh=make_mesh(devices=jax.devices()[:1])).step
        flops = alone.lower(state, batch).cost_analysis()["flops"]
    with terminal.announced(f"Compiling the training step for {mesh.size} devices"):
        # Not `compile_program`: the program never runs here, and may be for a TPU.
        compiled = training.step.lower(state, batch).compile()
    memory: Any = compiled.memory_analysis()
    analysis: Any = compiled.cost_analysis()
    text = compiled.as_text() or ""
    on_cpus = mesh.devices.flat[0].platform == "cpu"
    step = Costs(
        parameters=training.parameters,
        images=config.train.batch_size,
        devices=mesh.size,
        flops=flops,
        # The compiler counts the body of a loop once.
        traffic=analysis["bytes accessed"] * config.train.accumulate,
        arguments=memory.argument_size_in_bytes + memory.output_size_in_bytes
        - memory.alias_size_in_bytes,
        temporary=memory.temp_size_in_bytes,
        workspace=workspace(text) if on_cpus else 0,
        collectives=collectives(text),
    )  # fmt: skip
    return step, compiled


def collectives(program: str) -> list[Collective]:
    """Find the collectives in the text of a compiled program (HLO)."""
    repeats = dict(re.findall(r'body=%?([\w.-]+).*?"known_trip_count":\{"n":"(\d+)"', program))
    result, times = [], 1
    for line in program.splitlines():
        if line and not line[0].isspace():  # a computation begins
            name = line.removeprefix("ENTRY ").removeprefix("%").split(" ")[0]
            times = int(repeats.get(name, 1))
        elif match := _OPERATION.search(line):
            arrays, kind, rest = match.groups()
            sizes = [_size(*array) for array in _ARRAY.findall(arrays)]
            # An asynchronous permute lists operand, result and flags; a combined all-reduce lists
            # all its results.
            total = sum(sizes) if kind in ("all-reduce", "all-to-all") else max(sizes)
            result.append(Collective(kind, total, _group_size(rest), times))
    return result


def workspace(program: str) -> int:
    """Bytes of the largest matrix that a transposed convolution makes on CPUs, from HLO text.

    The backward pass of a convolution of stride 2 is one. XLA's CPU runtime multiplies all pixels
    of its input by the whole kernel before it adds up overlapping windows, and allocates that
    product itself, which no memory analysis shows.
    """
    largest = 0
    for dtype, shape, *window in _TRANSPOSED.findall(program):
        rows, columns, *dilation = map(int, window)
        inputs = _size(dtype, shape) // math.prod(dilation)  # of as many channels as the output
        largest = max(largest, inputs * rows * columns)
    return largest


def _size(dtype: str, shape: str) -> int:
    return math.prod(map(int, filter(None, shape.split(",")))) * _BITS.get(dtype, 32) // 8


def _group_size(attributes: str) -> int:
    if match := re.search(r"replica_groups=\[\d+,(\d+)\]", attributes):
        return int(match[1])
    if match := re.search(r"replica_groups=\{\{([\d,]+)\}", attributes):
        return match[1].count(",") + 1
    if match := re.search(r"replica_groups=mesh\[([^\]]*)\] \{([^}]*)\}", attributes):
        sizes = dict(re.findall(r"'(\w+)'=(\d+)", match[1]))
        return math.prod(int(sizes[axis]) for axis in re.findall(r"'(\w+)'", match[2]))
    return 0


def bound(costs: Costs, chip: Chip, *, dtype: str) -> Bound | None:
    """Return the least time of a step on a chip; None if the chip does not support `dtype`."""
    if dtype not in chip.flops:
        return None
    transfer = 0.0
    for c in costs.collectives:
        # A ring all-reduce sends each byte twice, except the device's own share.
        share = 2 * (c.devices - 1) / c.devices if c.kind == "all-reduce" and c.devices else 1
        transfer += c.times * c.bytes * share / chip.link
    return Bound(
        compute=costs.flops / costs.devices / chip.flops[dtype],
        memory=costs.traffic / chip.bandwidth,
        latency=costs.exchanges * chip.latency,
        transfer=transfer,
    )
