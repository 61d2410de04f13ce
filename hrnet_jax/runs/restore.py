"""Restoring the training state from a checkpoint, including those of version 0.1.0."""

import dataclasses
import json
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.flatten_util import ravel_pytree
from jax.tree_util import keystr, tree_leaves_with_path

from hrnet_jax.parallel.mesh import wait_on_cpu
from hrnet_jax.runs.checksums import check_leaves
from hrnet_jax.runs.paths import to_path

State = Any  # a dataclass with the fields of `training.state.TrainState`


def restore_state(
    manager: ocp.CheckpointManager, step: int, *, like: State
) -> tuple[State, dict[str, Any]]:
    """Restore a checkpoint with the shapes and shardings of `like`; return it and its `meta`.

    Raises:
        ValueError: the tensors differ from what was saved, or do not fit this network.
    """
    meta = json.loads((to_path(manager.directory) / str(step) / "meta" / "metadata").read_text())
    stats = "batch_stats" if "format" in meta else "stats"
    model = {"params": like.params, stats: like.batch_stats}
    optimizer, finish = like.opt_state, lambda tree: tree
    if "format" not in meta:
        optimizer, finish = _as_in_0_1_0(like)
    # As numpy arrays: Orbax would put hundreds of tensors on the devices one by one.
    model, optimizer = jax.tree.map(
        lambda leaf: np.empty(leaf.shape, leaf.dtype), (model, optimizer)
    )
    items = manager.restore(
        step,
        args=ocp.args.Composite(
            model=ocp.args.StandardRestore(model),
            optimizer=ocp.args.StandardRestore(optimizer),
        ),
    )
    for item in ("model", "optimizer"):
        check_leaves(items[item], meta["checksums"][item])
    state = dataclasses.replace(
        like,
        step=np.int32(step),
        params=items["model"]["params"],
        batch_stats=items["model"][stats],
        opt_state=finish(items["optimizer"]),
    )
    for name in ("params", "batch_stats"):
        if _shapes(getattr(state, name)) != _shapes(getattr(like, name)):
            raise ValueError(f"its {name} are not those of this network")
    shardings = jax.tree.map(lambda leaf: leaf.sharding, like)
    return wait_on_cpu(jax.device_put(state, shardings)), meta


def _as_in_0_1_0(like: State) -> tuple[Any, Callable[[Any], Any]]:
    """Return the structure of 0.1.0's optimiser state, and a function that converts it to ours.

    0.1.0 stored every tree with the structure of the parameters (the momentum) as one vector.
    """
    vector, unravel = ravel_pytree(jax.tree.map(np.asarray, jax.device_get(like.params)))
    structure: Any = jax.tree.structure(like.params)

    def is_params(tree: Any) -> bool:
        return jax.tree.structure(tree) == structure

    old = jax.tree.map(
        lambda tree: vector if is_params(tree) else tree, like.opt_state, is_leaf=is_params
    )

    def finish(restored: Any) -> Any:
        return jax.tree.map(
            lambda leaf: unravel(leaf) if leaf.shape == vector.shape else leaf, restored
        )

    return old, finish


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    return {keystr(path): leaf.shape for path, leaf in tree_leaves_with_path(tree)}
