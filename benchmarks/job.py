"""The whole job: training compared with step and pipeline alone, and the time of a start.

    python -m benchmarks.job [--cases minicity] [--rounds 3] [--json FILE]

Training is the real command in its own process, timed by its `metrics.jsonl` without the first
report, which includes the start of the pipeline. Step alone is the same program on one batch again
and again; pipeline alone makes the same batches without a network. The three take turns. On CPUs
they share the processor, so training takes at least the time of both.

A start is the time from the start of the process to its first finished step, with the compiled
program in the cache: of a new run, and of a run that resumes from a checkpoint.
"""

import argparse
import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from rich.table import Table

from benchmarks.paired_timing import conditions
from hrnet_jax.commands.start_process import keep_compiled_programs, start_process
from hrnet_jax.config import recipes
from hrnet_jax.config.build_data import build_data
from hrnet_jax.config.build_training import build_training
from hrnet_jax.data import minicity
from hrnet_jax.parallel.mesh import to_global
from hrnet_jax.runs.metrics_log import read_metrics
from hrnet_jax.runs.paths import write_json
from hrnet_jax.runs.terminal import Terminal
from hrnet_jax.train import compile_step
from tests.parity import jobs
from tests.parity.peer import Server

VARIANT = "hr18s"
CASES: dict[str, dict[str, tuple[int, int]]] = {  # changes of the recipe's section `train`
    "minicity": {},
    "256x512": {"image_size": (256, 512), "crop_size": (256, 512)},
}
STEPS = {"minicity": 80, "256x512": 24}  # per turn
WARM_UP = 8  # batches: more than the pipeline has ready when its turn begins


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cases", nargs="*", default=list(CASES), choices=list(CASES))
    parser.add_argument("--no-start", action="store_true", help="images per second only")
    parser.add_argument("--json", type=Path, help="write all figures into this file")
    options, terminal = parser.parse_args(), Terminal()
    report: dict[str, Any] = {
        "conditions": {"network": f"{VARIANT}, float32, batch 2", **conditions(options)}
    }
    with tempfile.TemporaryDirectory() as name:
        root = Path(name) / "city"
        minicity.write(root, val=1)
        report["images per second"] = {
            case: rates(case, root, rounds=options.rounds, terminal=terminal)
            for case in options.cases
        }
        if not options.no_start:
            report["start"] = starts(root, rounds=options.rounds, terminal=terminal)
    show(report, terminal)
    if options.json:
        write_json(options.json, report)


def rates(case: str, root: Path, *, rounds: int, terminal: Terminal) -> dict[str, list[float]]:
    """Images per second of each way, round by round."""
    turns: dict[str, list[float]] = {"training": [], "step alone": [], "pipeline alone": []}
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as until_the_end:
        folder, count = Path(name), STEPS[case]
        server = Server(folder, [sys.executable, "-m", "benchmarks.job", "serve"])
        until_the_end.callback(server.close)
        with terminal.announced(f"{case}: compiling"):
            server.call("load", case=case, root=str(root), workdir=str(folder / "alone"))
        for number in terminal.track(range(rounds), case, total=rounds):
            ways = {
                "training": lambda n=number: train(case, root, folder / str(n), steps=count),
                "step alone": lambda: server.call("steps", count=count),
                "pipeline alone": lambda: server.call("batches", count=count),
            }
            for way in list(ways)[:: (-1) ** number]:
                turns[way].append(ways[way]())
    return turns


