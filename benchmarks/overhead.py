"""What a training step costs outside the compiled program, and how long a checkpoint holds it up.

    python -m benchmarks.overhead [--steps 60] [--json FILE]

Runs the real loop (`hrnet_jax.train.train`) with the recipe of minicity at its own size, a
checkpoint every ten steps, and takes the main thread's time apart:

- device: waiting for a step to be finished;
- data: waiting for the next batch;
- transfer: putting the batch on the devices, waited for;
- dispatch: calling the compiled program, with its inputs ready (it returns before it has run);
- save: all that `Checkpoints.save` does before the loop goes on;
- python: everything else.

Overhead is python, transfer and dispatch: what the device would wait for if nothing ran ahead.
The trace (--json) has these times for every step. While a checkpoint is written in the background,
steps share the processor with the writer; the steps after a save are therefore shown apart.
"""

import argparse
import contextlib
import json
import os
import platform
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import jax
from rich.table import Table

from hrnet_jax import recipes
from hrnet_jax import train as loop
from hrnet_jax.checkpoint import Checkpoints
from hrnet_jax.compiling import enable_compilation_cache
from hrnet_jax.data import minicity
from hrnet_jax.evaluator import Evaluator
from hrnet_jax.files import write_text
from hrnet_jax.monitor import Monitor
from hrnet_jax.setup import Setup
from hrnet_jax.writer import Terminal

SAVE_EVERY = 10
WARM_UP = 5  # steps that are not counted
OVERHEAD = ("python", "transfer", "dispatch")


class StopWatch:
    """Takes the time of one thread apart: what runs within something else is not counted twice."""

    def __init__(self) -> None:
        self.steps: list[dict[str, float]] = []
        self._names, self._times = ["python"], defaultdict[str, float](float)
        self._since = time.perf_counter()

    def _charge(self) -> None:
        now = time.perf_counter()
        self._times[self._names[-1]] += now - self._since
        self._since = now

    @contextlib.contextmanager
    def of(self, name: str) -> Iterator[None]:
        """Charge the time of the block to `name`."""
        self._charge()
        self._names.append(name)
        try:
            yield
        finally:
            self._charge()
            self._names.pop()

    def wrap(self, name: str, function: Callable) -> Callable:
        """Charge the calls of a function to `name`."""

        def timed(*args: Any, **kwargs: Any) -> Any:
            with self.of(name):
                return function(*args, **kwargs)

        return timed

    def end_step(self) -> None:
        """Begin a new row."""
        self._charge()
        self.steps.append(dict(self._times))
        self._times.clear()


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--variant", default="hr18s")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    enable_compilation_cache()
    jax.config.update("jax_default_matmul_precision", "highest")
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
        "trace": steps,
    }
    show(report, terminal)
    if options.json:
        write_text(options.json, json.dumps(report, indent=2) + "\n")


def measure(
    variant: str, count: int, *, folder: Path, terminal: Terminal
) -> list[dict[str, float]]:
    """Run the loop; return seconds by name for every step."""
    config = recipes.minicity(variant=variant)
    config.data.root = str(folder / "city")
    config.train.steps = config.eval.every_steps = count
    config.checkpoint.every_steps, config.log.every_steps = SAVE_EVERY, SAVE_EVERY
    watch = StopWatch()
    compile_step, add, to_global = loop.compile_step, Monitor.add, loop.to_global
    train_batches, block = Setup.train_batches, jax.block_until_ready

    in_flight: list[Any] = []

    def timed_transfer(*args: Any, **kwargs: Any) -> Any:
        with watch.of("device"):  # else the step before would take the processor from the transfer
            block(in_flight)
        with watch.of("transfer"):
            return block(to_global(*args, **kwargs))

    def timed_compile(*args: Any) -> Callable:
        program = compile_step(*args)

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

    def timed_add(*args: Any) -> None:
        add(*args)
        watch.end_step()

    with contextlib.ExitStack() as patches:
        for target, name, replacement in (
            (loop, "compile_step", timed_compile),
            (loop, "to_global", timed_transfer),
            (Setup, "train_batches", timed_batches),
            (Monitor, "add", timed_add),
            (jax, "block_until_ready", watch.wrap("device", block)),
            (Checkpoints, "save", watch.wrap("save", Checkpoints.save)),
            (Evaluator, "__call__", watch.wrap("evaluate", Evaluator.__call__)),
        ):
            patches.enter_context(mock.patch.object(target, name, replacement))
        loop.train(config, workdir=folder / "run", terminal=terminal)
    return watch.steps


def summary(steps: list[dict[str, float]]) -> dict[str, Any]:
    """Medians over the steps; a row holds what happened since the row before."""
    plain = [row for row in steps[WARM_UP:] if "save" not in row]
    saves = [row for row in steps[WARM_UP:] if "save" in row]
    step = statistics.median(map(total, plain))
    overheads = [sum(row.get(name, 0.0) for name in OVERHEAD) for row in plain]
    return {
        "seconds of a step": step,
        "seconds by part": {
            name: statistics.median(row.get(name, 0.0) for row in plain)
            for name in ("device", "data", *OVERHEAD)
        },
        "overhead, share of a step": statistics.median(overheads) / step,
        "worst overhead, share of a step": max(overheads) / step,
        "seconds a save holds the loop up": statistics.median(row["save"] for row in saves),
        "worst save, in steps": max(row["save"] for row in saves) / step,
        "seconds of the step after a save": statistics.median(
            total(row) - row["save"] for row in saves
        ),
    }


def total(row: dict[str, float]) -> float:
    """Seconds of one step."""
    return sum(row.values())


def show(report: dict[str, Any], terminal: Terminal) -> None:
    """Print the table."""
    table = Table("", "ms", "% of a step", title="one training step")
    step = report["seconds of a step"]
    rows = {
        "step": step,
        **report["seconds by part"],
        "save": report["seconds a save holds the loop up"],
        "step after a save": report["seconds of the step after a save"],
    }
    for name, seconds in rows.items():
        table.add_row(name, f"{1000 * seconds:.2f}", f"{100 * seconds / step:.2f}")
    terminal.table(table)
    for name in (
        "overhead, share of a step", "worst overhead, share of a step", "worst save, in steps"
    ):  # fmt: skip
        terminal.line(f"{name}: {report[name]:.4f}")


if __name__ == "__main__":
    main()
