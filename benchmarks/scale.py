"""The tables of docs/scale.md: what a training step needs and exchanges, by mesh and setting.

    python -m benchmarks.scale rows      one image cut over 1, 2, 4, 8 devices: memory, exchanges
    python -m benchmarks.scale settings  accumulation and rematerialisation: memory, time
    python -m benchmarks.scale check     planned against measured memory; exit code 1 above 15 %
    python -m benchmarks.scale chips     the bounds of accelerators up to 256 devices
    python -m benchmarks.scale zoo       the same for the 25 published runs: docs/reproduce.md

All on simulated CPU devices, with random weights and images; only `settings` and `check` run a
step. Programs are cached, so a second start is fast. `zoo` keeps what each of its four programs
needs in benchmarks/results/steps.json, and compiles only what is missing there.
"""

import argparse
import collections
import json
import math
import sys
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from hrnet_jax import zoo
from hrnet_jax.commands.list_zoo import with_table
from hrnet_jax.commands.plan import simulate
from hrnet_jax.commands.step_costs import CHIPS, Chip, Collective, Costs, bound, costs
from hrnet_jax.config import recipes
from hrnet_jax.config.build_training import build_training
from hrnet_jax.config.custom_data import dataset_of
from hrnet_jax.parallel.compiling import enable_compilation_cache, set_precision
from hrnet_jax.parallel.mesh import batch_sharding, make_mesh, replicated
from hrnet_jax.parallel.process_settings import peak_memory, reset_peak
from hrnet_jax.runs.paths import cache_folder, write_json, write_text
from hrnet_jax.runs.terminal import Terminal
from hrnet_jax.training.state import TrainState

SETTINGS = [(1, "none"), (4, "none"), (8, "none"), (1, "block"), (1, "stage")]
MB = 1e6
# What the published runs are scaled from: each variant once, and one with many classes.
# The latter on one device: only its traffic is used. W48 on one device too: its program for eight
# had not compiled after five minutes. `summed` gives what eight devices would exchange.
KINDS = [
    ("hr18s", "ade20k", 1), ("hr18s", "cityscapes", 8), ("hr18", "cityscapes", 8),
    ("hr48", "cityscapes", 1),
]  # fmt: skip
STEPS = Path(__file__).parent / "results" / "steps.json"  # costs of a step of each


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("table", choices=["rows", "settings", "check", "chips", "zoo"])
    parser.add_argument("--variant", default="hr18s")
    parser.add_argument("--crop", type=int, nargs=2, default=(512, 1024))
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--heights", type=int, nargs="+", default=(1, 2, 4, 8))
    options = parser.parse_args()
    # No `prepare_process`: `check` would not see memory that is kept.
    enable_compilation_cache(cache_folder() / "xla")
    simulate("8" if options.table in ("rows", "chips", "zoo") else "1")
    set_precision("float32")
    config = recipes.cityscapes(variant=options.variant, schedule="40k")
    config.train.crop_size = tuple(options.crop)
    config.train.batch_size = options.batch
    terminal = Terminal()
    if options.table == "zoo":
        published(terminal)
    elif options.table == "rows":
        rows(config, options.heights, terminal)
    elif options.table == "settings":
        settings(config, terminal)
    elif options.table == "check":
        check(config, terminal)
    else:
        chips(config, terminal)


def rows(config: ConfigDict, heights: list[int], terminal: Terminal) -> None:
    """One image on more and more devices."""
    config.train.batch_size = 1
    lines, first = [], 0
    for height in heights:
        mesh = make_mesh(height=height, devices=jax.devices()[:height])
        found, _ = costs(config, mesh=mesh, terminal=terminal)
        first = first or found.temporary
        permuted = [c for c in found.collectives if c.kind == "collective-permute"]
        reduced = [c for c in found.collectives if c.kind == "all-reduce"]
        kinds = {c.kind for c in found.collectives} - {"collective-permute", "all-reduce"}
        lines.append(
            f"| {height} | {found.temporary / MB:,.0f} | {first / found.temporary:.2f} | "
            f"{len(permuted)} | {sum(c.bytes for c in permuted) / MB:.2f} | {len(reduced)} | "
            f"{sum(c.bytes for c in reduced) / MB:.2f} | {', '.join(kinds) or 'none'} |"
        )
    head = ("devices", "temporary MB each", "times less", "permutes", "MB", "all-reduces")
    _print((*head, "MB", "others"), lines, terminal)


