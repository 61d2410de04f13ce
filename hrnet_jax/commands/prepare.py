"""Prepares a dataset for training: makes missing label PNGs, writes ArrayRecord shards.

Everything is written under a temporary name and renamed once it is checked, so that an interrupted
run leaves nothing that looks complete; the same command starts again.
"""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from hrnet_jax.data.context_labels import ANNOTATIONS, Annotations, write_labels
from hrnet_jax.data.dataset import Dataset
from hrnet_jax.data.findings import wrong_counts
from hrnet_jax.data.sources.array_record import VERSION, ArrayRecordSource, write
from hrnet_jax.data.sources.folder import Record, Source
from hrnet_jax.data.sources.open import open_source
from hrnet_jax.runs.paths import AnyPath, is_remote, make_folder, to_path
from hrnet_jax.runs.terminal import Terminal


def prepare(
    root: str | os.PathLike[str],
    dataset: Dataset,
    *,
    output: AnyPath | None,  # parent of the folder <name>/<version>; None: labels only
    terminal: Terminal,
) -> None:
    """Make a dataset's missing labels, then its ArrayRecord shards.

    Raises:
        ValueError: a path is in a bucket, or the written shards differ from the source.
    """
    root = to_path(root)
    for path in (root, *([output] if output else [])):
        if is_remote(path):
            raise ValueError(
                f"{path} is in a bucket, but data are prepared on a local disk; give a local "
                "folder, then copy --output with `gcloud storage cp --recursive`."
            )
    made_labels = _make_context_labels(Path(root), dataset, terminal)
    if output is None:
        if made_labels:
            return
        raise ValueError("--output is missing; give the folder for the ArrayRecord shards.")
    final = output / dataset.name / VERSION
    sources = {split: open_source(root, dataset, split) for split in dataset.splits}
    if final.exists():
        terminal.line(f"{final} exists already; checking it.")
        _check(final, sources, dataset, terminal)
        return
    make_folder(output)
    partial = output / f".{dataset.name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    try:
        for finding in wrong_counts(dataset, sources):
            terminal.warn(f"{finding.split}: {finding.problem}. {finding.suggestion}")
        records = {split: _tracked(source, split, terminal) for split, source in sources.items()}
        write(records, dataset, folder=partial)
        _check(partial, sources, dataset, terminal)
        make_folder(final.parent)
        os.rename(partial, final)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    terminal.line(f"Use it with --config.data.root={final}")


def _tracked(source: Source, split: str, terminal: Terminal) -> Iterator[Record]:
    terminal.line_if_plain(f"Writing {len(source)} examples of {split} ...")
    for index in terminal.track(range(len(source)), f"Writing {split}", total=len(source)):
        yield source[index]


def _check(folder: Path, sources: dict[str, Source], dataset: Dataset, terminal: Terminal) -> None:
    for split, source in sources.items():
        written = ArrayRecordSource(folder, dataset, split)
        if len(written) != len(source):
            raise ValueError(
                f"{folder} holds {len(written)} examples of {split}, not the {len(source)} of the "
                "source; remove the folder and start again."
            )
        indices = terminal.track(range(len(written)), f"Checking {split}", total=len(written))
        if damaged := [index for index in indices if not written.is_intact(index)]:
            raise ValueError(
                f"{len(damaged)} examples of {split} in {folder} do not match their CRC-32, first "
                f"{written[damaged[0]].id}; remove the folder and start again."
            )
        terminal.line(f"{split}: {len(written)} examples, every CRC-32 correct")


def _make_context_labels(root: Path, dataset: Dataset, terminal: Terminal) -> bool:
    labels, annotations = dataset.splits["train"][0].labels, root / ANNOTATIONS
    is_context = dataset.name in ("pascal_context", "pascal_context_59")
    if not is_context or labels is None or not annotations.exists() or (root / labels).exists():
        return False
    with terminal.announced(f"Reading {annotations}"):
        content = Annotations(annotations)
    write_labels(
        root,
        content,
        track=lambda images: terminal.track(images, "Drawing labels", total=len(content.images)),
    )
    terminal.line(f"{root / labels}: {len(content.images)} label files")
    return True
