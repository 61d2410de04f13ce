"""Detect worker processes that die or hang while reading, and name their files.

A killed process cannot report anything, nor can one that waits for a dead disk. So each thread of a
worker notes the files that it is about to read, in a folder that outlives it. The parent reads the
notes of dead workers, and kills a worker whose note is too old.
"""

import contextlib
import dataclasses
import multiprocessing
import os
import shutil
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path


@dataclasses.dataclass(frozen=True)
class Watchdog:
    """A folder with one note per reading thread; pickled for workers."""

    folder: Path = dataclasses.field(default_factory=lambda: Path(tempfile.mkdtemp("-reading")))
    limit: float = 40.0  # seconds for one example; after that its worker counts as stuck

    @contextlib.contextmanager
    def reading(self, *paths: str) -> Iterator[None]:
        """Keep a note of the files that this thread reads in the block."""
        note = self.folder / f"{os.getpid()}-{threading.get_ident()}"
        note.write_bytes(os.fsencode("\n".join(paths)))  # names need not be valid UTF-8
        try:
            yield
        finally:
            with contextlib.suppress(FileNotFoundError):  # the parent has already closed
                note.unlink()

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Kill stuck workers while the block runs; remove the folder at its end."""
        is_over = threading.Event()
        thread = threading.Thread(target=self._kill_stuck_workers, args=(is_over,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            is_over.set()
            thread.join()
            shutil.rmtree(self.folder, ignore_errors=True)

    def _kill_stuck_workers(self, is_over: threading.Event) -> None:
        # Ages are counted in rounds of this loop, not by the clock: after an hour of suspension no
        # worker is stuck.
        ages: dict[tuple[str, int], float] = {}
        round_length = min(1.0, self.limit / 4)
        while not is_over.wait(round_length):
            notes = []
            for note in self.folder.glob("*"):
                with contextlib.suppress(FileNotFoundError):
                    notes.append((note.name, note.stat().st_mtime_ns))
            ages = {note: ages.get(note, 0.0) + round_length for note in notes}
            stuck = {_pid(name) for (name, _), age in ages.items() if age > self.limit}
            for worker in multiprocessing.active_children():
                if worker.pid in stuck:
                    worker.kill()

    def worker_died(self, error: Exception) -> ChildProcessError:
        """Return the error for workers that ended without a message, from their notes."""
        alive = {worker.pid for worker in multiprocessing.active_children()}
        notes = [note for note in sorted(self.folder.glob("*")) if _pid(note.name) not in alive]
        files = "".join("\n" + os.fsdecode(note.read_bytes()) for note in notes)
        dead = ", ".join(sorted({str(_pid(note.name)) for note in notes}))
        who = f"Worker process {dead}" if dead else "A worker process"
        reading = " while reading" + files.replace("\n", "\n  ") if files else " between two files"
        reason = f"{error} A file that crashes the decoder should be removed."
        if "exit code -9" in str(error):  # SIGKILL
            reason = (
                "It was killed: by the system when memory ran out (use fewer workers with"
                " --config.data.workers), by a user, or because one example took over"
                f" {self.limit:.0f} seconds (does the disk respond?)."
            )
        return ChildProcessError(f"{who} ended{reading}\n{reason}")


def _pid(name: str) -> int:
    return int(name.split("-")[0])
