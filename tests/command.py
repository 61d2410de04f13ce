"""The command line as a user starts it: in its own process, with eight devices."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from absl import app

ROOT = Path(__file__).parent.parent
TINY = ("-m", "tests.tiny", "--config", "tests/tiny_config.py")


def run(
    *arguments: str,
    module=("-m", "hrnet_jax.main"),
    devices: int = 8,
    check: bool = True,
    environment: dict[str, str] | None = None,
    timeout: float = 300,
):
    more = {"JAX_NUM_CPU_DEVICES": str(devices), "COLUMNS": "120"} | (environment or {})
    done = subprocess.run(
        [sys.executable, *module, *arguments],
        cwd=ROOT, env=os.environ | more, capture_output=True, text=True, timeout=timeout,
        check=False,
    )  # fmt: skip
    if check:
        assert done.returncode == 0, done.stdout + done.stderr
    return done


def run_each(commands: Sequence[Sequence[str]]) -> list[subprocess.CompletedProcess[str]]:
    """Run short commands, each in a fork of one process, because importing takes seconds."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.command"], input=json.dumps(commands),
        cwd=ROOT, capture_output=True, text=True, timeout=300, check=True,
    )  # fmt: skip
    return [subprocess.CompletedProcess(*fields) for fields in json.loads(done.stdout)]


def _run_copy(arguments: list[str]) -> tuple[list[str], int, str, str]:
    """Arguments, exit code, standard output and standard error of the command line."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        child = os.fork()  # before jax makes a device, and with it threads
        if child == 0:
            os.dup2(out.fileno(), 1)
            os.dup2(err.fileno(), 2)
            sys.argv = ["main.py", *arguments]
            from hrnet_jax import main  # imported before, below

            app.run(main.main, flags_parser=main.parse_flags)
        _, status = os.waitpid(child, 0)
        texts = []
        for stream in (out, err):
            stream.seek(0)
            texts.append(stream.read().decode())
        return arguments, os.waitstatus_to_exitcode(status), *texts


if __name__ == "__main__":
    import hrnet_jax.main  # noqa: F401 -- once, for all copies

    print(json.dumps([_run_copy(arguments) for arguments in json.load(sys.stdin)]))
