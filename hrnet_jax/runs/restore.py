"""From the files of a checkpoint to the state of a run, those of version 0.1.0 included."""

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
    """Read a checkpoint, laid out on the devices as `like`; return it and its `meta`.

    Raises:
        ValueError: its tensors are not what was saved, or not those of this network.
    """
    meta = json.loads((to_path(manager.directory) / str(step) / "meta" / "metadata").read_text())
    stats = "batch_stats" if "format" in meta else "stats"
    model = {"params": like.params, stats: like.batch_stats}
    optimizer, finish = like.opt_state, lambda tree: tree
    if "format" not in meta:
        optimizer, finish = _as_in_0_1_0(like)
    # Read as numpy arrays: Orbax would put each of hundreds of tensors on the devices.
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
    _check_shapes(state, like)
    shardings = jax.tree.map(lambda leaf: leaf.sharding, like)
    return wait_on_cpu(jax.device_put(state, shardings)), meta


def _as_in_0_1_0(like: State) -> tuple[Any, Callable[[Any], Any]]:
    """Return the optimiser's state as 0.1.0 kept it, and what turns that into today's.

    There every tree of the parameters' shape (the momentum) was one vector.
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


def _check_shapes(state: State, like: State) -> None:
    for name in ("params", "batch_stats"):
        found, expected = (
            {keystr(path): leaf.shape for path, leaf in tree_leaves_with_path(getattr(s, name))}
            for s in (state, like)
        )
        if found != expected:
            raise ValueError(f"its {name} are not those of this network")
