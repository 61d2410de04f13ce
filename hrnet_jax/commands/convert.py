"""Converts weight files to checkpoints and back: the commands of `convert/` as functions."""

import collections
import json
from typing import Any

import jax
import numpy as np
from rich.table import Column, Table
from rich.text import Text

from hrnet_jax import models, zoo
from hrnet_jax.config import recipes
from hrnet_jax.config.custom_data import dataset_of
from hrnet_jax.config.stored import from_dict
from hrnet_jax.data.datasets import DATASETS
from hrnet_jax.interop.class_names import ClassNames, class_names
from hrnet_jax.interop.infer import check_classes, check_network, classes_of, summarize, variant_of
from hrnet_jax.interop.keys import torch_state_dict
from hrnet_jax.interop.pth_write import write_pth
from hrnet_jax.interop.read import META_KEY, Source, read_source
from hrnet_jax.interop.safetensors import write_safetensors
from hrnet_jax.interop.weights import HeadPolicy, Loaded, load, start_from
from hrnet_jax.runs.paths import AnyPath, size_of, to_path
from hrnet_jax.runs.stored_weights import Weights, load_weights, save_weights

Report = dict[str, str]  # rows of one table


def to_checkpoint(
    path: str | AnyPath,
    folder: str | AnyPath,
    *,
    config: dict[str, Any] | None = None,
    head: HeadPolicy = "strict",
    any_hash: bool = False,
) -> Report:
    """Convert a weight file into a checkpoint that evaluation, prediction and training take.

    Args:
        path: a .pth or .safetensors file.
        folder: of the checkpoint, local or gs://...; must not hold one yet.
        config: a config as a dict, whose variant and classes the file must have. Without one, a
            recipe is chosen by the number of classes.
        head: what to do if `config` has other classes; see `start_from`.
        any_hash: accept a file whose SHA-256 does not match its name.

    Raises:
        ValueError: the file is unsafe, damaged, or does not fit.
    """
    if config is None and head != "strict":
        raise ValueError(f"The head policy {head} needs a config with the new classes.")
    source = read_source(path, any_hash=any_hash)
    loaded, meta = _fitted(source, config, head=head)
    params, batch_stats = loaded.params, loaded.batch_stats
    del source, loaded  # free the file's bytes: writing needs memory, too
    saved = save_weights(to_path(folder), params, batch_stats, meta=meta)
    return meta["report"] | {"written": str(saved)}


def to_file(checkpoint: str | AnyPath, path: str | AnyPath) -> Report:
    """Write a checkpoint as a .pth file for mmsegmentation, or as a .safetensors file."""
    path, weights = to_path(path), load_weights(to_path(checkpoint))
    if path.suffix not in (".pth", ".safetensors"):
        raise ValueError(f"{path} must end in .pth or .safetensors.")
    state = exported_state(weights)
    classes = list(weights.meta["classes"])
    palette = [list(color) for color in weights.meta["palette"]]
    dataset_meta = {"classes": classes, "palette": palette}
    if path.suffix == ".pth":
        meta = {
            "CLASSES": classes,  # as mmsegmentation 0.x reads them
            "PALETTE": palette,
            "dataset_meta": dataset_meta,  # as 1.x does
            "iter": weights.step,
            META_KEY: json.dumps({"variant": weights.meta["variant"]}),
        }
        write_pth(path, {"meta": meta, "state_dict": collections.OrderedDict(state)})
    else:
        write_safetensors(path, state, metadata={META_KEY: json.dumps(dataset_meta)})
    counters = sum(key.endswith(".num_batches_tracked") for key in state)
    return {
        "checkpoint": str(weights.path),
        "variant": weights.meta["variant"],
        "classes": summarize(tuple(classes)),
        "tensors": f"{len(state) - counters} and {counters} batch counters",
        "bytes": f"{size_of(path):,}",
        "written": str(path),
    }


def exported_state(weights: Weights) -> dict[str, np.ndarray]:
    """Name a checkpoint's tensors as mmsegmentation does; add the batch counters of its source."""
    state = torch_state_dict(weights.params, weights.batch_stats)
    for key, count in weights.meta.get("batches_tracked", {}).items():
        if key in state:
            state[key] = np.asarray(count, np.int64)
    return state


def report_table(report: Report, *, title: str) -> Table:
    """Lay out a report for a terminal."""
    columns = Column(), Column(overflow="fold")
    table = Table(*columns, title=title, title_justify="left", show_header=False)
    for name, value in report.items():
        table.add_row(name, Text(value))  # brackets are not markup
    return table


