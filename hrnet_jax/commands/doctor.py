"""Checks a dataset and reports findings and class frequencies, with a picture and as JSON."""

import time
from collections.abc import Mapping
from typing import Any

import numpy as np
from ml_collections import ConfigDict
from rich.bar import Bar
from rich.console import RenderableType
from rich.table import Table

from hrnet_jax.config.custom_data import dataset_of
from hrnet_jax.data.dataset import Dataset
from hrnet_jax.data.decode import decode
from hrnet_jax.data.examine import Statistics, class_weights, examine, spread
from hrnet_jax.data.findings import SUGGESTIONS, Finding, wrong_counts
from hrnet_jax.data.sources.bucket_cache import local_copy
from hrnet_jax.data.sources.folder import Source
from hrnet_jax.data.sources.open import open_source
from hrnet_jax.evaluation.visualize import overlay, sheet, write_png
from hrnet_jax.runs.paths import AnyPath, absolute, make_folder, to_path, write_json
from hrnet_jax.runs.terminal import Terminal

_SHOWN = 3  # files of each finding; the JSON report has all
_PICTURES = 8


def doctor(config: ConfigDict, *, workdir: AnyPath, terminal: Terminal) -> list[Finding]:
    """Check all splits of a dataset, print a report, and return the findings.

    Writes `report.json` and `samples.png` into <workdir>/doctor/.
    """
    dataset = dataset_of(config)
    root = local_copy(to_path(config.data.root), terminal=terminal)
    sources, findings = open_splits(root, dataset)
    total = sum(map(len, sources.values()))
    terminal.line(
        f"{dataset.name} in {absolute(to_path(config.data.root))}: "
        + " and ".join(f"{len(source)} {split}" for split, source in sources.items())
        + " examples."
    )
    begin = time.perf_counter()
    problems, statistics = examine(
        sources, dataset, track=lambda checked: terminal.track(checked, "Checking", total=total)
    )
    seconds = time.perf_counter() - begin
    terminal.line(
        f"Read every label and the header of every image in {seconds:.1f} s"
        f" ({total / max(seconds, 1e-9):.0f} examples/s)."
    )
    findings += [*wrong_counts(dataset, sources), *problems]
    if any(sums.class_pixels.any() for sums in statistics.values()):
        _print_frequencies(dataset, statistics, terminal)
    for finding in findings:
        _print_finding(finding, terminal)
    folder = workdir / "doctor"
    make_folder(folder)
    report = {
        "dataset": dataset.name,
        "findings": [vars(finding) for finding in findings],
        "splits": {split: _statistics(dataset, sums) for split, sums in statistics.items()},
    }
    write_json(folder / "report.json", report)
    _draw(sources, dataset, folder / "samples.png")
    verdict = f"{len(findings) or 'No'} problem{'s' * (len(findings) > 1)} found"
    terminal.line(
        f"{verdict}. Report: {folder / 'report.json'}    Samples: {folder / 'samples.png'}"
    )
    return findings


def open_splits(root: str | AnyPath, dataset: Dataset) -> tuple[dict[str, Source], list[Finding]]:
    """Open every split with its complete pairs; return the incomplete ones as findings.

    Raises:
        FileNotFoundError: no split has its folders.
    """
    sources, findings = {}, []
    for split in dataset.splits:

        def on_problem(problem: str, names: list[str], split: str = split) -> None:
            findings.append(_incomplete(split, problem, names))

        try:
            sources[split] = open_source(root, dataset, split, on_problem=on_problem)
        except FileNotFoundError as error:
            findings.append(_incomplete(split, str(error), []))
    if not sources:
        raise FileNotFoundError(findings[0].problem)
    return sources, findings


def _incomplete(split: str, problem: str, names: list[str]) -> Finding:
    return Finding(
        kind="pairs",
        split=split,
        problem=problem,
        files=names,
        details=[],
        suggestion=SUGGESTIONS["pairs"],
        stops_training=True,
    )


