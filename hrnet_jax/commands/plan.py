"""What a config will cost on some devices, read from the compiled program before anything runs."""

import re
from collections.abc import Iterable, Sequence
from typing import Any

import jax
from jax.experimental import topologies
from ml_collections import ConfigDict
from rich.table import Table

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
    """Compile the training step of a config for `devices`, and print what it needs and exchanges.

    Nothing is read but the sizes of the validation images, if they are there; nothing runs.
    """
    mesh = make_mesh(height=config.mesh.height, devices=devices)
    found, _ = costs(config, mesh=mesh, terminal=terminal)
    kind, shape = devices[0].device_kind, mesh.shape
    crop = "x".join(map(str, config.train.crop_size))
    terminal.line(
        f"{config.name}: {config.model.variant}, {found.parameters:,} parameters, "
        f"{config.model.dtype}\n"
        f"Mesh: {len(devices)} {kind} devices = data {shape['data']} x height {shape['height']}; "
        f"{found.images} crops of {crop} per step, accumulate {config.train.accumulate}, "
        f"remat {config.train.remat}"
    )
    _data_lines(config, terminal)
    terminal.table(_step_table(found))
    terminal.table(_collective_table(found))
    terminal.table(_chip_table(found, config.model.dtype))
    terminal.line(
        "Times are lower bounds (no device computes at its peak), images/s what the input pipeline "
        "would have to deliver at that bound; docs/scale.md says what they rest on."
    )
    return found


def simulate(devices: str | None) -> list[jax.Device]:
    """The devices that `--devices` names: so many simulated CPUs, a TPU topology, or all there are.

    A topology such as v5e:4x4 needs libtpu (pip install "hrnet-jax[tpu]"), but no TPU. A number
    must be set before jax is used.
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
        first = str(error).splitlines()[0]
        raise ValueError(
            f"--devices={devices} cannot be compiled for here ({first}); TPU topologies need "
            "libtpu, as in pip install 'hrnet-jax[tpu]'."
        ) from error
    return list(topology.devices)


def _data_lines(config: ConfigDict, terminal: Terminal) -> None:
    """Steps per epoch and programs to compile; the latter need the sizes of the images."""
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
    epoch = (
        "unknown: no data"
        if count is None
        else "{:,.1f}".format(
            steps_per_epoch(
                num_examples=count,
                batch_size=config.train.batch_size,
                reference=config.reference,
            )
        )
    )
    terminal.line(f"Steps per epoch: {epoch}    Programs to compile: 1 training step, {evaluation}")


def _step_table(found: Costs) -> Table:
    table = Table("one step", "all devices", "each device", title="Training step")
    for column in table.columns[1:]:
        column.justify = "right"
    each = found.flops / found.devices
    table.add_row("arithmetic", f"{found.flops / 1e9:,.0f} GFLOP", f"{each / 1e9:,.0f} GFLOP")
    for name, count in (
        ("memory: state and batch", found.arguments),
        ("memory: temporary", found.temporary),
        ("memory: convolutions", found.workspace),
        ("memory: together", found.memory),
        ("memory traffic", found.traffic),
    ):
        table.add_row(name, f"{count * found.devices / 1e6:,.0f} MB", f"{count / 1e6:,.0f} MB")
    return table


def _collective_table(found: Costs) -> Table:
    table = Table("kind", "of devices", "per step", "bytes", "largest", title="Collectives")
    for column in table.columns[1:]:
        column.justify = "right"
    kinds = sorted({(c.kind, c.devices) for c in found.collectives})
    for kind, devices in kinds:
        like = [c for c in found.collectives if (c.kind, c.devices) == (kind, devices)]
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


def _chip_table(found: Costs, dtype: str) -> Table:
    table = Table(
        "on", "fits", "compute ms", "memory ms", "waiting ms", "transfer ms", "images/s", "first",
        title="At best",
    )  # fmt: skip
    for column in table.columns[2:7]:
        column.justify = "right"
    for chip in CHIPS:
        least = bound(found, chip, dtype=dtype)
        if least is not None:
            table.add_row(
                chip.name,
                "yes" if found.memory < chip.memory else "no",
                *(f"{1e3 * part:.2f}" for part in least),
                f"{found.images / least.step:,.0f}",
                least.first,
            )
    return table
