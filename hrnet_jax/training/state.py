"""The training state: one tree with everything that a step updates."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """Step count, parameters, batch statistics and optimiser state, keyed by module names."""

    step: Any  # int32 scalar: steps done, including skipped ones
    params: dict[str, Any]
    batch_stats: dict[str, Any]  # mean and variance of every batch normalisation
    opt_state: optax.OptState


def initial_state(
    params: dict, batch_stats: dict, *, optimizer: optax.GradientTransformation
) -> TrainState:
    """Return the state before the first step."""
    return TrainState(jnp.zeros((), jnp.int32), params, batch_stats, optimizer.init(params))
