"""Ours and mmsegmentation on the same input, in turns: what the timings share.

Each program runs in its own process, with all threads. In a round every program has one turn, so
that a slow moment of the machine affects them all; ratios are taken within a round.
"""

import argparse
import os
import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.table import Table

from hrnet_jax.interop.weights import template
from hrnet_jax.runs.paths import write_json
from hrnet_jax.runs.terminal import Terminal
from tests.parity.peer import PYTHON, Peer, Server
from tests.published import published_tensor

OURS, AGAIN = "hrnet-jax", "hrnet-jax again"
LAYOUTS = {"eager": "mmseg, eager", "channels_last": "mmseg, channels last",
           "compile": "mmseg, torch.compile"}  # fmt: skip


def options_of(description: str | None, *, rounds: int) -> argparse.Namespace:
    """Parse the options that all timings have."""
    parser = argparse.ArgumentParser(description=description, allow_abbrev=False)
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--variants", nargs="+", default=None, help="hr18s, hr18, hr48")
    parser.add_argument("--compile", action="store_true", help="torch.compile too (minutes)")
    parser.add_argument("--json", type=Path, help="write all figures into this file")
    options = parser.parse_args()
    os.environ.setdefault(PYTHON, ".venv-parity/bin/python")
    return options


def random_batch(folder: Path, *, height: int, width: int, batch: int) -> str:
    """Write an .npz with "image" (NCHW) and "label" for both sides."""
    rng = np.random.default_rng(0)
    label = rng.integers(0, 19, (batch, -(-height // 32), -(-width // 32)))
    path = folder / f"{height}x{width}x{batch}.npz"
    np.savez(
        path,
        image=rng.standard_normal((batch, 3, height, width), np.float32),
        label=label.repeat(32, 1).repeat(32, 2)[:, :height, :width].astype(np.uint8),
    )
    return str(path)


def compare(
    variant: str, size: tuple[int, int], batch: int, *, training: bool, options: argparse.Namespace,
    terminal: Terminal,
) -> dict[str, Any]:  # fmt: skip
    """Time one network at one size; return every turn of every program."""
    layouts = [name for name in LAYOUTS if name != "compile" or options.compile]
    what = f"{variant}, {size[0]}x{size[1]}, batch {batch}"
    servers: dict[str, Server] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        arrays = random_batch(folder, height=size[0], width=size[1], batch=batch)
        try:
            first: dict[str, Any] = {}
            for program in (OURS, AGAIN):
                servers[program] = Server(folder, [sys.executable, "-m", "benchmarks.our_worker"])
                with terminal.announced(f"{what}: compiling {program}"):
                    first[program] = servers[program].call(
                        "load_program", variant=variant, batch=arrays, training=training, cache=""
                    )
            weights = None
            for layout in layouts:
                peer = servers[LAYOUTS[layout]] = Peer(folder)
                weights = weights or save_weights(peer, variant, folder)
                with terminal.announced(f"{what}: loading {LAYOUTS[layout]}"):
                    first[LAYOUTS[layout]] = peer.call(
                        "load_program", variant=variant, weights=weights, batch=arrays,
                        layout=layout, training=training, threads=os.cpu_count(),
                    )  # fmt: skip
            turns: dict[str, list] = {program: [] for program in servers}
            for number in terminal.track(range(options.rounds), what, total=options.rounds):
                for program in list(servers)[:: (-1) ** number]:
                    turns[program].append(servers[program].call("run", times=1))
        finally:
            for server in servers.values():
                server.close()
    results = [value["result"] if isinstance(value, dict) else value for value in first.values()]
    np.testing.assert_allclose(results, results[0], rtol=1e-3, err_msg="not the same computation")
    return {"turns": turns, "compile": first[OURS], "ratios": ratios(turns)}


def save_weights(peer: Peer, variant: str, folder: Path) -> str:
    """Save the same weights for both: each tensor follows from its name."""
    shapes = {key: shape for key, (_, shape) in template(variant, 19).items()}
    np.savez(folder / "tensors.npz", **{k: published_tensor(k, s) for k, s in shapes.items()})
    path = str(folder / f"{variant}.pth")
    peer.call("save", variant=variant, num_classes=19, path=path,
              tensors=str(folder / "tensors.npz"), style="1.x")  # fmt: skip
    return path


def ratios(turns: dict[str, list]) -> dict[str, list[float]]:
    """Seconds of every other program over ours, round by round: above 1 we are faster."""
    ours = [turn["seconds"] for turn in turns[OURS]]
    return {
        f"{program} / {OURS}": [t["seconds"] / o for t, o in zip(values, ours, strict=True)]
        for program, values in turns.items()
        if program != OURS
    }


def conditions(options: argparse.Namespace) -> dict[str, Any]:
    """On which machine and with which versions it was measured."""
    return {
        "rounds": options.rounds,
        "threads": os.cpu_count(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}",
        "load before": os.getloadavg()[0],
        "ms of a million additions in Python": 1e3 * _seconds_of_additions(),
        "python": platform.python_version(),
        "jax": jax.__version__,
    }


def _seconds_of_additions() -> float:
    """How fast the machine is at the moment, for any program."""
    begin, total = time.perf_counter(), 0
    for number in range(10**6):
        total += number
    return time.perf_counter() - begin


def show(title: str, result: dict[str, Any], terminal: Terminal) -> None:
    """Print one comparison."""
    table = Table(title, "s", "CPU s", "peak MB", f"time / {OURS}", "smallest", "largest")
    for program, values in result["turns"].items():
        row = [
            f"{statistics.median(value[what] for value in values):.{digits}f}"
            for what, digits in (("seconds", 3), ("CPU seconds", 3), ("peak MB", 0))
        ]
        of_rounds = result["ratios"].get(f"{program} / {OURS}")
        if of_rounds:
            row += [f"{f(of_rounds):.2f}" for f in (statistics.median, min, max)]
        table.add_row(program, *row)
    terminal.table(table)


def write(report: dict[str, Any], options: argparse.Namespace) -> None:
    """Write the report as JSON, if asked to."""
    if options.json:
        write_json(options.json, report)
