"""Run the real command in this process and time each part of its start.

    python -m benchmarks.startup_profile FILE BEGIN STEPS [options of hrnet_jax.main]

Trains until STEPS steps are finished, counted from the start or from the checkpoint that it resumes
from; then it stops and writes the seconds of each part as JSON to FILE. BEGIN is
`time.perf_counter()` of the process that started this one, on the same machine. The package has no
code for this: its functions are wrapped from outside.
"""

# ruff: noqa: E402 -- the clock starts before the imports, which are measured too

import sys
import time

STARTED = time.perf_counter(), time.process_time()

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

Times = tuple[float, float]  # wall seconds, CPU seconds of all threads


def now() -> Times:
    """The clocks."""
    return time.perf_counter(), time.process_time()


class Parts:
    """Seconds by part; a part within another one is counted only once, for itself."""

    def __init__(
        self,
        clock: Callable[[], Times] = now,
        *,
        since: Times | None = None,
        rest: str = "everything else",
    ):
        self.seconds: dict[str, list[float]] = {}
        self._clock, self._since = clock, since or clock()
        self._names = [rest]

    def charge(self) -> None:
        """Add the time since the last call to the current part."""
        current = self._clock()
        total = self.seconds.setdefault(self._names[-1], [0.0, 0.0])
        for n, (end, begin) in enumerate(zip(current, self._since, strict=True)):
            total[n] += end - begin
        self._since = current

    @contextlib.contextmanager
    def of(self, name: str) -> Iterator[None]:
        """Charge the block to `name`."""
        self.charge()
        self._names.append(name)
        try:
            yield
        finally:
            self.charge()
            self._names.pop()

    def timed(self, name: str, function: Callable) -> Callable:
        """Charge the calls of a function to `name`."""

        def timed(*args: Any, **kwargs: Any) -> Any:
            with self.of(name):
                return function(*args, **kwargs)

        return timed


def main() -> None:
    """Run the command, measured."""
    file, begin, steps, *arguments = sys.argv[1:]
    parts = Parts(since=STARTED)
    parts.seconds["interpreter"] = [STARTED[0] - float(begin), STARTED[1]]
    with parts.of("imports"):
        from absl import app

        from hrnet_jax import main as command
    sys.argv = ["hrnet_jax.main", *arguments]

    def parse(argv: list[str]) -> list[str]:
        with parts.of("command line and config"):
            return command.parse_flags(argv)

    def finish() -> None:
        parts.charge()
        Path(file).write_text(json.dumps(parts.seconds))
        raise SystemExit

    watch(parts, steps=int(steps), finish=finish)
    app.run(command.main, flags_parser=parse)


def watch(parts: Parts, *, steps: int, finish: Callable[[], None]) -> None:
    """Wrap the parts of a start; call `finish` when `steps` steps are done."""
    import jax

    from hrnet_jax import main as command
    from hrnet_jax import models, train
    from hrnet_jax.config.build_data import Data
    from hrnet_jax.config.build_training import Training
    from hrnet_jax.parallel.process_settings import gc_disabled
    from hrnet_jax.runs.checkpoint import Checkpoints
    from hrnet_jax.training.monitor import Monitor

    for owner, function, name in (
        (jax, "devices", "finding the devices"),
        (command, "draw_minicity", "data: list and check"),
        (train, "build_data", "data: list and check"),
        (train, "build_evaluation", "data: list and check"),
        (train, "check_some_examples", "data: list and check"),
        (models, "build", "random weights"),
        (Training, "state", "weights on the devices"),
        (Checkpoints, "__init__", "checkpoints: open"),
        (Checkpoints, "restore_latest", "checkpoints: restore"),
        (Data, "batches", "data: first batch"),
        (train, "to_global", "first step"),
    ):
        setattr(owner, function, parts.timed(name, getattr(owner, function)))

    def compile_step(training: Training, state: Any, *, terminal: Any) -> Callable:
        with terminal.announced("Compiling the training step"), gc_disabled():
            with parts.of("step: trace"):
                traced = training.step.trace(state, training.batch_shape)
            with parts.of("step: lower"):
                lowered = traced.lower()
            with parts.of("step: compile, or read from the cache"):
                program = lowered.compile()

        def step(*inputs: Any) -> Any:
            with parts.of("first step"):
                return jax.block_until_ready(program(*inputs))

        return step

    train.compile_step = compile_step
    done, add = [0], Monitor.add

    def add_and_count(monitor: Monitor, *args: Any, **kwargs: Any) -> None:
        add(monitor, *args, **kwargs)
        done[0] += 1
        if done[0] == steps:
            finish()

    Monitor.add = add_and_count


if __name__ == "__main__":
    main()