def _print_finding(finding: Finding, terminal: Terminal) -> None:
    terminal.warn(f"{finding.split}: {finding.problem}")
    for text in finding.details[:_SHOWN]:
        terminal.line("  - " + text.replace("\n", "\n    "))
    if len(finding.details) > _SHOWN:
        terminal.line(f"  - and {len(finding.details) - _SHOWN} more")
    if finding.suggestion:
        terminal.line(f"  -> {finding.suggestion}")


def _print_frequencies(
    dataset: Dataset, statistics: Mapping[str, Statistics], terminal: Terminal
) -> None:
    """Print how often each class occurs, and class weights that compensate for it."""
    table = Table("class", title="Share of the pixels, and label files that hold the class")
    table.columns[0].no_wrap = True
    first = next(iter(statistics.values()))
    weights = class_weights(first.class_pixels)
    for split in statistics:
        table.add_column(split, justify="right", no_wrap=True)
        table.add_column("labels", justify="right", no_wrap=True)
    table.add_column("")
    table.add_column("weight", justify="right")
    for index, name in enumerate(dataset.classes):
        cells: list[RenderableType] = [name]
        for sums in statistics.values():
            share = sums.class_pixels[index] / max(sums.class_pixels.sum(), 1)
            cells += [f"{share:.2%}" if share else "none", f"{sums.class_labels[index]}"]
        bar = Bar(max(first.class_pixels.max(), 1), 0, first.class_pixels[index], width=12)
        table.add_row(*cells, bar, f"{weights[index]:.2f}")
    terminal.table(table)
    for split, sums in statistics.items():
        known = int(sums.class_pixels.sum())
        ignored = 1 - known / max(int(sums.pixels.sum()), 1)
        kinds = ", ".join(f"{count} {kind}" for kind, count in sums.image_kinds.items())
        sizes = sorted(sums.sizes, key=lambda size: (-sums.sizes[size], size))
        shown = ", ".join(f"{sums.sizes[s]} of {s[0]}x{s[1]}" for s in sizes[:3])
        more = f" and {len(sizes) - 3} more sizes" if len(sizes) > 3 else ""
        terminal.line(
            f"{split}: {ignored:.1%} of the pixels have no class. Images: {kinds}; {shown}{more}."
        )
    listed = ", ".join(f"{weight:.3g}" for weight in weights)
    terminal.line(
        "To give rare classes more weight (inverse square roots of the shares, 1 on average):\n"
        f"  --config.train.class_weights='({listed}{',' * (len(weights) == 1)})'"
    )


def _statistics(dataset: Dataset, sums: Statistics) -> dict[str, Any]:
    by_class = zip(dataset.classes, sums.class_pixels, sums.class_labels, strict=True)
    return {
        "examples": sums.examples,
        "values": {int(value): int(sums.pixels[value]) for value in np.flatnonzero(sums.pixels)},
        "classes": {
            name: {"pixels": int(pixels), "labels": int(labels)}
            for name, pixels, labels in by_class
        },
        "image_kinds": dict(sums.image_kinds),
        "sizes": {f"{height}x{width}": count for (height, width), count in sums.sizes.items()},
    }


def _draw(sources: Mapping[str, Source], dataset: Dataset, path: AnyPath) -> None:
    """Draw some examples with an overlay of their labels."""
    tiles, present = [], set[int]()
    for split, source in sources.items():
        for index in spread(len(source), _PICTURES // len(sources)):
            try:
                example = decode(source[index], dataset)
            except (ValueError, OSError):  # is among the findings
                continue
            image, label = example["image"], example["label"]
            present |= set(np.unique(label).tolist())
            size = f"{image.shape[0]}x{image.shape[1]}"
            tiles.append(
                (f"{split}: {example['id']}  {size}", overlay(image, label, dataset.palette))
            )
    if tiles:
        legend = [(dataset.classes[c], dataset.palette[c]) for c in sorted(present - {255})]
        legend += [("no class", (0, 0, 0))] if 255 in present else []
        write_png(path, sheet(tiles, columns=2, legend=legend, width=480))
