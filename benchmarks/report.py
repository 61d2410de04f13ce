"""Write docs/performance.md from the JSON files of the benchmarks: `make benchmark`.

python -m benchmarks.report FOLDER
"""

import functools
import json
import statistics
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt

from benchmarks import compile as compiling
from benchmarks.job import medians, shares
from benchmarks.kernels import HEADS, rows_of
from benchmarks.scaling import KINDS, per_pixel
from hrnet_jax.runs.paths import write_text

DOCS = Path(__file__).parent.parent / "docs"
Rows = list[list[str]]


def main() -> None:
    """Write the page and its pictures from the files that exist."""
    mpl.use("agg")
    folder = Path(sys.argv[1])
    found = {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}
    parts = [
        "# Performance\n",
        "Written by `make benchmark` from its measurements. Each section begins with the command"
        " that\nrepeats it. Ratios compare programs within a round: the time of mmsegmentation"
        " 1.2.2 (mmseg, PyTorch\non CPUs) divided by ours, so above 1 we are faster. Both ran"
        " alone, with all threads, without a GPU\nor TPU. What was tried on CPUs, with and without"
        " success, is in [cpu.md](cpu.md).\n",
    ]
    for name, (title, section) in SECTIONS.items():
        if name in found:
            parts += [f"\n## {title}\n", f"`python -m benchmarks.{name}`\n"]
            parts += [conditions(found[name]), *section(found[name])]
    write_text(DOCS / "performance.md", "\n".join(parts).rstrip() + "\n")


def conditions(report: dict[str, Any]) -> str:
    """One line: where and how it was measured."""
    said = report.get("conditions", {})
    return "; ".join(f"{name} {_text(value)}" for name, value in said.items()) + ".\n"


def compared(report: dict[str, Any], *, picture: str) -> Iterator[str]:
    """Tables and bars of ratios, for programs that ran in turns."""
    bars: dict[str, dict[str, list[float]]] = {}
    rows: Rows = []
    for title, result in report.items():
        if title == "conditions":
            continue
        bars[title] = result["ratios"]
        for program, turns in result["turns"].items():
            ratio = next(
                (v for k, v in result["ratios"].items() if k.startswith(f"{program} /")), None
            )
            rows.append([
                title, program, *(_median(turns, what, digits)
                for what, digits in (("seconds", 3), ("CPU seconds", 3), ("peak MB", 0))),
                _spread(ratio) if ratio else "",
            ])  # fmt: skip
    yield table(["network", "program", "s", "CPU s", "peak MB", "time / ours [min, max]"], rows)
    draw_bars(bars, DOCS / "images" / picture)
    if any("torch.compile" in row[1] for row in rows):
        yield "\nRows of `torch.compile` come with `--compile`."
    yield f"\n![Ratios](images/{picture})\n"


def compile_(report: dict[str, Any]) -> Iterator[str]:
    """Seconds of each stage."""
    rows = [compiling.row_of(what, row) for what, row in report.items() if what != "conditions"]
    yield table(list(compiling.HEADS), rows)


def scaling(report: dict[str, Any]) -> Iterator[str]:
    """Time per pixel, as a table and as a picture."""
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
    rows: Rows = []
    for title, cases in report.items():
        if title == "conditions":
            continue
        costs = {kind: per_pixel(cases, kind) for kind in KINDS}
        for name in cases:
            row = [title, name]
            for cost in costs.values():
                row += [f"{1e6 * cost[name]:.3f}", f"{cost[name] / min(cost.values()):.2f}"]
            rows.append(row)
        axis = axes[0 if title.endswith("size") else 1]
        for kind, cost in costs.items():
            values = [1e6 * value for value in cost.values()]
            axis.plot(list(cost), values, marker="o", label=f"{title.split()[0]}, {kind}")
        axis.set(xlabel=title.split()[1], ylabel="µs per pixel", ylim=(0, None))
        axis.tick_params("x", rotation=30)
        axis.legend()
    figure.savefig(DOCS / "images" / "scaling.png", dpi=110)
    plt.close(figure)
    heads = [
        name for kind in KINDS for name in (f"{kind} per megapixel", "relative to the cheapest")
    ]
    yield table(["", "", *heads], rows)
    yield "\n![Cost by pixels and batch](images/scaling.png)\n"
    yield SCALING_NOTE


def data(report: dict[str, Any]) -> Iterator[str]:
    """Rates, ratios, and where the time of an image goes."""
    turns = report["turns"]
    names = list(next(iter(turns.values()))[0])
    yield table(
        ["median of the turns", *turns],
        [[what, *(_median(values, what, 4) for values in turns.values())] for what in names],
    )
    rows = [
        [f"{what}: {pair}", *(f"{value:.2f}" for value in values.values())]
        for pair, ratios in report["ratios"].items()
        for what, values in ratios.items()
    ]
    yield "\n" + table(["ratio within a round", "median", "min", "max"], rows)
    stages = report["stages_ms"]
    yield "\n" + table(
        ["stage", "ms of CPU per image"], [[k, f"{v:.1f}"] for k, v in stages.items()]
    )
    if "doctor" in report:
        yield f"\nThe doctor reads {report['doctor']}.\n"


