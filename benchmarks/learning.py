"""Training on real photographs, compared with mmsegmentation: docs/parity.md, "Learning".

    python -m benchmarks.learning --root FOLDER [--steps 300] [--folder runs/learning]

FOLDER holds CamVid as mmsegmentation expects it: {img_dir,ann_dir}/{train,val}, labels 0 to 10 and
255. For each seed both sides start from the same file of weights; each draws order and augmentation
for itself. Runs take turns, and each leaves a JSON file when it is done; started again, the same
command runs what is missing. At the end it writes benchmarks/results/learning.json, the picture and
the section of the document. mmsegmentation runs in the Python that HRNET_PARITY_PYTHON names, by
default the one of `make parity`.
"""

import argparse
import concurrent.futures
import datetime
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import cv2
import jax
import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from absl import logging

from hrnet_jax import models
from hrnet_jax.commands.convert import to_file
from hrnet_jax.config.build_data import Data, build_data
from hrnet_jax.config.stored import from_dict
from hrnet_jax.data.pipeline import train_stream
from hrnet_jax.models import split
from hrnet_jax.runs.metrics_log import read_metrics
from hrnet_jax.runs.paths import make_folder, write_json
from hrnet_jax.runs.stored_weights import save_weights
from hrnet_jax.runs.terminal import Terminal
from tests.parity.document import DOCS, store
from tests.parity.peer import PYTHON, Peer

VARIANT = "hr18s"
IMAGE_SIZE = (360, 480)  # of the photographs
CLASSES = (
    "sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian",
    "bicyclist",
)  # fmt: skip
SIDES = ("ours", "mmseg")
BATCHES = 50  # that are timed alone
RESULTS = Path(__file__).parent / "results" / "learning.json"


def main() -> None:
    """Run what is missing, then write the results."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--root", type=Path, required=True, help="folder of the photographs")
    parser.add_argument("--folder", type=Path, default=Path("runs/learning"), help="of all runs")
    parser.add_argument("--steps", type=int, default=300, help="of each run")
    parser.add_argument("--evaluations", type=int, default=6, help="of each run, one at its end")
    parser.add_argument("--crop", type=int, nargs=2, default=[256, 352], help="height and width")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--seeds", type=int, default=3, help="so many runs of each side")
    parser.add_argument("--no-docs", action="store_true", help="a trial: write no document")
    options = parser.parse_args()
    if options.steps % options.evaluations:
        parser.error(
            f"--steps {options.steps} must be a multiple of --evaluations {options.evaluations}."
        )
    logging.set_verbosity(logging.ERROR)  # Orbax tells of every file
    os.environ.setdefault(PYTHON, ".venv-parity/bin/python")
    settings = {
        "variant": VARIANT,
        "steps": options.steps,
        "evaluations": options.evaluations,
        "crop_size": options.crop,
        "image_size": IMAGE_SIZE,
        "batch_size": options.batch,
    }
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # an exception ends the runs too
    options.folder = options.folder.absolute()
    terminal = Terminal()
    check_same_config(options.folder, settings)
    for seed in range(options.seeds):
        for side, run in zip(SIDES, (run_ours, run_peer), strict=True):
            path = options.folder / f"{side}_{seed}.json"
            if path.exists():
                continue
            workdir = options.folder / f"{side}_{seed}"
            make_folder(workdir)
            weights = initial_weights(options.folder, seed=seed, terminal=terminal)
            terminal.line(f"\n{side}, seed {seed}")
            begin = time.perf_counter()
            more = run(options.root.absolute(), workdir, weights, settings, seed, terminal)
            result = result_of(workdir / "metrics.jsonl", batch_size=options.batch)
            write_json(path, result | more)
            terminal.line(f"mIoU {result['mIoU']:.2f} after {time.perf_counter() - begin:.0f} s")
    runs = {
        side: [
            json.loads((options.folder / f"{side}_{seed}.json").read_text())
            for seed in range(options.seeds)
        ]
        for side in SIDES
    }
    report = {
        "day": f"{datetime.datetime.now():%Y-%m-%d}",
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}",
        "versions": runs["mmseg"][-1]["versions"] | runs["ours"][-1]["versions"],
        "settings": settings,
        "runs": runs,
    }
    report["verdict"] = verdict(*([run["mIoU"] for run in runs[side]] for side in SIDES))
    rows, text = section(report)
    for line in (*rows, text):
        terminal.line(line)
    if not options.no_docs:
        write_json(RESULTS, report)
        draw(report, DOCS / "images" / "learning.png")
        store("learning", rows=rows, run=text)


def check_same_config(folder: Path, settings: dict[str, Any]) -> None:
    """Store the settings of a folder's runs; refuse a folder with other settings."""
    path = folder / "settings.json"
    now = json.loads(json.dumps(settings))
    if path.exists() and (before := json.loads(path.read_text())) != now:
        changed = [f"{k} {before.get(k)} -> {now[k]}" for k in now if before.get(k) != now[k]]
        sys.exit(f"Error: {folder} holds runs of other settings ({', '.join(changed)}); give "
                 "those again to continue, or another --folder.")  # fmt: skip
    make_folder(folder)
    write_json(path, now)


