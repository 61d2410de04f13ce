"""What each worker process is reading, written down where it outlives the worker.

A process that the system kills says nothing any more, and one stuck on a dead disk never will. So
each thread of a worker notes its files in a folder before it reads them; the parent reads the
notes of the dead, and ends a worker whose note has stood for too long.
"""

import contextlib
import dataclasses
import multiprocessing
import os
import signal
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

_LIMIT = 40.0  # seconds for one example; then its worker counts as stuck


@dataclasses.dataclass(frozen=True)
class Notes:
    """A folder with one file per thread that reads; workers get it by pickle."""

    folder: Path = dataclasses.field(default_factory=lambda: Path(tempfile.mkdtemp("-reading")))

    @contextlib.contextmanager
    def of(self, *paths: str) -> Iterator[None]:
        """Let the note of this thread name the files that are being read."""
        note = self.folder / f"{os.getpid()}-{threading.get_ident()}"
        # In text mode names that are no UTF-8 would fail.
        note.write_bytes(os.fsencode("\n".join(paths)))
        try:
            yield
        finally:
            with contextlib.suppress(FileNotFoundError):  # the parent has closed already
                note.unlink()

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """While the block runs, kill workers that are stuck; remove the folder at its end."""
        is_over = threading.Event()
        watchdog = threading.Thread(target=self._watch, args=(is_over,), daemon=True)
        watchdog.start()
        try:
            yield
        finally:
            is_over.set()
            watchdog.join()
            for note in self.folder.glob("*"):
                note.unlink(missing_ok=True)
            with contextlib.suppress(OSError):
                self.folder.rmdir()

    def _watch(self, is_over: threading.Event) -> None:
        # The age is counted in rounds of this loop, not by the clock: a run that was suspended
        # for an hour has no stuck workers.
        seen: dict[tuple[str, int], float] = {}
        round_length = min(1.0, _LIMIT / 4)
        while not is_over.wait(round_length):
            now = {}
            for note in self.folder.glob("*"):
                with contextlib.suppress(FileNotFoundError):
                    now[note.name, note.stat().st_mtime_ns] = 0.0
            seen = {key: seen.get(key, 0.0) + round_length for key in now}
            stuck = {_pid(name) for (name, _), age in seen.items() if age > _LIMIT}
            for worker in multiprocessing.active_children():
                if worker.pid in stuck:
                    worker.kill()

    def worker_died(self, error: Exception) -> ChildProcessError:
        """Compose the error for workers that ended without a word, from the notes they left."""
        alive = {worker.pid for worker in multiprocessing.active_children()}
        left = [note for note in sorted(self.folder.glob("*")) if _pid(note.name) not in alive]
        files = [
            f"\n  {path}" for note in left for path in os.fsdecode(note.read_bytes()).split("\n")
        ]
        dead = ", ".join(sorted({str(_pid(note.name)) for note in left}))
        who = f"Worker process {dead}" if dead else "A worker process"
        reading = f" while it was reading{''.join(files)}" if files else " between two files"
        killed = f"exit code -{signal.SIGKILL:d}" in str(error) if os.name == "posix" else False
        return ChildProcessError(
            f"{who} ended{reading}\n"
            + (
                "It was killed: by the system when memory ran out (use fewer workers with"
                f" --config.data.workers), by somebody, or because one example took over"
                f" {_LIMIT:.0f} seconds (is the disk there?)."
                if killed
                else f"{error} A file that crashes the decoder should be removed."
            )
        )


def _pid(name: str) -> int:
    return int(name.split("-")[0])
