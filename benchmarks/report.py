"""docs/performance.md from the JSON files that the benchmarks left: `make benchmark`.

python -m benchmarks.report FOLDER
"""

import functools
import json
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt

from benchmarks.job import medians, shares
from hrnet_jax.files import write_text

DOCS = Path(__file__).parent.parent / "docs"
Rows = list[list[str]]


def main() -> None:
    """Write the page and its pictures from whatever files are there."""
    mpl.use("agg")
    folder = Path(sys.argv[1])
    found = {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}
    parts = [
        "# Performance\n",
        "Written by `make benchmark` from what it measured; each section begins with the command"
        " that repeats\nit. Ratios are the peer's time over ours within a round, so above 1 we are"
        " faster; the peer is\nmmsegmentation 1.2.2 on PyTorch for CPUs. Both ran alone, with all"
        " threads. No GPU or TPU was at hand.\n",
    ]
    for name, (title, section) in SECTIONS.items():
        if name in found:
            parts += [f"\n## {title}\n", f"`python -m benchmarks.{name}`\n"]
            parts += [conditions(found[name]), *section(found[name])]
    write_text(DOCS / "performance.md", "\n".join(parts).rstrip() + "\n")


def conditions(report: dict[str, Any]) -> str:
    """One line that says where and how."""
    said = report.get("conditions", {})
    return "; ".join(f"{name} {_text(value)}" for name, value in said.items()) + ".\n"


def compared(report: dict[str, Any], *, picture: str) -> Iterator[str]:
    """Tables and ratio bars of programs that took turns."""
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
    yield table(["network", "program", "s", "CPU s", "peak MB", "times ours [min, max]"], rows)
    draw_bars(bars, DOCS / "images" / picture)
    yield f"\n![Ratios](images/{picture})\n"


def compile_(report: dict[str, Any]) -> Iterator[str]:
    """Seconds of each stage."""
    rows = [
        [name, *(f"{value:.2f}" for value in list(row.values())[:-1]), f"{row['peak MB']:.0f}"]
        for name, row in report.items()
        if name != "conditions"
    ]
    yield table(["program", "model, s", "tracing", "lowering", "compiling", "peak MB"], rows)


def scaling(report: dict[str, Any]) -> Iterator[str]:
    """Time per pixel, as a table and as a picture."""
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
    rows: Rows = []
    for title, cases in report.items():
        if title == "conditions":
            continue
        costs = {
            name: 1e6 * statistics.median(case["seconds"]) / case["pixels"]
            for name, case in cases.items()
        }
        rows += [
            [title, name, f"{cost:.3f}", f"{cost / min(costs.values()):.2f}"]
            for name, cost in costs.items()
        ]
        axis = axes[0 if title.endswith("size") else 1]
        axis.plot(list(costs), list(costs.values()), marker="o", label=title.split()[0])
        axis.set(xlabel=title.split()[1], ylabel="µs per pixel", ylim=(0, None))
        axis.tick_params("x", rotation=30)
        axis.legend()
    figure.savefig(DOCS / "images" / "scaling.png", dpi=110)
    plt.close(figure)
    yield table(["", "", "µs per pixel", "of the cheapest"], rows)
    yield "\n![Cost against pixels and batch](images/scaling.png)\n"


def data(report: dict[str, Any]) -> Iterator[str]:
    """Turns, ratios, and where the time of an image goes."""
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
    """Both modes, and the shares of one."""
    rows: Rows = []
    for mode in ("whole", "ms+flip"):
        for name, values in report[mode]["seconds per image"].items():
            rows.append([mode, f"{name}, s per image", _spread(values)])
        for name, values in report[mode]["ratios"].items():
            rows.append([mode, name, _spread(values)])
    yield table(["mode", "", "median [min, max]"], rows)
    total = report["shares"]["an image, all in all"]
    shares = [[k, f"{v:.3f}", f"{v / total:.0%}"] for k, v in report["shares"].items()]
    yield "\n" + table(["share, whole mode", "s", ""], shares)


def job(report: dict[str, Any]) -> Iterator[str]:
    """Images per second of the whole and of its parts alone; where a start goes."""
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
    yield table(["", ""], [[name, _text(value)] for name, value in report.items()])


SECTIONS = {
    "inference": ("Inference", functools.partial(compared, picture="inference.png")),
    "training": ("Training step", functools.partial(compared, picture="training.png")),
    "compile": ("Compiling", compile_),
    "scaling": ("Cost against pixels and batch", scaling),
    "data": ("Input pipeline", data),
    "evaluate": ("Full evaluation, files to confusion matrix", evaluate),
    "job": ("The whole job", job),
    "ragged": ("Images of many sizes", ragged),
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