def initial_weights(folder: Path, *, seed: int, terminal: Terminal) -> Path:
    """Our random weights as a file that both sides read."""
    path = folder / f"initial_{seed}.pth"
    if not path.exists():
        with terminal.announced("Drawing weights"), tempfile.TemporaryDirectory() as name:
            _, params, batch_stats = split(
                models.build(VARIANT, num_classes=len(CLASSES), seed=seed)
            )
            meta = {
                "variant": VARIANT,
                "classes": CLASSES,
                "palette": [(20 * index, 0, 0) for index in range(len(CLASSES))],
                "source": {"file": "random"},
            }
            save_weights(Path(name), params, batch_stats, meta=meta)
            to_file(name, path)
    return path


def run_ours(
    root: Path, workdir: Path, weights: Path, settings: dict[str, Any], seed: int,
    terminal: Terminal,
) -> dict[str, Any]:  # fmt: skip
    """Train through the public command, which resumes a run by itself."""
    every = settings["steps"] // settings["evaluations"]
    fields = {
        "name": f"learning_{seed}",
        "reference": "v1",
        "seed": seed,
        "init_from": weights,
        "data.root": root,
        "data.classes": CLASSES,
        "data.images": "img_dir/{split}",
        "data.labels": "ann_dir/{split}",
        "train.steps": settings["steps"],
        "train.batch_size": settings["batch_size"],
        "train.image_size": settings["image_size"],
        "train.crop_size": tuple(settings["crop_size"]),
        "eval.image_size": settings["image_size"],
        "eval.every_steps": every,
        "checkpoint.every_steps": every,
        "log.every_steps": log_every(settings),
    }
    command = [sys.executable, "-m", "hrnet_jax.main", f"--workdir={workdir}"]
    command += [f"--config=configs/custom.py:{settings['variant']}"]
    ended = subprocess.run(
        [*command, *(f"--config.{name}={value}" for name, value in fields.items())]
    )
    if ended.returncode:
        sys.exit(ended.returncode)
    with terminal.announced("Making batches alone"):
        config = from_dict(json.loads((workdir / "config.json").read_text()))
        seconds = batch_seconds(build_data(config, terminal=terminal), batches=BATCHES)
    return {"versions": {"jax": jax.__version__}, "CPU seconds of a batch": seconds}


