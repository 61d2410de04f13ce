"""The command line as a user starts it: in a process of its own, with eight devices."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
TINY = ("-m", "tests.tiny", "--config", "tests/tiny_config.py")


def run(
    *arguments: str,
    module=("-m", "hrnet_jax.main"),
    devices: int = 8,
    check: bool = True,
    timeout: float = 300,
):
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": str(devices), "COLUMNS": "120"}
    done = subprocess.run(
        [sys.executable, *module, *arguments],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=timeout, check=False,
    )  # fmt: skip
    if check:
        assert done.returncode == 0, done.stdout + done.stderr
    return done
