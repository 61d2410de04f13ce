"""The processes of one run, on one host or many: how they connect and exchange values.

A cluster starts the same command once per host. jax detects TPU pods, SLURM, Open MPI and
Kubernetes, or reads JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID. Each process
reads its own part of the data; only the first one writes files.
"""

import os

import jax
import numpy as np
from jax.experimental import multihost_utils


def join(*, timeout: int = 60) -> None:
    """Connect to the other processes, if there are any. Call it before any device is used.

    If one of them dies or stalls for `timeout` seconds, jax ends the others.

    Raises:
        ValueError: a coordinator is set, but other variables that jax needs are not.
    """
    number, count = (os.environ.get(f"JAX_{name}") for name in ("PROCESS_ID", "NUM_PROCESSES"))
    try:
        jax.distributed.initialize(
            process_id=None if number is None else int(number),
            num_processes=None if count is None else int(count),
            heartbeat_timeout_seconds=timeout,
        )
    except ValueError as error:
        if "JAX_COORDINATOR_ADDRESS" in os.environ:
            raise ValueError(
                f"JAX_COORDINATOR_ADDRESS is set, but: {error} Set JAX_NUM_PROCESSES and "
                "JAX_PROCESS_ID (0, 1, ...) as well."
            ) from error
        if "coordinator_address" not in str(error):  # the error of a single process
            raise


def is_first() -> bool:
    """Whether this process writes files and prints to the terminal."""
    return jax.process_index() == 0


def gather(value: bytes) -> list[bytes]:
    """Return the values of all processes, in their order; all must call this."""
    if jax.process_count() == 1:
        return [value]
    own = np.frombuffer(value, np.uint8)
    sizes = multihost_utils.process_allgather(np.array([own.size], np.int32)).ravel()
    padded = np.zeros(sizes.max(), np.uint8)
    padded[: own.size] = own
    rows = np.asarray(multihost_utils.process_allgather(padded))
    return [row[:size].tobytes() for row, size in zip(rows, sizes, strict=True)]


def total(counts: np.ndarray) -> np.ndarray:
    """Return the sum over all processes, in the same dtype; all must call this."""
    # As bytes, because jax would convert 64-bit integers to 32 bits.
    parts = [np.frombuffer(part, counts.dtype) for part in gather(counts.tobytes())]
    return np.sum(parts, 0, dtype=counts.dtype).reshape(counts.shape)


def wait_for_all(name: str) -> None:
    """Wait until all processes have called this."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)