def batch_seconds(data: Data, *, batches: int) -> float:
    """CPU seconds of one batch, from the files to normalised float32, in one thread."""
    cv2.setNumThreads(0)
    stream = train_stream(
        data.source,
        data.dataset,
        transforms=data.transforms,
        batch_size=data.batch_size,
        seed=data.seed,
        reference=data.reference,
    )
    size = data.batch_size
    for number in range(batches + 1):
        if number == 1:  # the first one warms up
            begin = time.process_time()
        examples = [stream[position] for position in range(number * size, (number + 1) * size)]
        for name in ("image", "label"):
            np.stack([example[name] for example in examples])
    return (time.process_time() - begin) / batches


def run_peer(
    root: Path, workdir: Path, weights: Path, settings: dict[str, Any], seed: int,
    terminal: Terminal,
) -> dict[str, Any]:  # fmt: skip
    """Train with the real Runner in its own process; follow the file that it writes."""
    peer, metrics = Peer(workdir), workdir / "metrics.jsonl"
    with (
        concurrent.futures.ThreadPoolExecutor() as pool,
        terminal.live("mmsegmentation", total=settings["steps"]) as live,
    ):
        data = {name: settings[name] for name in ("variant", "batch_size", "crop_size")}
        data |= {"image_size": IMAGE_SIZE, "root": str(root), "classes": CLASSES}
        job = pool.submit(
            peer.call, "learn", folder=str(workdir), weights=str(weights), seed=seed, data=data,
            log_every=log_every(settings), threads=os.cpu_count(),
            steps=settings["steps"], evaluations=settings["evaluations"],
        )  # fmt: skip
        seen = len(read_metrics(metrics))  # of a run that was killed
        done = 0
        try:
            while not job.done():
                concurrent.futures.wait([job], timeout=1)
                for entry in read_metrics(metrics)[seen:]:
                    seen += 1
                    words = "  ".join(f"{k} {v:.4g}" for k, v in entry.items() if k != "step")
                    live.advance(entry["step"] - done)
                    live.show(words)
                    terminal.line_if_plain(f"step {entry['step']}  {words}")
                    done = entry["step"]
            job.result()
            versions = peer.call("versions")
            with terminal.announced("Making batches alone"):
                seconds = peer.call("batch_seconds", batches=BATCHES, data=data)
        except BaseException:
            os.kill(peer.pid, signal.SIGKILL)  # else it would be waited for
            raise
    peer.close()
    return {"versions": versions, "CPU seconds of a batch": seconds}


