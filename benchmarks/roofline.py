"""How close to the limits: of this machine, measured, and of accelerators, on paper.

    python -m benchmarks.roofline [--variants hr18s hr18 hr48] [--json FILE]

Measured: float32 matrix products and memory bandwidth, both with all threads, then inference
of 512x1024 and a training step of 2 crops of 256x512 (not of W48, which takes minutes to compile).
On paper: inference of 512x1024 and a step of 2 crops of 512x1024 in bfloat16, counted by
`layers.py` in the traced program, at the rates of the data sheets in `plan.CHIPS`.
"""

import collections
import functools
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from rich.table import Table

from benchmarks.layers import Kernel, kernels_of
from benchmarks.paired_timing import conditions, options_of, random_batch, write
from hrnet_jax import models, ops
from hrnet_jax.commands.step_costs import CHIPS, Chip
from hrnet_jax.models import split
from hrnet_jax.parallel.compiling import enable_compilation_cache, set_precision
from hrnet_jax.parallel.mesh import make_mesh
from hrnet_jax.runs.paths import cache_folder
from hrnet_jax.runs.terminal import Terminal
from hrnet_jax.training.losses import cross_entropy
from hrnet_jax.training.optim import sgd
from hrnet_jax.training.state import initial_state
from hrnet_jax.training.step import make_train_step
from tests.parity.peer import Server

MEASURED = {"inference": (1, 512, 1024), "training": (2, 256, 512)}  # batch, height, width
PAPER = {"inference": (1, 512, 1024), "training": (2, 512, 1024)}  # per device as published
PAPER_CHIPS = (CHIPS[2], CHIPS[0])

LOSS = functools.partial(cross_entropy, ignore_label=255)


def main() -> None:
    """Measure, count, print, write."""
    options, terminal = options_of(__doc__, rounds=5), Terminal()
    cache = str(enable_compilation_cache(cache_folder() / "xla"))
    set_precision("float32")
    report: dict[str, Any] = {"conditions": conditions(options), "paper": {}, "measured": {}}
    with terminal.announced("Peaks of this machine"):
        report["peaks"] = peaks()
    for name, value in report["peaks"].items():
        terminal.line(f"{name}: {value:.1f}")
    for variant in options.variants or ("hr18s", "hr18", "hr48"):
        for mode in MEASURED:
            if variant != "hr48" or mode == "inference":
                with terminal.announced(f"{variant}, {mode}: {options.rounds} turns"):
                    seconds = measured(variant, mode, rounds=options.rounds, cache=cache)
                report["measured"][f"{variant} {mode}"] = seconds
        with terminal.announced(f"{variant}: counting"):
            for mode in MEASURED:
                name = f"{variant} {mode}"
                if name in report["measured"]:
                    program = kernels_of(traced(variant, mode, MEASURED[mode], dtype="float32"))
                    report["measured"][name] = against_peaks(
                        program, report["measured"][name], report["peaks"]
                    )
                program = kernels_of(traced(variant, mode, PAPER[mode], dtype="bfloat16"))
                report["paper"][name] = on_paper(program)
    show(report, terminal)
    write(report, options)


def peaks() -> dict[str, float]:
    """The best of several turns with all threads, after one that is not timed."""
    size, threads = 2048, os.cpu_count() or 1
    left, right = (np.full((size, size), 0.5, np.float32) for _ in range(2))
    product = jax.jit(jnp.dot)
    on_device = jax.device_put((left, right))
    # Larger than any cache; each thread has its own share, in memory that is already allocated.
    source, target = (np.ones(64 * 2**20, np.float32) for _ in range(2))
    shares = list(
        zip(np.array_split(source, threads), np.array_split(target, threads), strict=True)
    )
    with ThreadPoolExecutor(threads) as pool:

        def scale() -> None:
            list(pool.map(lambda share: np.multiply(share[0], 2.0, out=share[1]), shares))

        moved = 2 * source.nbytes / _best(scale)
    flops = 2 * size**3
    return {
        "GFLOP/s of matrix products, NumPy": flops / _best(lambda: left @ right) / 1e9,
        "GFLOP/s of matrix products, XLA": flops
        / _best(lambda: product(*on_device).block_until_ready())
        / 1e9,
        "GB/s read and written": moved / 1e9,
    }


def _best(function: Callable[[], Any], *, turns: int = 7) -> float:
    times = []
    for _ in range(turns + 1):
        begin = time.perf_counter()
        function()
        times.append(time.perf_counter() - begin)
    return min(times[1:])


def measured(variant: str, mode: str, *, rounds: int, cache: str) -> list[float]:
    """Seconds of each turn, in a separate process."""
    batch, height, width = MEASURED[mode]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        arrays = random_batch(folder, height=height, width=width, batch=batch)
        server = Server(folder, [sys.executable, "-m", "benchmarks.our_worker"])
        try:
            server.call("load_program", variant=variant, batch=arrays,
                        training=mode == "training", cache=cache)  # fmt: skip
            return [server.call("run", times=1)["seconds"] for _ in range(rounds)]
        finally:
            server.close()


