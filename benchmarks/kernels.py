"""Where the time of a program goes: kernels by kind, from XLA's own profile.

    python -m benchmarks.kernels [--variants hr48] [--json FILE]

Inference of 512x1024 and, except for W48, a training step of 2 crops of 256x512.
Thread-milliseconds add up the times of kernels on all threads. A kernel on several threads counts
once, so they are less than the CPU time, to which threads that wait in a loop add theirs.
"""

import collections
import math
import re
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
from rich.table import Table

from benchmarks.our_worker import load_program
from benchmarks.paired_timing import conditions, options_of, random_batch, write
from hrnet_jax.parallel.compiling import prepare_process
from hrnet_jax.runs.terminal import Terminal
from tests.parity import jobs

INFERENCE, TRAINING = ((512, 1024), 1), ((256, 512), 2)
PROFILED = 3  # calls
_NO_KERNELS = (  # their contents are counted, if there are any
    "call", "while", "conditional",
    "parameter", "constant", "bitcast", "get-tuple-element", "tuple",
)  # fmt: skip


def main() -> None:
    """Measure, print, write."""
    options, terminal = options_of(__doc__, rounds=7), Terminal()
    prepare_process()
    report: dict[str, Any] = {"conditions": conditions(options)}
    for variant in options.variants or ("hr18s", "hr18", "hr48"):
        for training in (False, True)[: 1 if variant == "hr48" else 2]:
            what = f"{variant} {'training' if training else 'inference'}"
            with terminal.announced(what):
                report[what] = profiled(variant, training=training, rounds=options.rounds)
            show(what, report[what], terminal)
    write(report, options)


def profiled(variant: str, *, training: bool, rounds: int) -> dict[str, Any]:
    """Seconds of calls, and thread-milliseconds and GFLOP of each kind of kernel in one."""
    (height, width), batch = TRAINING if training else INFERENCE
    with tempfile.TemporaryDirectory() as name:
        arrays = random_batch(Path(name), height=height, width=width, batch=batch)
        load_program(variant, arrays, training, cache="")
        run = jobs.timed["program"]
        seconds = [_seconds(run) for _ in range(rounds)]
        with jax.profiler.trace(name):
            for _ in range(PROFILED):
                run()
        took = durations(next(Path(name).rglob("*.xplane.pb")))
    kinds: dict[str, dict[str, float]] = collections.defaultdict(
        lambda: {"kernels": 0, "thread-ms": 0.0, "GFLOP": 0.0}
    )
    text = jobs.timed["text"]()
    known, named = kernels_of(text), set(re.findall(r"^ +(?:ROOT )?%(\S+) =", text, re.MULTILINE))
    for name, milliseconds in took.items():
        if name in known or name not in named:
            kind, flops = known.get(name, ("not in the program's text", 0.0))
            found = kinds[kind]
            found["kernels"] += 1
            found["thread-ms"] += milliseconds / PROFILED
            found["GFLOP"] += flops / 1e9
    return {"seconds": seconds, "kinds": kinds}


def _seconds(run: Any) -> float:
    begin = time.perf_counter()
    run()
    return time.perf_counter() - begin


def durations(profile: Path) -> dict[str, float]:
    """Milliseconds of each instruction of a program in a profile, all calls together."""
    took: dict[str, float] = collections.defaultdict(float)
    for plane in jax.profiler.ProfileData.from_file(str(profile)).planes:
        for line in plane.lines:
            for event in line.events:
                stats = dict(event.stats)
                if "hlo_op" in stats:
                    took[stats["hlo_op"]] += event.duration_ns / 1e6
    return took


def kernels_of(program: str) -> dict[str, tuple[str, float]]:
    """Kind and arithmetic of each kernel in the text of a compiled program (HLO)."""
    bodies = dict(re.findall(r"^%([\w.-]+) \(.*?\n(.*?)^}", program, re.DOTALL | re.MULTILINE))
    found = {}
    for line in program.splitlines():
        match = re.match(r" +(?:ROOT )?%([\w.-]+) = (?:\(.*?\)|\S+) ([a-z-]+)\(", line)
        if match and match[2] not in _NO_KERNELS:
            called = re.search(r"calls=%([\w.-]+)", line)
            library = called is None or "kind=kCustom" in line
            found[match[1]] = _kind(bodies[called[1]] if called else line, library=library)
    return found


def _kind(text: str, *, library: bool) -> tuple[str, float]:
    convolution = re.search(
        r"f32\[([\d,]+)\]\S* convolution\(%?[\w.-]+, %?([\w.-]+)\), (.*?dim_labels=\S+)", text
    )
    if convolution:
        return _convolution(text, *convolution.groups())
    if re.search(r" dot\(", text):
        return "matrix products", 0
    if re.search(r" (reduce|reduce-window)\(", text) and library:
        return "sums", 0
    if re.search(r" (concatenate|pad|copy|transpose|slice|dynamic-slice)\(", text):
        return "copies, shifts, upsampling", 0
    return "elementwise", 0


def _convolution(text: str, out: str, kernel: str, attributes: str) -> tuple[str, float]:
    size = re.search(r"size=(\d+)x(\d+)", attributes)
    shape = re.search(rf"%?{re.escape(kernel)} = f32\[([\d,]+)\]", text)
    labels = re.search(r"_([\dio]+)->", attributes)
    flops = 0.0
    if size and shape and labels:
        channels = int(shape[1].split(",")[labels[1].index("i")])
        window = int(size[1]) * int(size[2]) * channels
        skipped = re.search(r"lhs_dilate=(\d+)x(\d+)", attributes)  # zeros between inputs
        holes = int(skipped[1]) * int(skipped[2]) if skipped else 1
        flops = 2.0 * math.prod(map(int, out.split(","))) * window / holes
    return f"convolutions to {out.split(',')[-1]} channels", flops


def show(what: str, found: dict[str, Any], terminal: Terminal) -> None:
    """Print one program's table."""
    middle = statistics.median(found["seconds"])
    table = Table(f"{what}, {1e3 * middle:.0f} ms", *HEADS)
    for row in rows_of(found):
        table.add_row(*row)
    terminal.table(table)


HEADS = ("kernels", "thread-ms", "share", "GFLOP/s")


def rows_of(found: dict[str, Any]) -> list[list[str]]:
    """Of each kind, the longest first; then of all."""
    total = sum(kind["thread-ms"] for kind in found["kinds"].values())
    rows = []
    for name, kind in sorted(found["kinds"].items(), key=lambda item: -item[1]["thread-ms"]):
        if kind["thread-ms"] > 0.01 * total:
            rate = 1e3 * kind["GFLOP"] / kind["thread-ms"]
            rows.append([
                name, f"{kind['kernels']:,.0f}", f"{kind['thread-ms']:.1f}",
                f"{kind['thread-ms'] / total:.0%}", f"{rate:.0f}" if rate else "",
            ])  # fmt: skip
    rows.append(["all", "", f"{total:.1f}", "", ""])
    return rows


if __name__ == "__main__":
    main()
