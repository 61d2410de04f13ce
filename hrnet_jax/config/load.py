"""Builds a predictor from a checkpoint."""

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
    """Load a predictor that labels images by the protocol of its checkpoint.

    Args:
        path: a workdir (its best checkpoint by mIoU, or else the newest), a checkpoint, or the name
            of a row of the zoo whose weights are in `weights/`.

    Raises:
        FileNotFoundError: there is no checkpoint; says how to get it.
        ValueError: it is damaged.
    """
    return predictor_of(load_weights(zoo.locate(path)))


def predictor_of(weights: Weights, *, terminal: Terminal | None = None) -> Predictor:
    """Build a predictor from loaded weights, with the protocol and dtype of their config.

    Args:
        weights: as loaded from a checkpoint, with its `meta`.
        terminal: reports compilations; None for silence.
    """
    meta = weights.meta
    config = from_dict(meta["config"])
    model = models.build(meta["variant"], num_classes=len(meta["classes"]), head=weights.head)
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
