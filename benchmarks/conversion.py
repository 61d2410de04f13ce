"""Time and memory of converting a W48 file of published size, there and back.

    python -m benchmarks.conversion

The file (264 MB) is made here, with random numbers; each command runs in a process of its own.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import numpy as np

from hrnet_jax.interop.pth_write import write_pth
from hrnet_jax.interop.weights import template


def main() -> None:
    """Write the file, convert it twice, print what it took."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        random = np.random.default_rng(0)
        state = {
            key: random.standard_normal(shape, np.float32)
            for key, (_, shape) in template("hr48", 19).items()
        }
        write_pth(folder / "w48.pth", {"state_dict": state})
        print(f"w48.pth: {(folder / 'w48.pth').stat().st_size:,} bytes, {os.cpu_count()} cores")
        measure("convert.from_pytorch", folder / "w48.pth", folder / "run")
        measure("convert.to_pytorch", folder / "run", folder / "back.pth")


def measure(command: str, source: Path, target: Path) -> None:
    """Run a command of `convert/` and print its time and its largest resident memory."""
    begin = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", command, str(source), "--output", str(target)],
        stdout=subprocess.DEVNULL,
    )
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - begin
    unit = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss, in bytes
    if status:
        sys.exit(f"Error: {command} failed with status {status}.")
    print(f"{command}: {seconds:.1f} s, {usage.ru_maxrss * unit / 1e9:.2f} GB")


if __name__ == "__main__":
    main()