def settings(config: ConfigDict, terminal: Terminal) -> None:
    """Memory by the compiler's analysis, and the time of a step here."""
    _print(("accumulate", "remat", "temporary MB", "GFLOP", "s per step"), [], terminal)
    for accumulate, remat in SETTINGS:
        config.train.accumulate, config.train.remat = accumulate, remat
        found, seconds, _ = _measure(config, terminal)
        terminal.line(
            f"| {accumulate} | {remat} | {found.temporary / MB:,.0f} | "
            f"{found.flops / 1e9:,.0f} | {seconds:.2f} |"
        )


def check(config: ConfigDict, terminal: Terminal) -> None:
    """Compare the plan's memory with what the process takes while a step runs."""
    found, _, measured = _measure(config, terminal)
    difference = measured / found.memory - 1
    terminal.line(
        f"planned {found.memory / MB:,.0f} MB ({found.workspace / MB:,.0f} of convolutions), "
        f"measured {measured / MB:,.0f} MB: {difference:+.1%}"
    )
    sys.exit(abs(difference) > 0.15)


def chips(config: ConfigDict, terminal: Terminal) -> None:
    """Weak scaling: one image per device; strong: 64 images on all of them."""
    config.train.batch_size = 8
    found, _ = costs(config, mesh=make_mesh(), terminal=terminal)
    for dtype in ("float32", "bfloat16"):
        # The compiled program is float32; we assume that bfloat16 moves half the bytes.
        there = found._replace(traffic=found.traffic * (1 if dtype == "float32" else 0.5))
        weak = [(devices, devices) for devices in (1, 8, 64, 256)]
        strong = [(devices, 64) for devices in (1, 8, 16, 32, 64)]
        for name, cases in (("one image per device", weak), ("64 images per step", strong)):
            terminal.line(f"\n{config.model.variant}, {dtype}, {name}")
            lines = [
                _chip_line(there, chip, dtype, devices, images)
                for chip in CHIPS
                for devices, images in cases
            ]
            parts = ("compute ms", "memory ms", "waiting ms", "transfer ms")
            _print(("chip", "devices", *parts, "images/s", "efficiency"), lines, terminal)


def published(terminal: Terminal) -> None:
    """Compile what the 25 runs are scaled from; write the table of docs/reproduce.md."""
    stored = json.loads(STEPS.read_text()) if STEPS.exists() else {}
    for variant, dataset, devices in KINDS:
        name = f"{variant} {dataset}"
        if name in stored:
            continue
        terminal.line(name)
        config = getattr(recipes, dataset)(variant=variant, schedule="80k")
        config.train.batch_size = devices  # one image on each
        mesh = make_mesh(devices=jax.devices()[:devices])
        found, _ = costs(config, mesh=mesh, terminal=terminal)
        alike = collections.Counter(found.collectives)
        grouped = [c._replace(times=c.times * count) for c, count in alike.items()]
        if variant == "hr48":
            like = [Collective(*c) for c in stored["hr18 cityscapes"]["collectives"]]
            grouped = summed(build_training(config, mesh=mesh).state_shape, like=like)
        stored[name] = found._replace(collectives=grouped)._asdict()
        write_json(STEPS, stored)
    path = Path("docs/reproduce.md")
    write_text(path, with_table(path.read_text(), times(stored), mark="times"))


def summed(state: TrainState, *, like: list[Collective]) -> list[Collective]:
    """What devices sum in a step; `like` is that of a network that differs only in width.

    Bytes: each gradient once (those of scale and bias are sums that the backward pass of a
    normalisation needs anyway), each running statistic once, the loss and the accuracy. Number: the
    compiler joins sums that do not wait for one another, which follows from the graph and not from
    the width. Single sizes differ, but no bound uses them.
    """
    values = sum(x.size for x in jax.tree.leaves((state.params, state.batch_stats))) + 2
    count = sum(c.times for c in like)
    each, rest = divmod(4 * values, count)
    usual = like[0]._replace(bytes=each, times=count - 1)
    return [usual, usual._replace(bytes=each + rest, times=1)]


