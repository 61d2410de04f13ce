"""How long our programs take to compile, without and with the cache of compiled programs.

    python -m benchmarks.compile [--variants hr18s hr18 hr48] [--json FILE]

Each row is a process of its own: inference of 512x1024 and a training step of 2 crops of 256x512.
"cold" starts with an empty cache, "cached" uses what "cold" left there. Of identical fused loops
XLA compiles only one: "distinct loops" counts those.
"""

import sys
import tempfile
from pathlib import Path
from typing import Any

from rich.table import Table

from benchmarks.paired_timing import conditions, options_of, random_batch, write
from hrnet_jax.runs.terminal import Terminal
from tests.parity.peer import Server

STAGES = ("building the model", "tracing", "lowering", "compiling")
COUNTS = ("peak MB", "loops", "distinct loops")
HEADS = ("program", *(f"{stage}, s" for stage in STAGES), "the last three, s", *COUNTS)


def main() -> None:
    """Measure, print, write."""
    options, terminal = options_of(__doc__, rounds=1), Terminal()
    report: dict[str, Any] = {"conditions": conditions(options)}
    table = Table(*HEADS)
    variants = options.variants or ("hr18s", "hr18", "hr48")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for training, size, batch in ((False, (512, 1024), 1), (True, (256, 512), 2)):
            arrays = random_batch(folder, height=size[0], width=size[1], batch=batch)
            for variant in variants:
                cache = folder / f"{variant} {training}"
                for state in ("cold", "cached"):
                    what = f"{variant} {'training' if training else 'inference'}, {state}"
                    server = Server(folder, [sys.executable, "-m", "benchmarks.our_worker"])
                    with terminal.announced(what):
                        found = server.call(
                            "load_program", variant=variant, batch=arrays, training=training,
                            cache=str(cache),
                        )  # fmt: skip
                        peak = server.call("run", times=1)["peak MB"]
                        found |= server.call("loops")
                        server.close()
                    found.pop("result")
                    report[what] = {**found, "peak MB": peak}
                    table.add_row(*row_of(what, report[what]))
    terminal.table(table)
    write(report, options)


def row_of(what: str, found: dict[str, float]) -> list[str]:
    """One line of the table; the sum leaves out building the model."""
    seconds = [found[stage] for stage in STAGES]
    return [
        what, *(f"{value:.2f}" for value in [*seconds, sum(seconds[1:])]),
        *(f"{found[count]:,.0f}" for count in COUNTS),
    ]  # fmt: skip


if __name__ == "__main__":
    main()
