"""Processes that do jobs for tests and benchmarks, above all mmsegmentation."""

import json
import os
import subprocess
import uuid
from pathlib import Path
from typing import Any

import numpy as np

PYTHON = "HRNET_PARITY_PYTHON"  # set by `make parity`


class Server:
    """A process that does jobs: one per line of its stdin, as JSON; call its functions by name."""

    def __init__(self, folder: Path, command: list[str]):
        self.folder = folder
        self._files = 0
        self._log_file = folder / f"{uuid.uuid4().hex}.log"
        self._log = self._log_file.open("w")
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    def call(self, function: str, **arguments: Any) -> Any:
        """Run one job; its log is in the error if it fails."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"do": function, **arguments}) + "\n")
        self._process.stdin.flush()
        reply = self._process.stdout.readline()
        if not reply:
            log = self._log_file.read_text()
            raise RuntimeError(f"{function} failed:\n{log[-3000:]}")
        return json.loads(reply)["result"]

    def arrays(self, function: str, **arguments: Any) -> dict[str, np.ndarray]:
        """Run a job that writes an .npz; arguments that are dicts of arrays become files."""
        for name, value in arguments.items():
            if isinstance(value, dict):
                arguments[name] = str(self._new_file())
                np.savez(arguments[name], **value)
        output = self._new_file()
        self.call(function, output=str(output), **arguments)
        with np.load(output) as stored:
            results = dict(stored)
        output.unlink()
        return results

    def _new_file(self) -> Path:
        self._files += 1
        return self.folder / f"{self._files}.npz"

    def close(self) -> None:
        """End the process."""
        with self._process, self._log:  # closes the pipes, waits
            pass


class Peer(Server):
    """The worker that runs mmsegmentation."""

    def __init__(self, folder: Path):
        worker = Path(__file__).with_name("worker.py")
        super().__init__(folder, [os.environ[PYTHON], "-W", "ignore", str(worker)])
