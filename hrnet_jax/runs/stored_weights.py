"""The weights of a checkpoint, as evaluation, prediction and conversion read and write them."""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from hrnet_jax.runs.checksums import FILES, check_files, check_leaves, leaf_checksums, list_files
from hrnet_jax.runs.paths import AnyPath, absolute, is_remote, to_path
from hrnet_jax.runs.scores import best_step

FOLDER = "checkpoints"  # within a workdir
FORMAT = 2  # in `meta`; version 0.1.0 stored none, and called the batch statistics "stats"
_ITEMS = ("model", "optimizer", "meta")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Weights:
    """Parameters, batch statistics and `meta` of a checkpoint."""

    params: dict[str, Any]
    batch_stats: dict[str, Any]
    meta: dict[str, Any]
    step: int
    path: AnyPath

    @property
    def head(self) -> str:
        """The name of the network's head, which converted files and 0.1.0 leave out."""
        return self.meta.get("head", "fcn")


def save_weights(
    folder: AnyPath, params: dict, batch_stats: dict, *, meta: Mapping[str, Any]
) -> AnyPath:
    """Write weights without training state, as step 0 of a folder that has no checkpoint yet.

    `load_weights` returns `meta`, which must have an entry `source`.

    Raises:
        ValueError: the folder holds a checkpoint.
    """
    manager = ocp.CheckpointManager(absolute(folder) / FOLDER, item_names=_ITEMS)
    if manager.all_steps():
        manager.close()
        raise ValueError(f"{folder} holds a checkpoint already; choose another folder.")
    model = {"params": params, "batch_stats": batch_stats}
    sums = {"model": leaf_checksums(model)}
    manager.save(
        0,
        args=ocp.args.Composite(
            model=ocp.args.StandardSave(model),
            meta=ocp.args.JsonSave({**meta, "step": 0, "format": FORMAT, "checksums": sums}),
        ),
    )
    manager.close()  # waits until everything is on disk
    list_files(folder / FOLDER / "0")
    return folder / FOLDER / "0"


def load_weights(path: str | AnyPath) -> Weights:
    """Load the weights of a workdir (best by mIoU, else newest) or of one checkpoint folder.

    Raises:
        FileNotFoundError: there is no checkpoint.
        ValueError: the checkpoint is damaged.
    """
    folder, step = _locate(absolute(to_path(path)))
    checkpoint = folder / str(step)
    try:
        check_files(checkpoint, among=("model", "meta"))
        meta = json.loads((checkpoint / "meta" / "metadata").read_text())
        with ocp.PyTreeCheckpointer() as reader:
            # As numpy arrays, which need no devices and keep the dtype that was saved.
            saved = reader.metadata(checkpoint / "model").item_metadata.tree
            as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), saved)
            model = reader.restore(
                checkpoint / "model", args=ocp.args.PyTreeRestore(restore_args=as_numpy)
            )
        check_leaves(model, meta["checksums"]["model"])
    except Exception as error:  # Orbax raises many types on damage
        raise ValueError(
            f"{checkpoint} is damaged ({first_line(error)}); give another checkpoint."
        ) from error
    return Weights(
        params=with_int_keys(model["params"]),
        batch_stats=with_int_keys(model["batch_stats" if "format" in meta else "stats"]),
        meta=meta,
        step=step,
        path=checkpoint,
    )


def _locate(path: AnyPath) -> tuple[AnyPath, int]:
    """Return the checkpoints folder and the step that a path stands for."""
    if path.name.isdigit() and (path / "meta").is_dir():
        return path.parent, int(path.name)
    folder = path / FOLDER if (path / FOLDER).is_dir() else path
    paths = folder.iterdir() if folder.is_dir() else ()
    steps = [int(path.name) for path in paths if path.name.isdigit() and _is_finished(path)]
    if not steps:
        raise FileNotFoundError(
            f"There is no checkpoint in {path}. Train first (hrnet_jax.main --mode train), "
            "or give a workdir or one of its checkpoints."
        )
    best = best_step(folder, steps)
    return folder, max(steps) if best is None else best


def _is_finished(checkpoint: AnyPath) -> bool:
    """Whether a folder is a whole checkpoint; in a bucket an interrupted save has the same name."""
    return (checkpoint / FILES).exists() if is_remote(checkpoint) else any(checkpoint.iterdir())


def with_int_keys(tree: Any) -> Any:
    """Turn the keys "0", "1" ... that Orbax gives to list items into integers."""
    if not isinstance(tree, dict):
        return tree
    return {
        int(name) if isinstance(name, str) and name.isdigit() else name: with_int_keys(item)
        for name, item in tree.items()
    }


def first_line(error: Exception) -> str:
    """Return the first line of an error's message, or its type if it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
