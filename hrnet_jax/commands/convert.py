"""Weight files -> checkpoints and back: the commands of `convert/` as functions."""

import collections
import json
from typing import Any

import jax
import numpy as np
from rich.table import Table

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
from hrnet_jax.models import split
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
        config: as a dict; the file must be of its variant and classes. Without one, a recipe
            is chosen by the number of classes.
        head: what to do if the classes of `config` are others; see `start_from`.
        any_hash: accept a file whose SHA-256 is not the one its name promises.

    Raises:
        ValueError: for a file that is unsafe, damaged, or does not fit; says why.
    """
    if config is None and head != "strict":
        raise ValueError(f"The head policy {head} needs a config that says which classes to have.")
    source = read_source(path, any_hash=any_hash)
    loaded, meta = _fitted(source, config, head=head)
    params, batch_stats = loaded.params, loaded.batch_stats
    del source, loaded  # frees the file's bytes before writing needs memory
    saved = save_weights(to_path(folder), params, batch_stats, meta=meta)
    return meta["report"] | {"written": str(saved)}


def to_file(checkpoint: str | AnyPath, path: str | AnyPath) -> Report:
    """Write a checkpoint as a .pth file that mmsegmentation loads, or as a .safetensors file."""
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
        "tensors": f"{len(state) - counters} and {counters} counters of batches",
        "bytes": f"{size_of(path):,}",
        "written": str(path),
    }


def exported_state(weights: Weights) -> dict[str, np.ndarray]:
    """Name a checkpoint's tensors as mmsegmentation does, with the counters of its source."""
    state = torch_state_dict(weights.params, weights.batch_stats)
    for key, count in weights.meta.get("batches_tracked", {}).items():
        if key in state:
            state[key] = np.asarray(count, np.int64)
    return state


def report_table(report: Report, *, title: str) -> Table:
    """Lay out a report for a terminal."""
    table = Table(title=title, title_justify="left", show_header=False)
    table.add_column()
    table.add_column(overflow="fold")
    for name, value in report.items():
        table.add_row(name, value.replace("[", r"\["))
    return table


def _fitted(
    source: Source, config: dict[str, Any] | None, *, head: HeadPolicy
) -> tuple[Loaded, dict[str, Any]]:
    """The arrays of the checkpoint, and its `meta`."""
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
        report["published"] = (
            f"{row.name}: mIoU {upload.miou:.2f}, ms+flip {upload.miou_ms_flip:.2f}"
        )
        if head == "strict":  # with another head the published figures mean nothing
            meta["zoo"] = {"name": row.name, "file": row.file(upload)}
    return loaded, meta


def _for_config(
    source: Source, config: dict[str, Any], *, names: ClassNames | None, head: HeadPolicy
) -> tuple[Loaded, ClassNames | None]:
    """Fit a file to a config's variant and classes."""
    dataset = dataset_of(from_dict(config))
    wanted = ClassNames(
        dataset=dataset.name,
        names=dataset.classes,
        palette=dataset.palette,
        origin="from the config",
    )
    variant = config["model"]["variant"]
    if head == "strict":
        check_network(source, variant=variant, num_classes=dataset.num_classes)
        check_classes(source, dataset.classes)
        return load(source), None if names is None else wanted
    check_network(source, variant=variant)
    fresh = models.build(variant, num_classes=dataset.num_classes, seed=config["seed"])
    _, params, batch_stats = split(fresh)
    loaded = start_from(
        source, params, batch_stats, variant=variant, classes=dataset.classes, head=head
    )
    return loaded, wanted


def _published(
    source: Source, *, variant: str, names: ClassNames | None
) -> tuple[zoo.Row, zoo.Upload] | None:
    """The row of the zoo whose file this is, if its variant and number of classes agree."""
    found = zoo.find(file=source.path.name, sha256=source.sha256)
    if found is None or names is None or found[0].variant != variant:
        return None
    classes = DATASETS[found[0].dataset].num_classes
    return found if classes == len(names.names) else None


def _recipe(variant: str, names: ClassNames | None) -> dict[str, Any]:
    """The config of a file that comes without one; it decides the image size of evaluation."""
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
    """What the checkpoint says of itself and of the file."""
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
        "dropped": "\n".join(f"{what}: {why}" for what, why in source.dropped.items()) or "nothing",
    }
    if source.counters:
        report["kept aside"] = f"{len(source.counters)} counters of batches, for exports"
    return report | ({"note": "\n".join(source.notes)} if source.notes else {})
