"""Several processes of the command line on this machine, as SLURM would start them."""

import os
import socket
import subprocess
import sys
from collections.abc import Sequence

from tests.command import ROOT, TINY


def start(
    count: int, arguments: Sequence[str], *, devices: int = 4, module: Sequence[str] = TINY
) -> list[subprocess.Popen]:
    """Start `count` processes that find each other; each has `devices` devices."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    slurm = {
        "SLURM_JOB_ID": "1", "SLURM_STEP_NODELIST": "localhost", "SLURM_NTASKS": str(count),
        "JAX_COORDINATOR_PORT": str(port), "JAX_NUM_CPU_DEVICES": str(devices),
        "COLUMNS": "120",
    }  # fmt: skip
    return [
        subprocess.Popen(
            [sys.executable, *module, *arguments],
            cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env=os.environ | slurm | {"SLURM_PROCID": str(n), "SLURM_LOCALID": str(n)},
        )
        for n in range(count)
    ]  # fmt: skip


def finished(processes: Sequence[subprocess.Popen], *, timeout: float = 240) -> list[tuple]:
    """Wait; return exit code, standard output and standard error of each."""
    texts = [process.communicate(timeout=timeout) for process in processes]
    return [(p.returncode, *text) for p, text in zip(processes, texts, strict=True)]
