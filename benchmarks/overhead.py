"""What a training step costs outside the compiled program, and how long a checkpoint delays it.

    python -m benchmarks.overhead [--steps 60] [--json FILE]

Runs the real loop (`hrnet_jax.train.train`) with the recipe of minicity at its own size, a
checkpoint every ten steps, and takes the main thread's time apart:

- device: waiting for a step to be finished;
- data: waiting for the next batch;
- transfer: putting the batch on the devices, waited for;
- dispatch: calling the compiled program, with its inputs ready (it returns before it has run);
- save: all that `Checkpoints.save` does before the loop continues;
- python: everything else.

Overhead is python, transfer and dispatch: what the device would wait for if nothing ran ahead. On
CPUs the step that the main thread has just started also interrupts it, which is not the thread's
own work. So the table has the time that passed and the time that the thread computed; the trace
(--json) has both for every step. While a checkpoint is written in the background, steps share the
processor with the writer, so the steps after a save are shown separately.
"""

import argparse
import contextlib
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import jax
from rich.table import Table

from benchmarks.startup_profile import Parts
from hrnet_jax import train as loop
from hrnet_jax.config import recipes
from hrnet_jax.config.build_data import Data
from hrnet_jax.data import minicity
from hrnet_jax.evaluation.evaluator import Evaluator
from hrnet_jax.parallel.compiling import enable_compilation_cache, prepare_process, set_precision
from hrnet_jax.runs.checkpoint import Checkpoints
from hrnet_jax.runs.paths import cache_folder, write_json
from hrnet_jax.runs.terminal import Terminal
from hrnet_jax.training.monitor import Monitor

SAVE_EVERY = 10
WARM_UP = 5  # steps that are not counted
OVERHEAD = ("python", "transfer", "dispatch")


class Row(NamedTuple):
    """One step, in seconds by part: on the wall clock, and as the main thread computed."""

    passed: dict[str, float]
    computed: dict[str, float]

    @property
    def length(self) -> float:
        """Seconds that passed."""
        return sum(self.passed.values())


class StopWatch(Parts):
    """Takes the time of one thread apart, step by step."""

    def __init__(self) -> None:
        super().__init__(lambda: (time.perf_counter(), time.thread_time()), rest="python")
        self.steps: list[Row] = []

    def end_step(self) -> None:
        """Begin a new row."""
        self.charge()
        passed, computed = (
            {name: times[n] for name, times in self.seconds.items()} for n in range(2)
        )
        self.steps.append(Row(passed, computed))
        self.seconds = {}


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--variant", default="hr18s")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    prepare_process()
    # Otherwise a call on CPUs would wait for its step, and all of the step would be dispatch.
    jax.config.update("jax_cpu_enable_async_dispatch", True)
    enable_compilation_cache(cache_folder() / "xla")
    set_precision("float32")
    terminal = Terminal()
    with tempfile.TemporaryDirectory() as name:
        minicity.write(Path(name) / "city", train=16, val=1)
        steps = measure(options.variant, options.steps, folder=Path(name), terminal=terminal)
    report = {
        "conditions": {
            "variant": options.variant,
            "steps": options.steps,
            "devices": f"{jax.device_count()} {jax.devices()[0].device_kind}",
            "cores": os.cpu_count(),
            "platform": platform.platform(),
            "jax": jax.__version__,
        },
        **summary(steps),
        "trace": [row._asdict() for row in steps],
    }
    show(report, terminal)
    if options.json:
        write_json(options.json, report)


