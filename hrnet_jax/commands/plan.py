"""What training a config will cost on some devices, from the compiled program; nothing runs."""

import re
from collections.abc import Iterable, Sequence
from typing import Any

import jax
from jax.experimental import topologies
from ml_collections import ConfigDict
from rich.table import Column, Table

from hrnet_jax.commands.step_costs import CHIPS, Costs, bound, costs
from hrnet_jax.config.build_data import open_split
from hrnet_jax.config.build_evaluation import protocol_of
from hrnet_jax.config.custom_data import dataset_of
from hrnet_jax.data.decode import decode
from hrnet_jax.data.order import steps_per_epoch
from hrnet_jax.evaluation.batching import count_programs
from hrnet_jax.parallel.mesh import make_mesh
from hrnet_jax.runs.terminal import Terminal


def plan(config: ConfigDict, *, devices: Sequence[jax.Device], terminal: Terminal) -> Costs:
    """Compile the training step for `devices`; print its memory, communication and least time.

    Nothing runs. Only the sizes of the validation images are read, if the data are there.
    """
    mesh = make_mesh(height=config.mesh.height, devices=devices)
    step, _ = costs(config, mesh=mesh, terminal=terminal)
    kind, shape = devices[0].device_kind, mesh.shape
    crop = "x".join(map(str, config.train.crop_size))
    terminal.line(
        f"{config.name}: {config.model.variant}, {step.parameters:,} parameters, "
        f"{config.model.dtype}\n"
        f"Mesh: {len(devices)} {kind} devices = data {shape['data']} x height {shape['height']}; "
        f"{step.images} crops of {crop} per step, accumulate {config.train.accumulate}, "
        f"remat {config.train.remat}"
    )
    _describe_data(config, terminal)
    terminal.table(_step_table(step))
    terminal.table(_collective_table(step))
    terminal.table(_chip_table(step, config.model.dtype))
    terminal.line(
        "Times are lower bounds (no device computes at its peak); images/s is what the input "
        "pipeline must deliver at that bound. docs/scale.md lists the assumptions."
    )
    return step


def simulate(devices: str | None) -> list[jax.Device]:
    """Return the devices of `--devices`: simulated CPUs, a TPU topology, or all that exist.

    A topology such as v5e:4x4 needs libtpu (pip install "hrnet-jax[tpu]"), but no TPU. CPUs must be
    simulated before jax uses any device.
    """
    if devices is None:
        return jax.devices()
    if devices.isdigit() and int(devices):
        jax.config.update("jax_platforms", "cpu")
        jax.config.update("jax_num_cpu_devices", int(devices))
        return jax.devices()
    if not re.fullmatch(r"v\w+:\d+(x\d+)+", devices):
        raise ValueError(
            f"--devices={devices!r} must be a number of simulated devices, such as 8, or a TPU "
            "topology, such as v5e:4x4."
        )
    try:
        topology: Any = topologies.get_topology_desc(devices, platform="tpu")
    except (RuntimeError, NotImplementedError) as error:
        first_line = str(error).splitlines()[0]
        raise ValueError(
            f"Cannot compile for --devices={devices} ({first_line}); TPU topologies need libtpu: "
            "pip install 'hrnet-jax[tpu]'."
        ) from error
    return list(topology.devices)


def _describe_data(config: ConfigDict, terminal: Terminal) -> None:
    """Print steps per epoch and programs to compile, which depend on the sizes of the images."""
    dataset = dataset_of(config)
    count = dataset.counts.get("train")
    try:
        count = len(open_split(config, "train", terminal=terminal))
        validation = open_split(config, "val", terminal=terminal)
        records = (validation[index] for index in range(len(validation)))
        examples = terminal.track(records, "Reading sizes", total=len(validation))
        sizes: Iterable[tuple[int, ...]] = (
            decode(record, dataset)["label"].shape for record in examples
        )
        evaluation = f"{count_programs(sizes, protocol=protocol_of(config))} of evaluation"
    except FileNotFoundError:
        evaluation = f"those of evaluation (unknown: no data in {config.data.root})"
    epoch = "unknown: no data"
    if count is not None:
        steps = steps_per_epoch(
            num_examples=count, batch_size=config.train.batch_size, reference=config.reference
        )
        epoch = f"{steps:,.1f}"
    terminal.line(f"Steps per epoch: {epoch}    Programs to compile: 1 training step, {evaluation}")


def _right(*names: str) -> list[Column]:
    return [Column(name, justify="right") for name in names]


def _step_table(step: Costs) -> Table:
    table = Table("one step", *_right("all devices", "each device"), title="Training step")
    each = step.flops / step.devices
    table.add_row("arithmetic", f"{step.flops / 1e9:,.0f} GFLOP", f"{each / 1e9:,.0f} GFLOP")
    for name, count in (
        ("memory: state and batch", step.arguments),
        ("memory: temporary", step.temporary),
        ("memory: convolutions", step.workspace),
        ("memory: total", step.memory),
        ("memory traffic", step.traffic),
    ):
        table.add_row(name, f"{count * step.devices / 1e6:,.0f} MB", f"{count / 1e6:,.0f} MB")
    return table


def _collective_table(step: Costs) -> Table:
    columns = _right("of devices", "per step", "bytes", "largest")
    table = Table("kind", *columns, title="Collectives")
    kinds = sorted({(c.kind, c.devices) for c in step.collectives})
    for kind, devices in kinds:
        like = [c for c in step.collectives if (c.kind, c.devices) == (kind, devices)]
        table.add_row(
            kind,
            str(devices or "pairs"),
            f"{sum(c.times for c in like):,}",
            f"{sum(c.times * c.bytes for c in like):,}",
            f"{max(c.bytes for c in like):,}",
        )
    if not kinds:
        table.add_row("none", "", "0", "0", "0")
    return table


def _chip_table(step: Costs, dtype: str) -> Table:
    columns = _right("compute ms", "memory ms", "latency ms", "transfer ms", "images/s")
    table = Table("chip", "fits", *columns, "bottleneck", title="At best")
    for chip in CHIPS:
        least = bound(step, chip, dtype=dtype)
        if least is not None:
            table.add_row(
                chip.name,
                "yes" if step.memory < chip.memory else "no",
                *(f"{1e3 * part:.2f}" for part in least),
                f"{step.images / least.step:,.0f}",
                least.first,
            )
    return table