def flags(case: str, root: Path, workdir: Path, *, steps: int) -> list[str]:
    """Options of the command for a case."""
    every = max(1, steps // 4)
    return [
        f"--config=configs/{VARIANT}_minicity.py", f"--config.data.root={root}",
        f"--workdir={workdir}", f"--config.train.steps={steps}",
        f"--config.eval.every_steps={steps}", f"--config.checkpoint.every_steps={steps}",
        f"--config.log.every_steps={every}", "--config.log.pictures=0",
        *(f"--config.train.{field}={value}" for field, value in CASES[case].items()),
    ]  # fmt: skip


def train(case: str, root: Path, workdir: Path, *, steps: int) -> float:
    """Images per second of the real command."""
    command = ["-m", "hrnet_jax.main", *flags(case, root, workdir, steps=steps)]
    subprocess.run([sys.executable, *command], check=True, stdout=subprocess.DEVNULL)
    return rate_of(workdir / "metrics.jsonl")


def rate_of(metrics: Path) -> float:
    """Images per second after the first report, which includes the start of the pipeline."""
    entries = [entry for entry in read_metrics(metrics) if "images_per_second" in entry]
    steps = [entry["step"] for entry in entries]
    seconds = [
        (step - before) / entry["images_per_second"]
        for before, step, entry in zip(steps, steps[1:], entries[1:], strict=False)
    ]
    return (steps[-1] - steps[0]) / sum(seconds)


# Step and pipeline alone, in their own process.

_loaded: dict[str, Any] = {}


def load(case: str, root: str, workdir: str) -> None:
    """Build what the command builds."""
    config = recipes.minicity(variant=VARIANT)
    config.data.root = root
    config.train.update(CASES[case])
    config.train.steps = STEPS[case]  # the same program: it holds the schedule
    training = build_training(config)
    state = training.state(training.random)
    batches = build_data(config, terminal=Terminal()).batches(0, workdir=Path(workdir))
    _loaded.update(
        batches=batches,
        batch_size=config.train.batch_size,
        batch=to_global(next(batches), mesh=training.mesh),
        state=state,
        step=compile_step(training, state, terminal=Terminal()),
    )
    steps(2)


def steps(count: int) -> float:
    """Images per second of the step on one batch."""
    begin = time.perf_counter()
    for _ in range(count):
        _loaded["state"], metrics = _loaded["step"](_loaded["state"], _loaded["batch"])
    metrics.loss.block_until_ready()
    return count * _loaded["batch_size"] / (time.perf_counter() - begin)


def batches(count: int) -> float:
    """Images per second of the pipeline, after its full buffers are used up."""
    for _ in range(WARM_UP):
        next(_loaded["batches"])
    begin = time.perf_counter()
    for _ in range(count):
        next(_loaded["batches"])
    return count * _loaded["batch_size"] / (time.perf_counter() - begin)


def serve() -> None:
    """Do the jobs."""
    start_process()  # as hrnet_jax.main does
    keep_compiled_programs(Terminal())
    jobs.serve(globals(), jobs.take_stdout())


# Where the time of a start goes.


def starts(root: Path, *, rounds: int, terminal: Terminal) -> dict[str, list[dict]]:
    """Seconds by part of each start; [passed, of the processor]."""
    found: dict[str, list[dict]] = {"new run": [], "from a checkpoint": []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with terminal.announced("A first start, which compiles"):
            start(root, folder / "saved", steps=2)
        for number in terminal.track(range(rounds), "Starts", total=rounds):
            found["new run"].append(start(root, folder / str(number), steps=1))
            found["from a checkpoint"].append(start(root, folder / "saved", steps=1))
    return found


def start(root: Path, workdir: Path, *, steps: int) -> dict[str, list[float]]:
    """Start the real command; with more than one step, each but the last leaves a checkpoint."""
    file = workdir.with_suffix(".json")
    options = [
        *flags("minicity", root, workdir, steps=STEPS["minicity"]),
        "--config.checkpoint.every_steps=1",
    ]
    begin = str(time.perf_counter())
    subprocess.run(
        [sys.executable, "-m", "benchmarks.startup_profile", str(file), begin, str(steps),
         *options],
        check=True, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    return json.loads(file.read_text())


def medians(rounds: list[dict[str, list[float]]]) -> dict[str, tuple[float, float]]:
    """Median seconds of each part, passed and of the processor, the largest first; then of all."""
    parts = {
        part: [statistics.median(found.get(part, [0, 0])[n] for found in rounds) for n in (0, 1)]
        for part in dict.fromkeys(part for found in rounds for part in found)
    }
    rows = dict(sorted(parts.items(), key=lambda item: -item[1][0]))
    rows["together"] = [
        statistics.median(sum(times[n] for times in found.values()) for found in rounds)
        for n in (0, 1)
    ]
    return {part: (passed, busy) for part, (passed, busy) in rows.items()}


def shares(turns: dict[str, list[float]]) -> list[float]:
    """Training over the slower of step and pipeline, by round: 1 if the faster is hidden."""
    return [
        training / min(step, pipeline)
        for training, step, pipeline in zip(*turns.values(), strict=True)
    ]


def show(report: dict[str, Any], terminal: Terminal) -> None:
    """Print the report."""
    for name, value in report["conditions"].items():
        terminal.line(f"{name}: {value}")
    table = Table("images/s", "median", "smallest", "largest")
    for case, turns in report["images per second"].items():
        rows = {f"{case}: {way}": values for way, values in turns.items()}
        rows[f"{case}: training / the slower of both"] = shares(turns)
        for name, values in rows.items():
            figures = (statistics.median(values), min(values), max(values))
            table.add_row(name, *(f"{figure:.3g}" for figure in figures))
    terminal.table(table)
    for kind, rounds in report.get("start", {}).items():
        table = Table(f"start, {kind}", "s", "CPU s")
        for part, times in medians(rounds).items():
            table.add_row(part, *(f"{seconds:.2f}" for seconds in times))
        terminal.table(table)


if __name__ == "__main__":
    serve() if sys.argv[1:] == ["serve"] else main()
