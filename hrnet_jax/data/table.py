"""Write all datasets as a table: python -m hrnet_jax.data.table > docs/datasets.md"""

from collections.abc import Iterable

import numpy as np

from hrnet_jax.data.dataset import Dataset, Part, ranges
from hrnet_jax.data.datasets import DATASETS
from hrnet_jax.data.types import IGNORE_LABEL


def markdown(datasets: Iterable[Dataset]) -> str:
    """Describe datasets: counts, label mapping, layout, and where to get them."""
    datasets = list(datasets)
    lines = [
        "# Datasets",
        "",
        "Written by `python -m hrnet_jax.data.table` from the descriptions in the code; a test",
        "keeps both equal. Label files are read as published: the mapping below turns their values",
        f"into classes, {IGNORE_LABEL} is ignored in loss and scores, and any other value is an",
        "error that names file, value and position.",
        "",
        "`config.data.root` is the folder described below, a zip file of it, a folder with several",
        "zip files that together hold it, or the output of `--mode prepare --config CONFIG",
        "--output=DIR`: ArrayRecord shards, which suit network storage. All give the same examples",
        "bit for bit. Your own folders need no code: see `configs/custom.py`.",
        "",
        "| `config.data.name` | classes | train | val | label value → class | ignored values |",
        "|--|--:|--:|--:|--|--|",
    ]
    for dataset in datasets:
        counts = " | ".join(str(dataset.counts.get(split, "?")) for split in ("train", "val"))
        ignored = sorted(set(dataset.label_map) - set(dataset.class_values))
        lines.append(
            f"| `{dataset.name}` | {dataset.num_classes} | {counts} | {mapping_in_words(dataset)} |"
            f" {ranges(np.array(ignored)) if ignored else 'none'} |"
        )
    for dataset in datasets:
        lines += ["", f"## {dataset.name}", "", "```text", *dataset.obtain.splitlines(), "```", ""]
        lines += ["| split | images | labels | list |", "|--|--|--|--|"]
        for split, parts in dataset.splits.items():
            lines += [f"| {split} | {_row(part)} |" for part in parts]
    return "\n".join(lines) + "\n"


def mapping_in_words(dataset: Dataset) -> str:
    """Format the label mapping as ranges: "1-150 → 0-149"."""
    values, classes = np.array(sorted(dataset.class_values.items())).T
    breaks = np.flatnonzero((np.diff(values) != 1) | (np.diff(classes) != 1)) + 1
    runs = zip(np.split(values, breaks), np.split(classes, breaks), strict=True)
    return ", ".join(f"{ranges(raw)} → {ranges(indices)}" for raw, indices in runs)


def _row(part: Part) -> str:
    images = f"`{part.images}/**/*{part.image_suffix}`"
    labels = f"`{part.labels}/**/*{part.label_suffix}`"
    lists = " and ".join(f"`{name}`" for name in part.lists) or "all, sorted"
    without = "".join(f", without `{name}`" for name in part.exclude_lists)
    row = f"{images} | {labels} | {lists}{without}"
    if part.fallback:
        row += f" |\n| else | {_row(part.fallback)}"
    return row


if __name__ == "__main__":
    print(markdown(DATASETS.values()), end="")
