import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from hrnet_jax import models
from hrnet_jax.compiling import compiler_options
from hrnet_jax.losses import cross_entropy
from hrnet_jax.models.layers import resize_bilinear
from hrnet_jax.optim import sgd
from hrnet_jax.sharding import make_mesh, replicate, to_global
from hrnet_jax.step import initial_state, make_train_step, split
from tests.tiny import Toy

OPTIMIZER = sgd(optax.constant_schedule(0.1), momentum=0.9, weight_decay=0.01)


def random_batch(seed=0, size=(64, 64), count=8):
    rng = np.random.default_rng(seed)
    label = rng.choice([0, 1, 2, 255], (count, *size)).astype(np.uint8)
    return {"image": rng.standard_normal((count, *size, 3)).astype(np.float32), "label": label}


def mesh_of(devices: int):
    return jax.sharding.Mesh(np.array(jax.devices()[:devices]), ("data",))


def run(mesh, batches, *, dtype=jnp.float32, model=None):
    structure, params, stats = split(model or Toy())
    precise = jnp.promote_types(dtype, jnp.float32)
    params, stats = jax.tree.map(lambda leaf: leaf.astype(precise), (params, stats))
    state = replicate(initial_state(params, stats, OPTIMIZER), mesh=mesh)
    step = make_train_step(structure, OPTIMIZER, mesh=mesh, dtype=dtype, ignore_label=255)
    history = []
    for batch in batches:
        state, metrics = step(state, to_global(batch, mesh=mesh))
        history.append(jax.device_get(metrics))
    return jax.device_get(state), history


def test_one_step_equals_the_textbook():
    batch = random_batch()
    model = Toy()
    structure, params, stats = split(model)

    def loss_fn(params):
        model = nnx.merge(structure, params, stats)
        model.train()
        logits = resize_bilinear(model(jnp.asarray(batch["image"])), (64, 64))
        return cross_entropy(logits, jnp.asarray(batch["label"]), ignore_label=255).loss

    loss, gradients = jax.jit(jax.value_and_grad(loss_fn), compiler_options=compiler_options())(
        params
    )
    expected = jax.tree.map(lambda w, g: w - 0.1 * (g + 0.01 * w), params, gradients)
    state, (metrics,) = run(make_mesh(), [batch])
    assert float(metrics.loss) == pytest.approx(float(loss), rel=1e-5)
    assert float(metrics.grad_norm) == pytest.approx(float(optax.tree.norm(gradients)), rel=1e-4)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), state.params, expected)
    assert not np.array_equal(state.stats["first"]["bn"]["mean"], np.zeros(8))


@pytest.mark.parametrize(
    "build",
    [Toy, pytest.param(lambda: models.build("hr18s", num_classes=3), marks=pytest.mark.slow)],
)
def test_eight_devices_give_what_one_gives(build):
    """In float64: statistics, loss, gradients and updates are those of the whole batch."""
    batches = [random_batch(seed) for seed in range(2)]
    with jax.enable_x64(True):
        one, one_history = run(mesh_of(1), batches, dtype=jnp.float64, model=build())
        eight, eight_history = run(mesh_of(8), batches, dtype=jnp.float64, model=build())
    for a, b in zip(one_history, eight_history, strict=True):
        assert a.loss.dtype == np.float64
        assert float(a.loss) == pytest.approx(float(b.loss), rel=1e-12)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12), one, eight)


def test_every_kind_of_layer_learns():
    """The tiny network has them all; each must move, and together they must get somewhere."""
    model = models.build("tiny", num_classes=3)
    before = jax.device_get(split(model)[1])
    batch = random_batch(size=(32, 64), count=2)
    state, history = run(mesh_of(1), [batch] * 4, model=model)
    moved = jax.tree.map(lambda a, b: bool(np.any(a != b)), before, state.params)
    assert all(jax.tree.leaves(moved))
    losses = [float(metrics.loss) for metrics in history]
    assert losses == sorted(losses, reverse=True)


def test_a_step_that_is_not_finite_changes_nothing_and_says_so():
    good, bad = random_batch(0), random_batch(1)
    bad["image"][3, 5, 5, 1] = np.nan
    alone, _ = run(make_mesh(), [good])
    both, history = run(make_mesh(), [good, bad])
    assert [bool(m.finite) for m in history] == [True, False]
    jax.tree.map(np.testing.assert_array_equal, alone[:2], both[:2])
    counts = [leaf for leaf in jax.tree.leaves(both.optimizer) if leaf.dtype == np.int32]
    assert counts == [2]  # the learning rate goes on with the data
    momenta = [leaf for leaf in jax.tree.leaves(both.optimizer) if leaf.dtype == np.float32]
    before = [leaf for leaf in jax.tree.leaves(alone.optimizer) if leaf.dtype == np.float32]
    np.testing.assert_array_equal(momenta[0], before[0])


def test_a_batch_of_ignored_pixels_only_decays_weights():
    batch = random_batch()
    batch["label"][:] = 255
    _, (metrics,) = run(make_mesh(), [batch])
    assert float(metrics.loss) == 0
    assert float(metrics.grad_norm) == 0
    assert bool(metrics.finite)


def test_bfloat16_computes_in_bfloat16_and_keeps_float32_state():
    state, (metrics,) = run(make_mesh(), [random_batch()], dtype=jnp.bfloat16)
    _, (precise,) = run(make_mesh(), [random_batch()])
    assert {leaf.dtype for leaf in jax.tree.leaves(state[:2])} == {np.dtype(np.float32)}
    assert metrics.loss.dtype == np.float32
    assert float(metrics.loss) == pytest.approx(float(precise.loss), rel=0.02)
    assert float(metrics.loss) != float(precise.loss)


def test_statistics_that_overflow_are_left_out_too():
    """Images of 1e25 overflow the variance, though what it normalises is finite."""
    batch = random_batch()
    batch["image"] *= 1e25
    state, (metrics,) = run(make_mesh(), [batch])
    assert not bool(metrics.finite)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state))
