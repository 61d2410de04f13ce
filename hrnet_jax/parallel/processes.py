"""Several processes of one run, on one machine or many: how they connect and exchange values.

A cluster starts the same command once per host; jax learns of it from the environment (TPU pods,
SLURM, Open MPI, Kubernetes), or from JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID.
Each process reads its own share of the data; only the first one writes files.
"""

import os

import jax
import numpy as np
from jax.experimental import multihost_utils


def join(*, timeout: int = 60) -> None:
    """Connect to the other processes, if there are any. Must come before any use of devices.

    When one of them dies or stalls for `timeout` seconds, jax ends the others.

    Raises:
        ValueError: the environment names a coordinator, but not the rest that jax needs.
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
        if "coordinator_address" not in str(error):  # which means: no cluster
            raise


def is_first() -> bool:
    """Whether this process writes the files and speaks to the user."""
    return jax.process_index() == 0


def gather(value: bytes) -> list[bytes]:
    """The values of all processes, in their order; every process must call this."""
    if jax.process_count() == 1:
        return [value]
    own = np.frombuffer(value, np.uint8)
    sizes = multihost_utils.process_allgather(np.array([own.size], np.int32)).ravel()
    padded = np.zeros(sizes.max(), np.uint8)
    padded[: own.size] = own
    every = np.asarray(multihost_utils.process_allgather(padded))
    return [row[:size].tobytes() for row, size in zip(every, sizes, strict=True)]


def total(counts: np.ndarray) -> np.ndarray:
    """The sum over all processes, in the given dtype; every process must call this."""
    # As bytes, because jax would turn 64-bit integers into 32-bit ones.
    parts = [np.frombuffer(part, counts.dtype) for part in gather(counts.tobytes())]
    return np.sum(parts, 0, dtype=counts.dtype).reshape(counts.shape)


def wait_for_all(what: str) -> None:
    """Wait until every process has called this."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(what)
