"""Kill a training run at random times: does it end like one that was never killed?

    python -m tests.kill_campaign --folder DIR [--first 0] [--trials 50]

Every trial starts the command line with the tiny network of the tests, kills it with SIGKILL (two
trials in three at a random time between the first batch and the end, one in three while a
checkpoint is being written), starts it again and compares everything with a run that was
never killed: parameters, statistics and optimizer state of every checkpoint, scores, metrics,
pictures, the examples of every step, which checkpoints are kept and which is the best. Everything
but clock times must be equal bit for bit. Trials are numbered; DIR/trials.jsonl collects them over
several calls, and the summary counts all of them. POSIX only.
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

from hrnet_jax.data import minicity
from hrnet_jax.runs.metrics_log import read_metrics
from hrnet_jax.runs.scores import best_step
from hrnet_jax.runs.terminal import Terminal
from tests.command import ROOT

STEPS, SAVE_EVERY = 12, 2
SETTINGS = (
    f"--config.train.steps={STEPS}", f"--config.checkpoint.every_steps={SAVE_EVERY}",
    "--config.eval.every_steps=4", "--config.log.every_steps=3",
)  # fmt: skip
OF_THE_CLOCK = {"time", "images_per_second", "data_wait"}


def main() -> None:
    """Run the requested trials, then count all trials so far."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--first", type=int, default=0, help="number of the first trial")
    parser.add_argument("--trials", type=int, default=50)
    arguments = parser.parse_args()
    folder, terminal = arguments.folder, Terminal()
    results = folder / "trials.jsonl"
    unbroken = never_killed(folder)
    numbers = range(arguments.first, arguments.first + arguments.trials)
    for number in terminal.track(numbers, "Trials", total=len(numbers)):
        result = trial(number, folder=folder, unbroken=unbroken)
        with results.open("a") as file:
            file.write(json.dumps(result) + "\n")
        terminal.line(json.dumps(result))
    entries = read_metrics(results)
    wrong = [entry for entry in entries if entry["differences"]]
    resumed = Counter(entry["resumed_at"] for entry in entries)
    terminal.line(
        f"{len(entries)} trials, {sum(entry['in_a_save'] for entry in entries)} killed in a save; "
        f"resumed at step {', '.join(f'{s}: {n}' for s, n in sorted(resumed.items()))}; "
        f"{len(wrong)} ended differently"
    )
    sys.exit(bool(wrong))


def never_killed(folder: Path) -> Path:
    """Train once without being killed and write the dataset of all trials; once per folder."""
    workdir = folder / "unbroken"
    if not (folder / "seconds").exists():
        shutil.rmtree(folder, ignore_errors=True)
        minicity.write(folder / "city", train=8, val=4, height=64, width=128)
        start(workdir, folder=folder).communicate()  # so that the programs are compiled
        shutil.rmtree(workdir)
        run = start(workdir, folder=folder)
        wait_for((workdir / "ids.jsonl").exists, run)
        begin = time.monotonic()
        output, _ = run.communicate()
        if run.returncode:
            sys.exit(output)
        (folder / "seconds").write_text(str(time.monotonic() - begin))
    return workdir


def trial(number: int, *, folder: Path, unbroken: Path) -> dict:
    """Kill one run, let a second start finish it, and list what differs from `unbroken`."""
    rng, workdir = random.Random(number), folder / str(number)
    checkpoints, killed = workdir / "checkpoints", False
    while not killed:  # a run that ended before it was killed shows nothing
        shutil.rmtree(workdir, ignore_errors=True)
        run = start(workdir, folder=folder)
        if number % 3 == 0:
            step = rng.randrange(SAVE_EVERY, STEPS + 1, SAVE_EVERY)
            wait_for(lambda step=step: list(checkpoints.glob(f"{step}.*")), run, every=0.0)
            time.sleep(rng.uniform(0, 0.1))
        else:
            wait_for((workdir / "ids.jsonl").exists, run)
            time.sleep(rng.uniform(0, float((folder / "seconds").read_text())))
        run.kill()
        run.communicate()
        killed = run.returncode == -signal.SIGKILL
    in_a_save = bool(list(checkpoints.glob("*.orbax-checkpoint-tmp*")))
    again = start(workdir, folder=folder)
    output, _ = again.communicate()
    last_words = output.strip().splitlines()[-1:] if again.returncode else []
    resumed = output.partition("resumed at step ")[2].split()
    done = f"All {STEPS} steps are done" in output
    result = {
        "trial": number,
        "in_a_save": in_a_save,
        "resumed_at": int(resumed[0]) if resumed else STEPS if done else 0,
        "differences": last_words or differences(workdir, unbroken),
    }
    if not result["differences"]:
        shutil.rmtree(workdir)
    return result


def start(workdir: Path, *, folder: Path) -> subprocess.Popen:
    """Start the command line as a user would, on one device."""
    return subprocess.Popen(
        [
            sys.executable, "-m", "tests.recording", "--config", "tests/tiny_config.py",
            f"--workdir={workdir}", f"--config.data.root={folder / 'city'}", *SETTINGS,
        ],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env=os.environ | {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "1"},
    )  # fmt: skip


def wait_for(condition, run: subprocess.Popen, *, every: float = 0.01) -> None:
    """Wait until the condition holds, or the run has ended."""
    while not condition() and run.poll() is None:
        time.sleep(every)


def differences(workdir: Path, unbroken: Path) -> list[str]:
    """Name the differences of two finished runs."""
    ours, theirs = contents(workdir), contents(unbroken)
    return sorted(name for name in ours | theirs if ours.get(name) != theirs.get(name))


def contents(workdir: Path) -> dict:
    """Everything that a run leaves and that does not depend on the clock."""
    folder = workdir / "checkpoints"
    steps = sorted(int(path.name) for path in folder.iterdir() if path.name.isdigit())
    found: dict = {"checkpoints": steps, "best checkpoint": best_step(folder, steps)}
    for step in steps:
        meta = json.loads((folder / str(step) / "meta" / "metadata").read_text())
        found[f"tensors of checkpoint {step}"] = meta["checksums"]
        found[f"monitor of checkpoint {step}"] = meta["monitor"]
        scores = folder / str(step) / "scores.json"
        found[f"scores of checkpoint {step}"] = scores.exists() and scores.read_text()
    found["metrics"] = [
        {name: value for name, value in entry.items() if name not in OF_THE_CLOCK}
        for entry in read_metrics(workdir / "metrics.jsonl")
    ]
    # A step that was run twice must have seen the same examples twice.
    lines = read_metrics(workdir / "ids.jsonl")
    found["examples"] = sorted({(entry["step"], *entry["ids"]) for entry in lines})
    found["pictures"] = {p.name: p.read_bytes() for p in (workdir / "pictures").iterdir()}
    return found


if __name__ == "__main__":
    main()
