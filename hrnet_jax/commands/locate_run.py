"""Where a run's folder and its checkpoint are, by what the command line says."""

import dataclasses

from ml_collections import ConfigDict

from hrnet_jax import zoo
from hrnet_jax.runs.paths import AnyPath, to_path
from hrnet_jax.runs.stored_weights import FOLDER, Weights, load_weights
from hrnet_jax.runs.terminal import Terminal


def locate_run(
    *, workdir: str | None, checkpoint: str | None, config: ConfigDict | None
) -> tuple[AnyPath, AnyPath]:
    """Work out the workdir and the checkpoint from what is given of the three.

    Raises:
        FileNotFoundError: for a row of the zoo that was not converted yet.
        ValueError: nothing is given.
    """
    default = None if config is None else f"runs/{config.name}"
    given = zoo.locate(checkpoint) if checkpoint else None
    name = workdir or default or given
    if name is None:
        raise ValueError("--checkpoint is missing; give that, --workdir or --config.")
    place = to_path(name)
    source = given or place
    # Results belong next to the folder of checkpoints, not into it.
    if place.parent.name == FOLDER and place.name.isdigit():
        place = place.parent.parent
    elif name is given and place.name == FOLDER and not (place / FOLDER).is_dir():
        place = place.parent
    return place, source


def has_checkpoint(workdir: AnyPath) -> bool:
    """Whether a training can resume in a workdir."""
    return any(path.name.isdigit() for path in (workdir / FOLDER).glob("[0-9]*"))


def load_network(checkpoint: AnyPath, *, config: ConfigDict | None, terminal: Terminal) -> Weights:
    """Load weights that can label images, by `config` if it is given instead of their own.

    Raises:
        FileNotFoundError: there is no checkpoint.
        ValueError: it is damaged, or a backbone without a head.
    """
    with terminal.announced_if_remote(checkpoint):
        weights = load_weights(checkpoint)
    if not weights.meta["classes"]:
        raise ValueError(
            f"{weights.path} holds a backbone without a head, which labels nothing; train from it "
            f"with --config.init_from={checkpoint}."
        )
    if config is None:
        return weights
    return dataclasses.replace(weights, meta={**weights.meta, "config": config.to_dict()})