def _fitted(
    source: Source, config: dict[str, Any] | None, *, head: HeadPolicy
) -> tuple[Loaded, dict[str, Any]]:
    """Return the arrays of the checkpoint, and its `meta`."""
    variant, names = variant_of(source), classes_of(source)
    published = _published(source, variant=variant, names=names)
    if config is not None:
        loaded, names = _for_config(source, config, names=names, head=head)
    elif published and names:
        loaded, config = load(source), recipes.of_row(published[0]).to_dict()
        names = class_names(len(names.names))
    else:
        loaded, config = load(source), _recipe(variant, names)
    report = _report(source, loaded, variant=variant, names=names)
    meta = _meta(source, config, variant=variant, names=names) | {"report": report}
    if published:
        row, upload = published
        figures = f"mIoU {upload.miou:.2f}, ms+flip {upload.miou_ms_flip:.2f}"
        report["published"] = f"{row.name}: {figures}"
        if head == "strict":  # the published figures are those of the published head
            meta["zoo"] = {"name": row.name, "file": row.file(upload)}
    return loaded, meta


def _for_config(
    source: Source, config: dict[str, Any], *, names: ClassNames | None, head: HeadPolicy
) -> tuple[Loaded, ClassNames | None]:
    """Fit a file to the variant and classes of a config."""
    dataset, variant = dataset_of(from_dict(config)), config["model"]["variant"]
    classes = dataset.classes
    wanted = ClassNames(
        dataset=dataset.name, names=classes, palette=dataset.palette, origin="from the config"
    )
    if head == "strict":
        check_network(source, variant=variant, num_classes=len(classes))
        check_classes(source, classes)
        return load(source), None if names is None else wanted
    check_network(source, variant=variant)
    random = models.build(variant, num_classes=len(classes), seed=config["seed"])
    _, params, batch_stats = models.split(random)
    loaded = start_from(source, params, batch_stats, variant=variant, classes=classes, head=head)
    return loaded, wanted


def _published(
    source: Source, *, variant: str, names: ClassNames | None
) -> tuple[zoo.Row, zoo.Upload] | None:
    """Find the published result whose file this is; variant and number of classes must agree."""
    match = zoo.find(file=source.path.name, sha256=source.sha256)
    if match is None or names is None or match[0].variant != variant:
        return None
    classes = DATASETS[match[0].dataset].num_classes
    return match if classes == len(names.names) else None


def _recipe(variant: str, names: ClassNames | None) -> dict[str, Any]:
    """Choose a config, and so the image size of evaluation, for a file without one."""
    if names is not None and names.dataset == "cityscapes":
        return recipes.cityscapes(variant=variant, schedule="40k").to_dict()
    config = recipes.custom(variant=variant)
    config.data.classes = names.names if names else ()
    if names is not None and names.dataset.startswith("pascal_context"):
        config.eval.image_size = (520, 520)
    return config.to_dict()


def _meta(
    source: Source, config: dict[str, Any], *, variant: str, names: ClassNames | None
) -> dict[str, Any]:
    return {
        "variant": variant,
        "dataset": names.dataset if names else "",
        "classes": names.names if names else (),
        "palette": names.palette if names else (),
        "mean": config["data"]["mean"],
        "std": config["data"]["std"],
        "config": config,
        "source": {
            "file": source.path.name,
            "sha256": source.sha256,
            "bytes": source.size,
            "format": source.format,
            "family": source.family,
        },
        "batches_tracked": {key: int(value) for key, value in source.counters.items()},
    }


def _report(source: Source, loaded: Loaded, *, variant: str, names: ClassNames | None) -> Report:
    arrays = [
        leaf for tree in (loaded.params, loaded.batch_stats) for leaf in jax.tree.leaves(tree)
    ]
    parameters = sum(leaf.size for leaf in jax.tree.leaves(loaded.params))
    report = {
        "file": f"{source.path.name} ({source.format}, {source.family})",
        "bytes": f"{source.size:,}",
        "SHA-256": source.sha256 or "-",
        "variant": f"{variant}, {parameters:,} parameters",
        "classes": f"{summarize(names.names)}, {names.origin}" if names else "none: a backbone",
        "tensors": f"{len(arrays)}, {sum(leaf.nbytes for leaf in arrays):,} bytes",
        "from": loaded.origin,
        "dropped": "\n".join(map(": ".join, source.dropped.items())) or "nothing",
    }
    if source.counters:
        report["kept"] = f"{len(source.counters)} batch counters, for exports"
    return report | ({"note": "\n".join(source.notes)} if source.notes else {})
