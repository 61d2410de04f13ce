"""The device mesh, and how arrays lie on it. The program is the same for one device and a pod.

Training splits a batch by images over the axis `data` and each image by rows over the axis
`height`; `ops/rows.py` exchanges the halo rows that convolutions and resizing read.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

_STRIDE = 32  # of the coarsest branch

Tree = TypeVar("Tree")


def make_mesh(*, height: int = 1, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """All devices of all hosts along two axes: `data` and `height`.

    Args:
        height: devices that share the rows of an image.
        devices: those to use; all by default.

    Raises:
        ValueError: `height` does not divide the number of devices, or rows would be shared between
            processes.
    """
    devices = jax.devices() if devices is None else devices
    count = len(devices)
    if count % height:
        fit = ", ".join(str(n) for n in range(1, count + 1) if count % n == 0)
        raise ValueError(
            f"config.mesh.height={height} does not divide the {count} devices there are; use one "
            f"of {fit}."
        )
    # In the order of their hosts (jax.make_mesh may choose another): an image stays on one.
    grid = np.array(devices).reshape(-1, height)
    if any(len({device.process_index for device in row}) > 1 for row in grid):
        own = sum(device.process_index == devices[0].process_index for device in devices)
        raise ValueError(
            f"config.mesh.height={height} would cut images between processes, but each process "
            f"reads whole ones; use a divisor of the {own} devices of one."
        )
    # `Auto`: the compiler chooses the shardings that we do not give.
    return Mesh(grid, ("data", "height"), axis_types=(AxisType.Auto,) * 2)


def replicated(mesh: Mesh) -> NamedSharding:
    """Parameters, statistics, metrics: the same on every device."""
    return NamedSharding(mesh, P())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Images and labels of a training step: split by their first axis, then by rows."""
    return NamedSharding(mesh, P("data", "height"))


def whole_images(mesh: Mesh) -> P:
    """Whole images: the first axis is split over all devices, whatever the mesh."""
    return P(mesh.axis_names)


def to_global(batch: Mapping[str, Any], *, mesh: Mesh) -> dict[str, jax.Array]:
    """Put this host's share of a batch on its devices; returns the global batch."""
    return put_sharded(
        {name: batch[name] for name in ("image", "label")}, sharding=batch_sharding(mesh)
    )


def put_sharded(tree: Any, *, sharding: NamedSharding) -> Any:
    """Put a tree of host arrays on devices, each host its share."""
    put = functools.partial(jax.make_array_from_process_local_data, sharding)
    return wait_on_cpu(jax.tree.map(put, tree))


def replicate(tree: Any, *, mesh: Mesh) -> Any:
    """Put a tree of host arrays on every device."""
    return wait_on_cpu(jax.device_put(tree, replicated(mesh)))


def wait_on_cpu(tree: Tree) -> Tree:
    """Return arrays; on CPUs wait until they are copied to where they were put.

    On a CPU a program whose inputs are not there yet runs later on a thread of jax, whose memory
    goes back to the system after each call. On other devices copies and programs overlap.
    """
    return jax.block_until_ready(tree) if jax.default_backend() == "cpu" else tree


def check_batch_size(batch_size: int, *, field: str, mesh: Mesh, accumulate: int = 1) -> None:
    """Refuse a global batch that cannot be split equally over devices and micro-batches."""
    groups = mesh.shape["data"]
    if batch_size % (groups * accumulate):
        unit = groups * accumulate
        below, above = batch_size // unit * unit, -(-batch_size // unit) * unit
        nearest = " or ".join(str(size) for size in (below, above) if size)
        along = "the mesh's data axis of " if mesh.shape["height"] > 1 else ""
        micro = f" in config.train.accumulate={accumulate} micro-batches" if accumulate > 1 else ""
        raise ValueError(
            f"{field}={batch_size} cannot be split over {along}{groups} devices{micro}; "
            f"use a multiple of {unit}, for example {nearest}."
        )


def check_height(height: int, *, field: str, mesh: Mesh) -> None:
    """Refuse images whose rows cannot be split equally over the devices at every stride.

    `ops/rows.py` needs equal shares, down to one row of the coarsest branch on each device.
    """
    shares = mesh.shape["height"]
    unit = _STRIDE * shares
    if shares > 1 and height % unit:
        below, above = height // unit * unit, -(-height // unit) * unit
        nearest = " or ".join(str(size) for size in (below, above) if size)
        raise ValueError(
            f"{field} has {height} rows, which config.mesh.height={shares} devices cannot share at "
            f"stride {_STRIDE}; use a multiple of {unit}, for example {nearest}."
        )