def evaluate(report: dict[str, Any]) -> Iterator[str]:
    """Both modes, and the parts of one image's time."""
    rows: Rows = []
    for mode in ("whole", "ms+flip"):
        for name, values in report[mode]["seconds per image"].items():
            rows.append([mode, f"{name}, s per image", _spread(values)])
        for name, values in report[mode]["ratios"].items():
            rows.append([mode, name, _spread(values)])
    yield table(["mode", "", "median [min, max]"], rows)
    total = report["shares"]["one image in total"]
    shares = [[k, f"{v:.3f}", f"{v / total:.0%}"] for k, v in report["shares"].items()]
    yield "\n" + table(["share, whole mode", "s", ""], shares)


def job(report: dict[str, Any]) -> Iterator[str]:
    """Images per second of the job and of its parts alone; where the time of a start goes."""
    rows: Rows = []
    for case, turns in report["images per second"].items():
        ways = turns | {"training / the slower of both": shares(turns)}
        rows += [[case, way, _spread(values)] for way, values in ways.items()]
    yield table(["case", "", "images/s, median [min, max]"], rows)
    for kind, rounds in report.get("start", {}).items():
        parts = medians(rounds).items()
        yield "\n" + table(
            [f"start, {kind}", "s", "CPU s"],
            [[part, *(f"{seconds:.2f}" for seconds in times)] for part, times in parts],
        )


def ragged(report: dict[str, Any]) -> Iterator[str]:
    """All figures in one table."""
    yield table(["", ""], [[name, _text(value)] for name, value in report["figures"].items()])


def kernels(report: dict[str, Any]) -> Iterator[str]:
    """Kinds of kernels of each program."""
    for what, found in report.items():
        if what != "conditions":
            middle = statistics.median(found["seconds"])
            yield table([f"{what}, {1e3 * middle:.0f} ms", *HEADS], rows_of(found)) + "\n"
    yield KERNELS_NOTE


def roofline(report: dict[str, Any]) -> Iterator[str]:
    """This machine, then accelerators, by layer group."""
    peaks = "; ".join(f"{name}: {value:.0f}" for name, value in report["peaks"].items())
    yield (
        f"Measured peaks of this machine, all threads: {peaks}. `Least s` is the time that the\n"
        "faster of the two products and that bandwidth allow, kernel by kernel. Each kernel reads\n"
        "every array it needs once and writes once what others need (`benchmarks/layers.py`).\n"
    )
    best = 1e9 * max(v for k, v in report["peaks"].items() if k.startswith("GFLOP/s"))
    rows: Rows = []
    for name, row in report["measured"].items():
        seconds = statistics.median(row["seconds"])
        rows.append([
            name, _spread(row["seconds"]), f"{row['flops'] / 1e9:.1f}",
            f"{row['bytes'] / 1e6:,.0f}", f"{row['flops'] / seconds / 1e9:.0f}",
            f"{row['flops'] / seconds / best:.0%}", f"{row['bytes'] / seconds / 1e9:.1f}",
            f"{row['least seconds']:.3f}",
            f"{row['least seconds'] / seconds:.0%}",
        ])  # fmt: skip
    yield table(
        ["program", "s [min, max]", "GFLOP", "least MB", "GFLOP/s", "% of peak", "GB/s",
         "least s", "least s / s"], rows,
    )  # fmt: skip
    yield ROOFLINE_NOTE
    summary: Rows = []
    for name, groups in report["paper"].items():
        row = _together(groups.values())
        summary.append([
            name, str(row["products"]), f"{row['flops'] / 1e9:.1f}", f"{row['bytes'] / 1e6:,.0f}",
            f"{row['bytes outside products'] / row['bytes']:.0%}",
            *(f"{1e3 * row[chip]['seconds']:.2f} ({_memory(row[chip])})" for chip in _chips(row)),
            f"{groups['head']['H100']['seconds'] / row['H100']['seconds']:.0%}",
        ])  # fmt: skip
    chips = _chips(next(iter(next(iter(report["paper"].values())).values())))
    yield table(
        ["program", "products", "GFLOP", "least MB", "bytes outside products",
         *(f"{chip}, ms (bound by memory)" for chip in chips), "head, H100"], summary,
    )  # fmt: skip
    for name, groups in report["paper"].items():
        yield f"\n{name}:\n"
        yield table(
            ["layer group", "GFLOP", "least MB", "FLOP/byte",
             *(f"{chip}, µs (bound by memory)" for chip in chips)],
            [
                [group, f"{row['flops'] / 1e9:.2f}", f"{row['bytes'] / 1e6:.1f}",
                 f"{row['flops'] / row['bytes']:.0f}",
                 *(f"{1e6 * row[chip]['seconds']:.1f} ({_memory(row[chip])})" for chip in chips)]
                for group, row in groups.items()
            ],
        )  # fmt: skip


