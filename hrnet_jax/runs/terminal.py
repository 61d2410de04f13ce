"""Terminal output: lines, and one live line with a progress bar."""

import contextlib
import datetime
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.table import Table

from hrnet_jax.runs.paths import AnyPath, is_remote

T = TypeVar("T")


class Terminal:
    """Prints events as lines, and progress as one live line if the output is a terminal."""

    def __init__(self, console: Console | None = None):
        self.console = console or Console(highlight=False, soft_wrap=True)

    def line(self, text: str) -> None:
        """Print a line; square brackets are not markup."""
        self.console.print(text, markup=False)

    def warn(self, text: str) -> None:
        """Print a warning."""
        self.console.print(f"Warning: {text}", style="yellow", markup=False)

    def table(self, table: Table) -> None:
        """Print a table."""
        self.console.print(table)

    @contextlib.contextmanager
    def announced(self, title: str) -> Iterator[None]:
        """Announce work without a progress bar, then print how long it took."""
        begin = time.perf_counter()
        with self.console.status(f"{title} ..."):
            self.line_if_plain(f"{title} ...")
            yield
        self.line(f"{title}: {time.perf_counter() - begin:.1f} s")

    def announced_if_remote(self, path: AnyPath) -> contextlib.AbstractContextManager[None]:
        """Announce that a path is read, if it lies in a bucket."""
        return self.announced(f"Reading {path}") if is_remote(path) else contextlib.nullcontext()

    def line_if_plain(self, text: str) -> None:
        """Print a line if there is no live one, as in a file or in CI."""
        if not self.console.is_terminal:
            self.line(text)

    @contextlib.contextmanager
    def live(
        self, title: str, *, total: int, done: int = 0, in_bytes: bool = False
    ) -> Iterator["LiveLine"]:
        """Show one line that is rewritten in place: a bar, the count, the time to go, a text."""
        count = [DownloadColumn(), TransferSpeedColumn()] if in_bytes else [MofNCompleteColumn()]
        progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=20),
            *count,
            TimeRemainingColumn(),
            TextColumn("{task.fields[text]}", markup=False),
            console=self.console,
            transient=True,
            disable=not self.console.is_terminal,
            refresh_per_second=4,
            speed_estimate_period=3600,  # long enough to include evaluations
        )
        task = progress.add_task(title, total=total, completed=done, text="")
        progress.advance(task, 0)  # the first sample, from which the rate is measured
        with progress:
            yield LiveLine(progress, task)

    def track(self, items: Iterable[T], title: str, *, total: int) -> Iterator[T]:
        """Yield items, and show how many are done, the rate and the time to go."""
        with self.live(title, total=total) as live:
            for item in items:
                yield item
                live.advance()
                live.show(f"{live.rate:.1f}/s")


class LiveLine:
    """Progress, rate and remaining time of one task."""

    def __init__(self, progress: Progress, task: TaskID):
        self._progress, self._id = progress, task

    @property
    def _task(self) -> Task:
        return self._progress.tasks[self._id]

    @property
    def total(self) -> int:
        """Items, or bytes, of the whole task."""
        return int(self._task.total or 0)

    def advance(self, amount: int = 1) -> None:
        """Count `amount` more items, or bytes, as done."""
        self._progress.advance(self._id, amount)

    def show(self, text: str) -> None:
        """Set the text at the end of the line."""
        self._progress.update(self._id, text=text)

    @property
    def rate(self) -> float:
        """Items per second."""
        return self._task.speed or 0.0

    @property
    def eta(self) -> str:
        """Remaining time as hours:minutes:seconds."""
        seconds = self._task.time_remaining
        return "-:--:--" if seconds is None else str(datetime.timedelta(seconds=round(seconds)))
