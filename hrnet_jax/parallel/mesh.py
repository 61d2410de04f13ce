"""The device mesh and the shardings of arrays. The program is the same for one device and a pod.

Training shards the images of a batch over the mesh axis `data` and the rows of each image over the
axis `height`; `ops/rows.py` exchanges the halo rows.
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
    """Make a mesh with the axes `data` and `height`.

    Args:
        height: number of devices that share the rows of an image.
        devices: the devices; by default all devices of all processes.

    Raises:
        ValueError: `height` does not divide the number of devices, or images would be split between
            processes.
    """
    devices = jax.devices() if devices is None else devices
    count = len(devices)
    if count % height:
        fit = ", ".join(str(n) for n in range(1, count + 1) if count % n == 0)
        raise ValueError(
            f"config.mesh.height={height} does not divide the number of devices, {count}; use one "
            f"of {fit}."
        )
    # In the order of the processes, so that an image stays within one; jax.make_mesh may reorder.
    grid = np.array(devices).reshape(-1, height)
    if any(len({device.process_index for device in row}) > 1 for row in grid):
        own = sum(device.process_index == devices[0].process_index for device in devices)
        raise ValueError(
            f"config.mesh.height={height} would split images between processes, but each process "
            f"reads whole images; use a divisor of the {own} devices of a process."
        )
    # Auto: the compiler chooses the shardings that we do not specify.
    return Mesh(grid, ("data", "height"), axis_types=(AxisType.Auto,) * 2)


def replicated(mesh: Mesh) -> NamedSharding:
    """Return the sharding of parameters, batch statistics and metrics: equal on all devices."""
    return NamedSharding(mesh, P())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Return the sharding of training images and labels: by the batch axis, then by rows."""
    return NamedSharding(mesh, P("data", "height"))


def whole_images(mesh: Mesh) -> P:
    """Return the spec of whole images: the batch axis over all devices of the mesh."""
    return P(mesh.axis_names)


def to_global(batch: Mapping[str, Any], *, mesh: Mesh) -> dict[str, jax.Array]:
    """Put this process's part of a batch on its devices; return the global batch."""
    return put_sharded(
        {name: batch[name] for name in ("image", "label")}, sharding=batch_sharding(mesh)
    )


def put_sharded(tree: Any, *, sharding: NamedSharding) -> Any:
    """Put a tree of host arrays on devices; each process gives its own part."""
    put = functools.partial(jax.make_array_from_process_local_data, sharding)
    return wait_on_cpu(jax.tree.map(put, tree))


def replicate(tree: Any, *, mesh: Mesh) -> Any:
    """Put a tree of host arrays on every device."""
    return wait_on_cpu(jax.device_put(tree, replicated(mesh)))


def wait_on_cpu(tree: Tree) -> Tree:
    """Return the arrays, on CPUs after they have been copied.

    On a CPU a program whose inputs are not ready runs on a thread of jax, whose memory goes back to
    the system after each call (see `prepare_process`). Elsewhere copies and programs may overlap.
    """
    return jax.block_until_ready(tree) if jax.default_backend() == "cpu" else tree


def check_batch_size(batch_size: int, *, field: str, mesh: Mesh, accumulate: int = 1) -> None:
    """Refuse a global batch that cannot be split equally over devices and micro-batches.

    Raises:
        ValueError: names `field`, the config field of the batch size.
    """
    devices = mesh.shape["data"]
    unit = devices * accumulate
    if batch_size % unit:
        along = "the mesh's data axis of " if mesh.shape["height"] > 1 else ""
        micro = f" in config.train.accumulate={accumulate} micro-batches" if accumulate > 1 else ""
        raise ValueError(
            f"{field}={batch_size} cannot be split over {along}{devices} devices{micro}; "
            f"{_nearest_multiples(batch_size, unit)}."
        )


def check_height(height: int, *, field: str, mesh: Mesh) -> None:
    """Refuse images whose rows cannot be split equally over the devices at every stride.

    Raises:
        ValueError: names `field`, the config field of the height.
    """
    devices = mesh.shape["height"]
    unit = _STRIDE * devices
    if devices > 1 and height % unit:
        raise ValueError(
            f"{field} has {height} rows, which config.mesh.height={devices} devices cannot share "
            f"at stride {_STRIDE}; {_nearest_multiples(height, unit)}."
        )


def _nearest_multiples(number: int, unit: int) -> str:
    below, above = number // unit * unit, -(-number // unit) * unit
    nearest = " or ".join(str(multiple) for multiple in (below, above) if multiple)
    return f"use a multiple of {unit}, for example {nearest}"