def times(stored: dict[str, dict[str, Any]]) -> str:
    """Hours of training at the bound of each published run, float32, in Markdown."""
    kinds = {
        name: Costs(**fields | {"collectives": [Collective(*c) for c in fields["collectives"]]})
        for name, fields in stored.items()
    }
    machines = [(CHIPS[2], 1), (CHIPS[2], 8), (CHIPS[0], 8)]
    heads = [f"{devices} {chip.name}" for chip, devices in machines]
    lines = [f"| recipe | {' | '.join(heads)} |", f"|---|{'--:|' * len(heads)}"]
    for row in zoo.ROWS:
        config = recipes.of_row(row)
        if f"{row.variant} cityscapes" not in kinds:
            continue  # not compiled yet
        found, cells = _scaled(config, kinds), []
        for chip, devices in machines:
            there = _on(found, devices=devices, images=config.train.batch_size)
            least = bound(there, chip, dtype="float32")
            assert least is not None
            cells.append(f"{least.step * config.train.steps / 3600:.1f} h")
        lines.append(f"| `{row.config}` | {' | '.join(cells)} |")
    return "\n".join(lines)


def _scaled(config: ConfigDict, kinds: dict[str, Costs]) -> Costs:
    """The costs of a variant's Cityscapes step, for another crop and another number of classes.

    Arithmetic and traffic grow with the pixels. Logits of more classes add traffic, whatever the
    network; their arithmetic is negligible and left out.
    """
    base = kinds[f"{config.model.variant} cityscapes"]
    small, large = kinds["hr18s cityscapes"], kinds["hr18s ade20k"]
    more = math.prod(config.train.crop_size) / (512 * 1024)
    per_class = (2 * large.traffic - small.traffic) / (150 - 19)  # for 512x1024, which is two crops
    return base._replace(
        flops=base.flops * more,
        traffic=more * (base.traffic + per_class * (dataset_of(config).num_classes - 19)),
    )


def _chip_line(found: Costs, chip: Chip, dtype: str, devices: int, images: int) -> str:
    there = _on(found, devices=devices, images=images)
    least = bound(there, chip, dtype=dtype)
    alone = bound(_on(found, devices=1, images=images), chip, dtype=dtype)
    assert least is not None
    assert alone is not None
    return (
        f"| {chip.name} | {devices} | "
        + " | ".join(f"{1e3 * part:.2f}" for part in least)
        + f" | {images / least.step:,.0f} | {alone.step / devices / least.step:.0%} |"
    )


def _on(found: Costs, *, devices: int, images: int) -> Costs:
    """A program for one image on each device, with other numbers of both."""
    exchanges = [c._replace(devices=devices) for c in found.collectives] if devices > 1 else []
    return found._replace(
        devices=devices,
        images=images,
        flops=found.flops * images / found.images,
        traffic=found.traffic * images / devices,
        collectives=exchanges,
    )


def _measure(config: ConfigDict, terminal: Terminal) -> tuple[Costs, float, int]:
    """Costs of a step on one device, its shortest time of three, and the memory it took.

    That is the peak resident memory minus what was resident before, without what the first step of
    a process adds for good: pages of code, threads and their heaps.
    """
    mesh = make_mesh(devices=jax.devices()[:1])
    found, program = costs(config, mesh=mesh, terminal=terminal)
    training = build_training(config, mesh=mesh)
    shape, host = training.batch_shape, jax.device_get(training.state(training.random))
    rng = np.random.default_rng(0)
    batch: Any = {
        "image": rng.standard_normal(shape["image"].shape, np.float32),
        "label": rng.integers(0, 19, shape["label"].shape).astype(np.uint8),
    }
    where = replicated(mesh), batch_sharding(mesh)
    for steps in (1, 3):
        before = reset_peak()  # what compiling, or the first step, left behind
        assert before is not None, "only Linux reports how much memory a process takes"
        # Copies: otherwise a device may use the host's memory as its own.
        state, placed = jax.device_put((host, batch), where, may_alias=False)
        seconds = math.inf
        for _ in range(steps):
            begin = time.perf_counter()
            state, metrics = program(state, placed)
            metrics.loss.block_until_ready()
            seconds = min(seconds, time.perf_counter() - begin)
        assert bool(metrics.finite)
        held = peak_memory()
        assert held is not None
        del state, placed, metrics
        time.sleep(1)  # a program's results are ready before its memory is free
    return found, seconds, held - before


def _print(head: tuple[str, ...], lines: list[str], terminal: Terminal) -> None:
    terminal.line(f"| {' | '.join(head)} |\n|{'---:|' * len(head)}")
    for line in lines:
        terminal.line(line)


if __name__ == "__main__":
    main()
