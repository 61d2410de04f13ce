"""Rows T9 and T10 of docs/faults.md: how a training step treats numbers that are not finite."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from hrnet_jax.models import split
from hrnet_jax.parallel.mesh import make_mesh, replicate, to_global
from hrnet_jax.training.losses import cross_entropy
from hrnet_jax.training.optim import sgd
from hrnet_jax.training.state import initial_state
from hrnet_jax.training.step import make_train_step
from tests.tiny import Toy


class Steep(Toy):
    """The gradient of `gain` is 0 / 0 at its initial value; loss and other gradients are finite."""

    def __init__(self):
        super().__init__()
        self.gain = nnx.Param(jnp.zeros(()))

    def __call__(self, image):
        return super().__call__(image) + 0 * jnp.sqrt(jnp.abs(self.gain[...]))


LOSS = functools.partial(cross_entropy, ignore_label=255)


def program_and_state(model, *, lr):
    optimizer = sgd(optax.constant_schedule(lr), momentum=0.9, weight_decay=0.0)
    structure, params, batch_stats = split(model)
    params, batch_stats = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), (params, batch_stats))
    mesh = make_mesh()
    state = replicate(initial_state(params, batch_stats, optimizer=optimizer), mesh=mesh)
    step = make_train_step(structure, optimizer, mesh=mesh, dtype=jnp.float64, loss=LOSS)
    return lambda state, batch: step(state, to_global(batch, mesh=mesh)), state


def random_batch():
    rng = np.random.default_rng(0)
    return {
        "image": rng.standard_normal((8, 16, 16, 3)).astype(np.float32),
        "label": rng.integers(0, 3, (8, 16, 16)).astype(np.uint8),
    }


def test_one_gradient_that_is_not_finite_is_enough():
    with jax.enable_x64(True):
        step, state = program_and_state(Steep(), lr=0.1)
        before = jax.device_get(state)
        after, metrics = jax.device_get(step(state, random_batch()))
    assert np.isfinite(metrics.loss)
    assert np.isnan(metrics.grad_norm)
    assert not metrics.finite
    for name in ("params", "batch_stats"):
        jax.tree.map(np.testing.assert_array_equal, getattr(after, name), getattr(before, name))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(after))


@pytest.fixture(scope="module")
def loss_of():
    """Loss of one step for given labels, and whether it is finite; eight devices, an image each."""
    with jax.enable_x64(True):
        step, state = program_and_state(Toy(), lr=0.0)

        def loss(label):
            nonlocal state
            state, metrics = step(state, {**random_batch(), "label": label})
            return float(metrics.loss), bool(metrics.finite)

        yield loss


def only(mask, label):
    return np.where(mask, label, 255).astype(np.uint8)


def test_ignored_pixels_cost_nothing_wherever_they_lie(loss_of):
    """The whole batch has one denominator: losses of parts add up to the loss."""
    label = random_batch()["label"]
    whole, _ = loss_of(label)
    shard = np.zeros(label.shape, bool)
    shard[3] = True  # all that one device has
    parts = [loss_of(only(mask, label)) for mask in (shard, ~shard)]
    assert sum(part for part, _ in parts) == pytest.approx(whole, rel=1e-12)
    pixels = []
    for place in ((0, 0, 0), (3, 15, 7)):
        mask = np.zeros(label.shape, bool)
        mask[place] = True
        pixels.append((mask, *loss_of(only(mask, label))))
    (first, one, _), (second, other, _) = pixels
    both, finite = loss_of(only(first | second, label))
    assert one > 0
    assert both == pytest.approx(one + other, rel=1e-12)
    assert loss_of(np.full_like(label, 255)) == (0.0, True)
    assert finite
    assert all(finite for _, finite in parts)
    assert all(finite for *_, finite in pixels)