def traced(
    variant: str, mode: str, size: tuple[int, int, int], *, dtype: str
) -> Callable[[], jax.stages.Traced]:
    """Return a function that traces a program for (batch, height, width). Nothing is compiled."""
    structure, params, batch_stats = split(models.build(variant, num_classes=19))
    image = jax.ShapeDtypeStruct((*size, 3), jnp.float32)
    if mode == "inference":

        def forward(params: dict, batch_stats: dict, image: jax.Array) -> jax.Array:
            with ops.use(ops.CPU):
                return nnx.merge(structure, params, batch_stats)(image)

        weights = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, dtype), params)
        image = jax.ShapeDtypeStruct(image.shape, dtype)
        return lambda: jax.jit(forward).trace(weights, batch_stats, image)
    optimizer = sgd(optax.constant_schedule(1e-3), momentum=0.9, weight_decay=5e-4)
    mesh = make_mesh(devices=jax.devices()[:1])
    step = make_train_step(structure, optimizer, mesh=mesh, dtype=dtype, loss=LOSS)
    state = jax.eval_shape(
        lambda p, s: initial_state(p, s, optimizer=optimizer), params, batch_stats
    )
    batch = {"image": image, "label": jax.ShapeDtypeStruct(size, jnp.uint8)}
    return functools.partial(step.trace, state, batch)


def against_peaks(
    program: list[Kernel], seconds: list[float], peak: dict[str, float]
) -> dict[str, Any]:
    """The measurements, and the least time that this machine's peaks allow."""
    best = max(value for name, value in peak.items() if name.startswith("GFLOP/s"))
    here = Chip("this machine", {"float32": 1e9 * best}, 0, 1e9 * peak["GB/s read and written"],
                0, 0)  # fmt: skip
    times = [kernel.seconds(here, dtype="float32") for kernel in program]
    return {
        "seconds": seconds,
        "flops": sum(kernel.flops for kernel in program),
        "bytes": sum(kernel.bytes for kernel in program),
        "least seconds": sum(map(max, times)),
    }


def on_paper(program: list[Kernel]) -> dict[str, dict[str, Any]]:
    """Arithmetic, least bytes and least times of each layer group."""
    groups = collections.defaultdict[str, list[Kernel]](list)
    for kernel in program:
        groups[kernel.group].append(kernel)
    order = sorted(groups, key=_place)
    return {name: _group(groups[name]) for name in order}


def _group(kernels: list[Kernel]) -> dict[str, Any]:
    found: dict[str, Any] = {
        "flops": sum(kernel.flops for kernel in kernels),
        "bytes": sum(kernel.bytes for kernel in kernels),
        "bytes outside products": sum(kernel.bytes for kernel in kernels if not kernel.flops),
        "products": sum(kernel.flops > 0 for kernel in kernels),
    }
    for chip in PAPER_CHIPS:
        cases = {chip.name: False} | ({f"{chip.name}, padded": True} if "TPU" in chip.name else {})
        for name, padded in cases.items():
            times = [kernel.seconds(chip, dtype="bfloat16", padded=padded) for kernel in kernels]
            found[name] = {
                "seconds": sum(map(max, times)),
                "bound by memory": sum(memory for compute, memory in times if memory > compute),
            }
    return found


def _place(group: str) -> tuple[int, int]:
    """By stage, then by stride; a stage's fusion after its branches."""
    order = ["stem", "stage 1", "stage 2", "stage 3", "stage 4", "head", "loss", "update"]
    first, _, part = group.partition(", ")
    return order.index(first), int(part.split()[1]) if part.startswith("stride") else 99


def show(report: dict[str, Any], terminal: Terminal) -> None:
    """Print a summary; docs/performance.md has all of it."""
    table = Table("measured", "s", "GFLOP", "least MB", "GFLOP/s", "% of the least time")
    for name, row in report["measured"].items():
        middle = statistics.median(row["seconds"])
        table.add_row(
            name, f"{middle:.3f}", f"{row['flops'] / 1e9:.1f}", f"{row['bytes'] / 1e6:,.0f}",
            f"{row['flops'] / middle / 1e9:.0f}", f"{row['least seconds'] / middle:.0%}",
        )  # fmt: skip
    terminal.table(table)
    chips = [name for name in next(iter(next(iter(report["paper"].values())).values()))
             if any(chip.name in name for chip in PAPER_CHIPS)]  # fmt: skip
    table = Table("on paper, bfloat16", "GFLOP", "least MB", *(f"{name}, ms" for name in chips))
    for name, groups in report["paper"].items():
        rows = list(groups.values())
        table.add_row(
            name, f"{sum(row['flops'] for row in rows) / 1e9:.1f}",
            f"{sum(row['bytes'] for row in rows) / 1e6:,.0f}",
            *(f"{1e3 * sum(row[chip]['seconds'] for row in rows):.2f}" for chip in chips),
        )  # fmt: skip
    terminal.table(table)


if __name__ == "__main__":
    main()
