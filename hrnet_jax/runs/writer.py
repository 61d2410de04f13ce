"""What a person sees of a run: lines, one live line, metrics as JSON lines and for TensorBoard."""

import contextlib
import json
import math
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TypeVar

import tensorboardX
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table

from hrnet_jax.runs.paths import AnyPath, append_text, atomic_write, is_remote, write_text

T = TypeVar("T")
_COPY_SECONDS = 60  # between copies of TensorBoard's file to a bucket


class Terminal:
    """Events as lines; progress as one live line on a terminal, as plain lines elsewhere."""

    def __init__(self, console: Console | None = None):
        self.console = console or Console(highlight=False, soft_wrap=True)

    def line(self, text: str) -> None:
        """Print one event. Square brackets are text, not markup."""
        self.console.print(text, markup=False)

    def warn(self, text: str) -> None:
        """Print one event that a user would act on."""
        self.console.print(f"Warning: {text}", style="yellow", markup=False)

    def table(self, table: Table) -> None:
        """Print a table."""
        self.console.print(table)

    @contextlib.contextmanager
    def announced(self, what: str) -> Iterator[None]:
        """Say that something without progress has begun, then how long it took."""
        begin = time.perf_counter()
        with self.console.status(f"{what} ..."):
            if not self.console.is_terminal:
                self.line(f"{what} ...")
            yield
        self.line(f"{what}: {time.perf_counter() - begin:.1f} s")

    def announced_if_remote(self, path: AnyPath) -> contextlib.AbstractContextManager[None]:
        """Announce that a path is read, if that means waiting for a network."""
        return self.announced(f"Reading {path}") if is_remote(path) else contextlib.nullcontext()

    def line_if_plain(self, text: str) -> None:
        """Print a line where there is no live one: in a file, in CI."""
        if not self.console.is_terminal:
            self.line(text)

    @contextlib.contextmanager
    def live(self, what: str, *, total: int | float, done: int | float = 0) -> Iterator["LiveLine"]:
        """Show one line that is rewritten in place: a bar, the count, a text."""
        progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=20),
            TextColumn("{task.completed:.0f}/{task.total:.0f}  {task.fields[text]}", markup=False),
            console=self.console,
            transient=True,
            disable=not self.console.is_terminal,
            refresh_per_second=4,
        )
        with progress:
            yield LiveLine(progress, what, total=total, done=done)

    def track(self, items: Iterable[T], what: str, *, total: int) -> Iterator[T]:
        """Pass items through, showing how many are done, the rate and the time to go."""
        with self.live(what, total=total) as live:
            for item in items:
                yield item
                live.advance()
                live.show(f"{live.rate:.1f}/s  {live.eta} to go")


class LiveLine:
    """The progress of one task: how far, how fast, how long still."""

    def __init__(self, progress: Progress, what: str, *, total: int | float, done: int | float):
        self.total = total
        self._progress = progress
        self._task = progress.add_task(what, total=total, text="")
        progress.update(self._task, completed=done)
        self._first, self._done = done, done
        self._begin = time.perf_counter()

    def advance(self, amount: int | float = 1) -> None:
        """One more is done, or another amount."""
        self._done += amount
        self._progress.update(self._task, completed=self._done)

    def show(self, text: str) -> None:
        """Show a text behind the count until the next one."""
        self._progress.update(self._task, text=text)

    @property
    def rate(self) -> float:
        """Items per second since the beginning."""
        return (self._done - self._first) / max(time.perf_counter() - self._begin, 1e-9)

    @property
    def eta(self) -> str:
        """Time to go at this rate, as minutes:seconds."""
        return clock((self.total - self._done) / self.rate) if self.rate else "-:--"


def clock(seconds: float) -> str:
    """Format a duration: 75 -> 1:15, 7384 -> 2:03:04."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


class MetricsWriter:
    """Appends to `metrics.jsonl` and to TensorBoard events in a workdir.

    A resumed run rewrites what a killed one had written beyond the step it resumes from, and the
    scores of that step if they are to be had again (`scored=False`).
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
        """Note a step that was not finite and its examples in `bad_steps.jsonl`, returned."""
        texts = {name: str(value) for name, value in values.items()}  # JSON has no nan
        append_text(self._bad_steps, json.dumps({"step": step, **texts, "ids": ids}) + "\n")
        return self._bad_steps

    def entries(self) -> list[dict]:
        """Read back all entries of the run, earlier starts included."""
        return read_metrics(self.path)

    def close(self) -> None:
        """Write what TensorBoard has not got yet."""
        self._events.close()


class Events:
    """TensorBoard's events in a folder.

    tensorboardX adds to its file as it goes. For a bucket that file is a local one, which is copied
    once a minute and in the end: TensorBoard may miss the last minute of a run that was killed.
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
    """Lists the files that training left out, each once, in `quarantine.jsonl` in a workdir."""

    def __init__(self, workdir: AnyPath, *, terminal: Terminal):
        self.path, self._terminal = workdir / "quarantine.jsonl", terminal
        self._known = {entry["bad"] for entry in read_metrics(self.path)}

    def __call__(self, entry: dict[str, str]) -> None:
        """Note one: {"image": path, "label": path, "bad": which of them, "reason": text}."""
        if entry["bad"] in self._known:
            return
        self._known.add(entry["bad"])
        append_text(self.path, json.dumps(entry) + "\n")
        self._terminal.warn(
            f"{entry['reason']}\nThe next example is read in its place; {self.path} lists"
            f" {len(self._known)} so far."
        )


def read_metrics(path: AnyPath) -> list[dict]:
    """Read the entries of a `metrics.jsonl`; a line cut short by a kill is left out."""
    entries = []
    for line in path.read_text().splitlines() if path.exists() else ():
        with contextlib.suppress(json.JSONDecodeError):
            entries.append(json.loads(line))
    return entries
