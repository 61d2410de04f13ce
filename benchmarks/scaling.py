"""Whether our cost grows as it should: time by pixels and by batch.

    python -m benchmarks.scaling [--variants hr18s] [--json FILE]

Inference, float32. Each size is one program in its own process; the processes take turns. Both wall
and CPU time are shown: small images do not keep all cores busy.
"""

import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from rich.table import Table

from benchmarks.paired_timing import conditions, options_of, random_batch, write
from hrnet_jax.runs.terminal import Terminal
from tests.parity.peer import Server

PIXELS = [(256, 256), (256, 512), (512, 512), (512, 1024), (1024, 1024), (1024, 2048)]
KINDS = ("seconds", "CPU seconds")
BATCHES = [1, 2, 4, 8]  # of 256x512


def main() -> None:
    """Measure, print, write."""
    options, terminal = options_of(__doc__, rounds=9), Terminal()
    report: dict[str, Any] = {"conditions": conditions(options)}
    for variant in options.variants or ("hr18s",):
        cases = {f"{h}x{w}": ((h, w), 1) for h, w in PIXELS}
        report[f"{variant} size"] = turns(variant, cases, options.rounds, terminal)
        cases = {str(batch): ((256, 512), batch) for batch in BATCHES}
        report[f"{variant} batch"] = turns(variant, cases, options.rounds, terminal)
    for title, rows in report.items():
        if title == "conditions":
            continue
        table = Table(title, "ms", *(f"{kind} per pixel, ratio to the cheapest" for kind in KINDS))
        costs = {kind: per_pixel(rows, kind) for kind in KINDS}
        for name, row in rows.items():
            table.add_row(
                name, f"{1e3 * statistics.median(row['seconds']):.0f}",
                *(f"{1e6 * cost[name]:.3f} µs, {cost[name] / min(cost.values()):.2f}"
                  for cost in costs.values()),
            )  # fmt: skip
        terminal.table(table)
    write(report, options)


def per_pixel(rows: dict[str, Any], kind: str) -> dict[str, float]:
    """Median seconds of each case, by pixel."""
    return {name: statistics.median(row[kind]) / row["pixels"] for name, row in rows.items()}


def turns(variant: str, cases: dict, rounds: int, terminal: Terminal) -> dict[str, Any]:
    """Seconds of every turn of every case."""
    servers: dict[str, Server] = {}
    rows: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        try:
            for case, (size, batch) in terminal.track(cases.items(), "Compiling", total=len(cases)):
                servers[case] = Server(folder, [sys.executable, "-m", "benchmarks.our_worker"])
                arrays = random_batch(folder, height=size[0], width=size[1], batch=batch)
                servers[case].call(
                    "load_program", variant=variant, batch=arrays, training=False, cache=""
                )
                rows[case] = {"pixels": size[0] * size[1] * batch, **{kind: [] for kind in KINDS}}
            for number in terminal.track(range(rounds), variant, total=rounds):
                for case in list(cases)[:: (-1) ** number]:
                    # So many runs that every turn takes about as long as one of two megapixels.
                    times = max(1, 2**21 // rows[case]["pixels"])
                    turn = servers[case].call("run", times=times)
                    for kind in KINDS:
                        rows[case][kind].append(turn[kind])
        finally:
            for server in servers.values():
                server.close()
    return rows


if __name__ == "__main__":
    main()
