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
    environment: dict[str, str] | None = None,
):
    more = {"JAX_NUM_CPU_DEVICES": str(devices), "COLUMNS": "120"} | (environment or {})
    done = subprocess.run(
        [sys.executable, *module, *arguments],
        cwd=ROOT, env=os.environ | more, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    if check:
        assert done.returncode == 0, done.stdout + done.stderr
    return done
