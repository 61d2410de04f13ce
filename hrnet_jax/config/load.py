"""From a checkpoint to what labels images by its own protocol."""

from collections.abc import Sequence

from hrnet_jax import models, zoo
from hrnet_jax.config.build_evaluation import protocol_of
from hrnet_jax.config.stored import from_dict
from hrnet_jax.data.transforms import Channels
from hrnet_jax.evaluation.predictor import Predictor
from hrnet_jax.runs.paths import AnyPath
from hrnet_jax.runs.stored_weights import Weights, load_weights
from hrnet_jax.runs.terminal import Terminal


def load_predictor(path: str | AnyPath) -> Predictor:
    """Load the weights of a workdir (best by mIoU, else newest) or of one checkpoint.

    Args:
        path: of it, or the name of a row of the zoo that lies in `weights/`.

    Raises:
        FileNotFoundError: where there is none; says how to get it.
        ValueError: for a damaged one.
    """
    return predictor_of(load_weights(zoo.locate(path)))


def predictor_of(weights: Weights, *, terminal: Terminal | None = None) -> Predictor:
    """Make a predictor of loaded weights; their config says by which protocol and in what dtype.

    Args:
        weights: with `meta` as a checkpoint holds it.
        terminal: hears what is compiled; None: nobody does.
    """
    meta = weights.meta
    config = from_dict(meta["config"])
    model = models.build(meta["variant"], num_classes=len(meta["classes"]), head=config.model.head)
    structure, _, _ = models.split(model)
    return Predictor(
        structure,
        params=weights.params,
        batch_stats=weights.batch_stats,
        classes=meta["classes"],
        palette=[tuple(color) for color in meta["palette"]],
        protocol=protocol_of(config),
        mean=_channels(meta["mean"]),
        std=_channels(meta["std"]),
        dtype=config.model.dtype,
        terminal=terminal,
    )


def _channels(values: Sequence[float | int]) -> Channels:
    red, green, blue = map(float, values)
    return red, green, blue
