"""Finds the workdir and the checkpoint that a command line means."""

import dataclasses

from ml_collections import ConfigDict

from hrnet_jax import zoo
from hrnet_jax.runs.paths import AnyPath, to_path
from hrnet_jax.runs.stored_weights import FOLDER, Weights, load_weights
from hrnet_jax.runs.terminal import Terminal


def locate_run(
    *, workdir: str | None, checkpoint: str | None, config: ConfigDict | None
) -> tuple[AnyPath, AnyPath]:
    """Return the workdir and the checkpoint.

    Raises:
        FileNotFoundError: the checkpoint is a row of the zoo that is not converted yet.
        ValueError: all three are None.
    """
    default = None if config is None else f"runs/{config.name}"
    given = zoo.locate(checkpoint) if checkpoint else None
    name = workdir or default or given
    if name is None:
        raise ValueError("--checkpoint is missing; give it, --workdir or --config.")
    folder = to_path(name)
    source = given or folder
    # Results belong next to the folder of checkpoints, not into it.
    if folder.parent.name == FOLDER and folder.name.isdigit():
        folder = folder.parent.parent
    elif name is given and folder.name == FOLDER and not (folder / FOLDER).is_dir():
        folder = folder.parent
    return folder, source


def has_checkpoint(workdir: AnyPath) -> bool:
    """Whether training can resume in a workdir."""
    return any(path.name.isdigit() for path in (workdir / FOLDER).glob("[0-9]*"))


def load_network(checkpoint: AnyPath, *, config: ConfigDict | None, terminal: Terminal) -> Weights:
    """Load weights that can label images; `config`, if given, replaces the stored one.

    Raises:
        FileNotFoundError: there is no checkpoint.
        ValueError: it is damaged, or a backbone without a head.
    """
    with terminal.announced_if_remote(checkpoint):
        weights = load_weights(checkpoint)
    if not weights.meta["classes"]:
        raise ValueError(
            f"{weights.path} is a backbone without a head, which cannot label images; train from "
            f"it with --config.init_from={checkpoint}."
        )
    if config is None:
        return weights
    return dataclasses.replace(weights, meta={**weights.meta, "config": config.to_dict()})
