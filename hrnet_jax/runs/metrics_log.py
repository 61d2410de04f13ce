"""Logs of a run: metrics as JSON lines and TensorBoard events, bad steps, unreadable files."""

import contextlib
import json
import math
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import tensorboardX

from hrnet_jax.runs.paths import AnyPath, append_text, atomic_write, is_remote, write_text
from hrnet_jax.runs.terminal import Terminal

_COPY_SECONDS = 60  # between copies of TensorBoard's file to a bucket


class MetricsWriter:
    """Appends to `metrics.jsonl` and to TensorBoard events in a workdir.

    A resumed run removes the entries after the step `start` from which it resumes, and the scores
    of that step if it will be evaluated again (`scored=False`).
    """

    def __init__(self, workdir: AnyPath, *, start: int, scored: bool = True):
        self.path, self._bad_steps = workdir / "metrics.jsonl", workdir / "bad_steps.jsonl"
        for path in (self.path, self._bad_steps):
            kept = [
                entry
                for entry in read_metrics(path)
                if entry["step"] < start
                or (entry["step"] == start and (scored or "mIoU" not in entry))
            ]
            if kept or path.exists():
                write_text(path, "".join(json.dumps(entry) + "\n" for entry in kept))
        self._events = Events(workdir / "tensorboard", purge_step=start + 1 if start else None)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Write one entry after `step` steps; NaN and infinity become null."""
        finite = {name: value if math.isfinite(value) else None for name, value in values.items()}
        append_text(self.path, json.dumps({"step": step, "time": time.time(), **finite}) + "\n")
        self._events.write(step, values)

    def write_bad_step(self, step: int, values: Mapping[str, float], *, ids: list[str]) -> AnyPath:
        """Append a step that was not finite to `bad_steps.jsonl`; return the file's path."""
        texts = {name: str(value) for name, value in values.items()}  # JSON has no nan
        append_text(self._bad_steps, json.dumps({"step": step, **texts, "ids": ids}) + "\n")
        return self._bad_steps

    def entries(self) -> list[dict]:
        """Read all entries of the run, including earlier starts."""
        return read_metrics(self.path)

    def close(self) -> None:
        """Flush the TensorBoard events."""
        self._events.close()


class Events:
    """TensorBoard events in a folder.

    tensorboardX appends to a file, which a bucket does not support. For a bucket the file is local
    and copied once a minute and at the end; the last minute is lost if the run is killed.
    """

    def __init__(self, folder: AnyPath, *, purge_step: int | None):
        self._folder, self._copied = folder, time.monotonic()
        self._local = tempfile.TemporaryDirectory() if is_remote(folder) else None
        self._writer = tensorboardX.SummaryWriter(
            self._local.name if self._local else str(folder), purge_step=purge_step
        )

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Add one point to each curve."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        if self._local and time.monotonic() - self._copied > _COPY_SECONDS:
            self._writer.flush()
            self._copy(Path(self._local.name))

    def close(self) -> None:
        """Flush, copy, close."""
        self._writer.close()
        if self._local:
            self._copy(Path(self._local.name))
            self._local.cleanup()

    def _copy(self, local: Path) -> None:
        for file in local.iterdir():
            with atomic_write(self._folder / file.name) as copy:
                copy.write(file.read_bytes())
        self._copied = time.monotonic()


class Quarantine:
    """Lists skipped files, each once, in `quarantine.jsonl` in a workdir."""

    def __init__(self, workdir: AnyPath, *, terminal: Terminal):
        self.path, self._terminal = workdir / "quarantine.jsonl", terminal
        self._known = {entry["bad"] for entry in read_metrics(self.path)}

    def __call__(self, entry: dict[str, str]) -> None:
        """Add a file: {"image": path, "label": path, "bad": one of the two, "reason": text}."""
        if entry["bad"] in self._known:
            return
        self._known.add(entry["bad"])
        append_text(self.path, json.dumps(entry) + "\n")
        self._terminal.warn(
            f"{entry['reason']}\nThe next example is read instead; {self.path} lists "
            f"{len(self._known)} so far."
        )


def read_metrics(path: AnyPath) -> list[dict]:
    """Read a file of JSON lines; a line cut short by a kill is skipped."""
    entries = []
    for line in path.read_text().splitlines() if path.exists() else ():
        with contextlib.suppress(json.JSONDecodeError):
            entries.append(json.loads(line))
    return entries
