"""The device mesh, and how arrays lie on it. The program is the same for one device and a pod."""

from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from hrnet_jax.types import Batch


def make_mesh() -> Mesh:
    """All devices of all hosts along one axis, `data`."""
    # `Auto`: the compiler places what we leave open (make_mesh's own default is `Explicit`).
    return jax.make_mesh((jax.device_count(),), ("data",), axis_types=(AxisType.Auto,))


def replicated(mesh: Mesh) -> NamedSharding:
    """Parameters, statistics, metrics: the same on every device."""
    return NamedSharding(mesh, P())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Images and labels: split over the devices by their first axis."""
    return NamedSharding(mesh, P("data"))


def to_global(batch: Batch, *, mesh: Mesh) -> dict[str, jax.Array]:
    """Put this host's share of a batch on its devices, as a part of the global batch."""
    sharding = batch_sharding(mesh)
    return {
        name: jax.make_array_from_process_local_data(sharding, values)
        for name, values in batch.items()
        if name in ("image", "label")
    }


def replicate(tree: Any, *, mesh: Mesh) -> Any:
    """Put a tree of host arrays on every device."""
    return jax.device_put(tree, replicated(mesh))


def check_batch_size(batch_size: int, *, field: str, mesh: Mesh) -> None:
    """Refuse a global batch that the devices cannot share equally."""
    devices = mesh.shape["data"]
    if batch_size % devices:
        below, above = batch_size // devices * devices, -(-batch_size // devices) * devices
        nearest = " or ".join(str(size) for size in (below, above) if size)
        raise ValueError(
            f"{field}={batch_size} cannot be split over {devices} devices; "
            f"use a multiple of {devices}, for example {nearest}."
        )
