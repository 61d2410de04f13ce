"""The published results as tables: in the terminal (--mode zoo) and in the documents.

python -m hrnet_jax.commands.list_zoo    # writes the tables of README.md, configs/ and docs/
"""

import contextlib
import itertools
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from rich.table import Column, Table

from hrnet_jax import zoo
from hrnet_jax.config import recipes
from hrnet_jax.runs.paths import AnyPath, write_text
from hrnet_jax.runs.stored_weights import FOLDER
from hrnet_jax.runs.terminal import Terminal
from hrnet_jax.zoo import BACKBONES, DATASETS, HARDWARE, IMAGENET, ROWS, Row


def list_zoo(words: Sequence[str], *, folder: AnyPath, terminal: Terminal) -> None:
    """Print the rows that match all words, and which of them `folder` holds.

    Raises:
        ValueError: no row matches; lists the words to choose from.
    """
    rows = zoo.select(words)
    terminal.table(table(rows, folder=folder))
    if words:
        terminal.line("\n\n".join(map(describe, rows)))
    else:
        terminal.line("--mode zoo cityscapes hr18 160k: one row with its addresses.")


def here(row: Row, *, folder: AnyPath) -> str:
    """Describe what `folder` holds of a row: nothing, "converted", or the measured mIoU."""
    weights = folder / row.name
    if not (weights / FOLDER).is_dir():
        return ""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        result = json.loads((weights / "eval" / "scores.json").read_text())["published"]
        return f"{result['measured']:.2f} ({result['protocol']})"
    return "converted"


def table(rows: Iterable[Row], *, folder: AnyPath) -> Table:
    """Lay out rows for a terminal; the last column is what `folder` holds of them."""
    figures = (Column(name, justify="right") for name in ("mIoU", "ms+flip", "mem", "fps"))
    layout = Table(
        Column("name", overflow="fold"), *figures, f"in {folder}",
        caption=HARDWARE, caption_justify="left",
    )  # fmt: skip
    for row in rows:
        layout.add_row(row.name, *_figures(row), here(row, folder=folder))
    return layout


def describe(row: Row) -> str:
    """List the addresses of a row, and the commands that fetch, score and train it."""
    lines = [
        row.name,
        f"  weights  {row.url}",
        f"  log      {row.log_url}",
        f"  get      {row.fetch_command}",
        f"  score    python -m hrnet_jax.main --mode eval --checkpoint {row.name}",
        f"  train    python -m hrnet_jax.main --config {row.config}",
    ]
    for old in row.older:
        lines.append(
            f"  older    {row.file(old)}: mIoU {old.miou:.2f}, ms+flip {old.miou_ms_flip:.2f}"
        )
    return "\n".join(lines)


def _figures(row: Row) -> tuple[str, str, str, str]:
    return (
        f"{row.upload.miou:.2f}",
        f"{row.upload.miou_ms_flip:.2f}",
        "" if row.memory is None else f"{row.memory:.1f}",
        "" if row.fps is None else f"{row.fps:.2f}",
    )


def overview() -> str:
    """Write the README's table: mIoU only."""
    lines = [
        "| published mIoU (ms+flip), by steps | W18-Small | W18 | W48 |",
        "|---|--:|--:|--:|",
    ]
    groups = itertools.groupby(ROWS, key=lambda row: (row.dataset, row.schedule))
    for (dataset, schedule), group in groups:
        cells = {
            row.variant: f"{row.upload.miou:.2f} ({row.upload.miou_ms_flip:.2f})" for row in group
        }
        values = " | ".join(cells.get(variant, "") for variant in BACKBONES)
        lines.append(f"| {DATASETS[dataset]}, {schedule} | {values} |")
    return "\n".join(lines)


def markdown() -> str:
    """Write the table of configs/README.md: all rows with their files."""
    lines = []
    for dataset, group in itertools.groupby(ROWS, key=lambda row: row.dataset):
        lines += [
            f"## {DATASETS[dataset]}",
            "",
            "| backbone | `--config` | mIoU | ms+flip | mem | fps | `--zoo` | files |",
            "|---|---|--:|--:|--:|--:|---|---|",
        ]
        for row in group:
            lines.append(
                f"| {BACKBONES[row.variant]} | `{row.config}` | {' | '.join(_figures(row))} "
                f"| `{row.name}` | [model]({row.url}) [log]({row.log_url}) |"
            )
        lines.append("")
    lines += [
        HARDWARE,
        "",
        "Uploaded again in August 2021, under the same name with other figures:",
        "",
    ]
    for row in ROWS:
        for old in row.older:
            lines.append(
                f"- `{row.file(old)}` had {old.miou:.2f} ({old.miou_ms_flip:.2f}),\n"
                f"  `{row.file()}` has {row.upload.miou:.2f} ({row.upload.miou_ms_flip:.2f})."
            )
    return "\n".join(lines)


def commands() -> str:
    """Write the table of docs/reproduce.md: every run with its expected mIoU."""
    lines = [
        "| published mIoU (ms+flip) | recipe | `--config.init_from=` | steps of images |",
        "|--:|---|---|--:|",
    ]
    for row in ROWS:
        train = recipes.of_row(row).train
        backbone = IMAGENET[row.variant].rpartition("/")[2]
        lines.append(
            f"| {row.upload.miou:.2f} ({row.upload.miou_ms_flip:.2f}) | `--config {row.config}` "
            f"| `{backbone}` | {train.steps:,} of {train.batch_size} |"
        )
    return "\n".join(lines)


def with_table(text: str, content: str, *, mark: str = "zoo") -> str:
    """Put `content` between the marks of a document: <!-- zoo --> and <!-- /zoo -->."""
    begin, end = f"<!-- {mark} -->", f"<!-- /{mark} -->"
    head, _, rest = text.partition(begin)
    _, is_marked, tail = rest.partition(end)
    if not is_marked:
        raise ValueError(f"The document has no marks {begin} and {end}.")
    return f"{head}{begin}\n{content}\n{end}{tail}"


DOCUMENTS = {
    "README.md": overview,
    "configs/README.md": markdown,
    "docs/reproduce.md": commands,
}


if __name__ == "__main__":
    for name, make in DOCUMENTS.items():
        write_text(name, with_table(Path(name).read_text(), make()))