def measure(variant: str, count: int, *, folder: Path, terminal: Terminal) -> list[Row]:
    """Run the loop; return a row for every step."""
    config = recipes.minicity(variant=variant)
    config.data.root = str(folder / "city")
    config.train.steps = config.eval.every_steps = count
    config.checkpoint.every_steps, config.log.every_steps = SAVE_EVERY, SAVE_EVERY
    watch = StopWatch()
    compile_step, add, to_global = loop.compile_step, Monitor.add, loop.to_global
    train_batches, block, settle = Data.batches, jax.block_until_ready, Monitor._settle

    in_flight: list[Any] = []

    def timed_transfer(*args: Any, **kwargs: Any) -> Any:
        with watch.of("device"):  # otherwise the step before would compete with the transfer
            block(in_flight)
        with watch.of("transfer"):
            return block(to_global(*args, **kwargs))

    def timed_compile(*args: Any, **kwargs: Any) -> Callable:
        program = compile_step(*args, **kwargs)

        def step(state: Any, batch: Any) -> Any:
            with watch.of("dispatch"):
                in_flight[:] = program(state, batch)
            return tuple(in_flight)

        return step

    def timed_batches(*args: Any, **kwargs: Any) -> Iterator:
        batches = train_batches(*args, **kwargs)
        with contextlib.closing(batches):
            while True:
                with watch.of("data"):
                    batch = next(batches)
                yield batch

    def timed_add(*args: Any, **kwargs: Any) -> None:
        add(*args, **kwargs)
        watch.end_step()

    def timed_settle(monitor: Monitor) -> None:
        jax.block_until_ready([metrics for _, metrics, _ in monitor._pending])
        settle(monitor)

    with contextlib.ExitStack() as patches:
        for target, name, replacement in (
            (loop, "compile_step", timed_compile),
            (loop, "to_global", timed_transfer),
            (Data, "batches", timed_batches),
            (Monitor, "add", timed_add),
            (Monitor, "_settle", timed_settle),
            (jax, "block_until_ready", watch.timed("device", block)),
            (Checkpoints, "save", watch.timed("save", Checkpoints.save)),
            (Evaluator, "__call__", watch.timed("evaluate", Evaluator.__call__)),
        ):
            patches.enter_context(mock.patch.object(target, name, replacement))
        loop.train(config, workdir=folder / "run", terminal=terminal)
    return watch.steps


def summary(steps: list[Row]) -> dict[str, Any]:
    """Medians over the steps; a row holds what happened since the row before."""
    counted = steps[WARM_UP:]
    plain = [row for row in counted if "save" not in row.passed]
    saves = [row for row in counted if "save" in row.passed]
    step = statistics.median(row.length for row in plain)
    passed, computed = zip(*plain, strict=True)
    return {
        "seconds of a step": step,
        "seconds by part": {
            part: (_median(passed, part), _median(computed, part))
            for part in ("device", "data", *OVERHEAD)
        },
        "seconds of overhead": (_median(passed, *OVERHEAD), _median(computed, *OVERHEAD)),
        "seconds that a save holds the loop up": [row.passed["save"] for row in saves],
        "seconds of the step after a save": [row.length - row.passed["save"] for row in saves],
        "seconds of steps before and after a save": {
            offset: statistics.median(
                row.length for row in steps[SAVE_EVERY + offset :: SAVE_EVERY]
            )
            for offset in range(-3, 4)
        },
    }


def _median(rows: Sequence[dict[str, float]], *parts: str) -> float:
    return statistics.median(sum(row.get(part, 0.0) for part in parts) for row in rows)


def show(report: dict[str, Any], terminal: Terminal) -> None:
    """Print the table."""
    step = report["seconds of a step"]
    table = Table("", "ms", "% of a step", "computed, ms", "%", title="one training step")
    for column in table.columns[1:]:
        column.justify = "right"
    rows = {**report["seconds by part"], "overhead": report["seconds of overhead"]}
    for name, times in rows.items():
        cells = [f"{scale * seconds:.2f}" for seconds in times for scale in (1e3, 100 / step)]
        table.add_row(name, *cells)
    for name, few in (
        ("step", [step]),
        ("a save", report["seconds that a save holds the loop up"]),
        ("the step after it", report["seconds of the step after a save"]),
    ):
        for title, seconds in ((name, statistics.median(few)), (f"{name}, worst", max(few))):
            if len(few) > 1 or title == name:
                table.add_row(title, f"{1e3 * seconds:.2f}", f"{100 * seconds / step:.2f}")
    terminal.table(table)
    line = report["seconds of steps before and after a save"]
    terminal.line(
        "before, with and after a save (0), ms: "
        + ", ".join(f"{offset:+}: {1e3 * seconds:.0f}" for offset, seconds in line.items())
    )


if __name__ == "__main__":
    main()