def _chips(group: dict[str, Any]) -> list[str]:
    return [name for name, value in group.items() if isinstance(value, dict)]


def _memory(on_chip: dict[str, float]) -> str:
    return f"{on_chip['bound by memory'] / on_chip['seconds']:.0%}"


def _together(groups: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Sums of figures, and of figures within."""
    first, *others = groups
    return {
        name: _together([value, *(other[name] for other in others)])
        if isinstance(value, dict)
        else value + sum(other[name] for other in others)
        for name, value in first.items()
    }


SCALING_NOTE = """Images up to 512x512 use Eigen's convolutions: its threads share each of them.
Larger ones use XLA's own library, which needs less CPU time and leaves more of it idle.
"""

KERNELS_NOTE = """
Convolutions limit inference, and those of W48 run as fast as this machine multiplies: half of the
peak of all threads (next section) is the peak of one, which is what such a convolution gets.
Threads wait little. They are busy at least for the thread-ms, longer in convolutions that two of
them share, and at most for the CPU seconds (first section). In mmsegmentation all threads share
each convolution. It comes as near to the peak only with W48's channels, so there is least to gain
on it there.
"""

ROOFLINE_NOTE = """
### Accelerators, on paper

Nothing below was run. Arithmetic and bytes are those of the traced program in bfloat16, not of one
compiled for CPUs, gathered into kernels as a perfect compiler would. Rates are from the data sheets
([scale.md](scale.md)). For each byte of memory traffic an H100 can do 295 operations and a TPU v5e
241; a kernel with fewer waits for memory. The percentage in brackets is the share of the time spent
in such kernels. "padded" is v5e with the last axis of every array and the sides of every product
padded to multiples of 128, as TPUs lay out arrays. Training: 2 crops of 512x1024, as published for
each GPU.

What follows:
* **Nearly everything waits for memory.** A 3x3 convolution of 18 channels does 81 FLOP per byte,
  one of 144 channels 648, before weights and residuals count. In inference, no part of W18 has
  enough arithmetic for an H100, and only strides 16 and 32 for a v5e; of W48 it is strides 8 to 32.
  Stage 1, with 256 channels at stride 4, is a third of W18's training step.
* **The head** is a product with as many channels as all branches together at stride 4: little
  arithmetic, one of the largest arrays. As published (all branches upsampled, then mixed) it would
  take eight times the arithmetic and write and read one more array of that size.
* **Training is normalisation.** The column "bytes outside products" counts passes that only
  normalise or compute means. Next steps on GPUs: mean and variance in one pass, in the kernel of
  the convolution before them; and more images per update, which reads and writes all parameters in
  float32.
* **On TPUs, channels**: of 128 lanes 18 are used. Next step: fold two or four neighbouring columns
  into the channels of the stride-4 and stride-8 branches; W48 needs it at stride 4 only.
* At these bounds W18-Small is so short that starting its kernels (some hundreds of products, a few
  microseconds each) takes longer than running them. It needs larger batches or one captured graph,
  not faster kernels.
"""

SECTIONS = {
    "inference": (
        "Inference",
        functools.partial(compared, picture="inference.png"),
    ),
    "training": ("Training step", functools.partial(compared, picture="training.png")),
    "compile": ("Compiling", compile_),
    "scaling": ("Cost by pixels and batch", scaling),
    "data": ("Input pipeline", data),
    "evaluate": ("Full evaluation, files to confusion matrix", evaluate),
    "job": ("The whole job", job),
    "ragged": ("Images of many sizes", ragged),
    "kernels": ("Where the time goes", kernels),
    "roofline": ("How close to the limits", roofline),
}


def draw_bars(bars: dict[str, dict[str, list[float]]], path: Path) -> None:
    """Median ratio of each program, with the range of the rounds."""
    figure, axis = plt.subplots(figsize=(8, 0.45 * sum(map(len, bars.values())) + 1))
    position, ticks = 0.0, []
    for title, ratios in bars.items():
        for pair, values in ratios.items():
            middle = statistics.median(values)
            errors = [[middle - min(values)], [max(values) - middle]]
            axis.barh(position, middle, xerr=errors, color="#bbb" if "again" in pair else "#48a")
            ticks.append((position, f"{title}: {pair.split(' / ')[0]}"))
            position -= 1
        position -= 0.5
    axis.set_yticks([at for at, _ in ticks], [name for _, name in ticks], fontsize=8)
    axis.axvline(1, color="black", linewidth=1)
    axis.set_xlabel("time over ours (above 1: ours is faster)")
    figure.savefig(path, dpi=110, bbox_inches="tight")
    plt.close(figure)


def table(heads: list[str], rows: Rows) -> str:
    """Markdown."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _median(turns: list[dict], what: str, digits: int) -> str:
    value = statistics.median(turn[what] for turn in turns)
    return f"{value:.{digits}g}" if digits == 4 else f"{value:.{digits}f}"


def _spread(values: list[float]) -> str:
    return f"{statistics.median(values):.2f} [{min(values):.2f}, {max(values):.2f}]"


def _text(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()