def log_every(settings: dict[str, Any]) -> int:
    """Steps from one loss in the curve to the next."""
    return max(1, settings["steps"] // 30)


def result_of(metrics: Path, *, batch_size: int) -> dict[str, Any]:
    """The curve of a run, and the medians of its times, in seconds per step."""
    curve: dict[int, float] = {}  # a resumed run writes the last entries of a killed one again
    losses: dict[int, float] = {}
    times: list[tuple[float, float]] = []
    for entry in read_metrics(metrics):
        if "mIoU" in entry:
            curve[entry["step"]] = entry["mIoU"]
        elif "loss" in entry:
            losses[entry["step"]] = entry["loss"]
            times.append(seconds_of(entry, batch_size=batch_size))
    steps = sorted(curve)
    return {
        "mIoU": curve[steps[-1]],
        "curve": [[step, curve[step]] for step in steps],
        "loss": sorted(losses.items()),
        "seconds": statistics.median(step for step, _ in times),
        "data seconds": statistics.median(data for _, data in times),
    }


def seconds_of(entry: dict[str, float], *, batch_size: int) -> tuple[float, float]:
    """Seconds per step, and those of them spent waiting for the batch, as each side logs them."""
    if "seconds" in entry:
        return entry["seconds"], entry["data seconds"]
    seconds = batch_size / entry["images_per_second"]
    return seconds, entry["data_wait"] * seconds


def verdict(ours: list[float], theirs: list[float]) -> dict[str, Any]:
    """Compare the final mIoU of all seeds; one seed has no deviation, so no verdict."""
    difference = statistics.mean(ours) - statistics.mean(theirs)
    if len(ours) < 2:
        return {"difference": difference, "pooled deviation": None, "holds": None}
    # Equal numbers of runs: the mean of the variances.
    pooled = statistics.mean([statistics.variance(ours), statistics.variance(theirs)]) ** 0.5
    return {
        "difference": difference,
        "pooled deviation": pooled,
        "holds": abs(difference) <= 2 * pooled,
    }


def section(report: dict[str, Any]) -> tuple[list[str], str]:
    """Rows of the table of curves, and the text below it."""
    runs, settings, found = report["runs"], report["settings"], report["verdict"]
    steps = [step for step, _ in runs["ours"][0]["curve"]]
    rows = []
    for place, step in enumerate(steps):
        cells = [spread([run["curve"][place][1] for run in runs[side]]) for side in SIDES]
        rows.append(f"| {step} | {' | '.join(cells)} |")
    seeds = len(runs["ours"])
    if found["holds"] is None:
        judged = "one seed, so there is no verdict"
    else:
        judged = (
            f"pooled standard deviation {found['pooled deviation']:.2f}: the criterion "
            f"**{'holds' if found['holds'] else 'does not hold'}**"
        )
    lines = [
        "![mIoU and loss of both sides](images/learning.png)",
        "",
        "| per run | final mIoU | s per step | waiting for the batch | CPU s of a batch |",
        "|---|---|--:|--:|--:|",
    ]
    for side in SIDES:
        finals = ", ".join(f"{run['mIoU']:.2f}" for run in runs[side])
        seconds, waiting, alone = (
            statistics.median(run[name] for run in runs[side])
            for name in ("seconds", "data seconds", "CPU seconds of a batch")
        )
        lines.append(f"| {side} | {finals} | {seconds:.2f} | {waiting:.4f} | {alone:.3f} |")
    height, width = settings["crop_size"]
    plural = "s" * (seeds > 1)
    versions = [f"{name} {version}" for name, version in report["versions"].items()]
    lines += [
        "",
        f"Difference of the means {found['difference']:+.2f}, {judged}.",
        "",
        f"{seeds} seed{plural}, {settings['steps']} steps of {settings['batch_size']} crops of "
        f"{height}x{width}, scored on all validation images. Times are medians; both sides "
        "read ahead as they do by default, ours in two threads, mmsegmentation in two processes. "
        f"The last column is that work alone: {BATCHES} batches one after the other in one thread, "
        "from the files to normalised float32. A run takes minutes, and the machine's speed "
        "changed between runs; `python -m benchmarks.training` compares the time of a step in "
        "turns.",
        "",
        "; ".join([report["day"], report["machine"], *versions]),
    ]
    return rows, "\n".join(lines)


def spread(values: list[float]) -> str:
    """Mean and standard deviation; of a single value the value."""
    mean = f"{statistics.mean(values):.2f}"
    return f"{mean} ± {statistics.stdev(values):.2f}" if len(values) > 1 else mean


def draw(report: dict[str, Any], path: Path) -> None:
    """Every run as a thin line, the mean of each side as a thick one."""
    mpl.use("agg")
    figure, axes = plt.subplots(1, 2, figsize=(8, 3), layout="constrained")
    for axis, what, name in zip(axes, ("curve", "loss"), ("mIoU, %", "training loss"), strict=True):
        for side, color in zip(SIDES, ("#2a6fbb", "#d9822b"), strict=True):
            lines = [list(zip(*run[what], strict=True)) for run in report["runs"][side]]
            for steps, values in lines:
                axis.plot(steps, values, color=color, linewidth=0.7, alpha=0.5)
            middle = [statistics.mean(at) for at in zip(*(line[1] for line in lines), strict=True)]
            axis.plot(lines[0][0], middle, color=color, linewidth=2, label=side)
        axis.set(xlabel="step", ylabel=name)
    axes[0].set_ylim(0, None)
    axes[0].legend(frameon=False)
    figure.savefig(path, dpi=100)
    plt.close(figure)


if __name__ == "__main__":
    main()
