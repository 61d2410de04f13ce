import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hrnet_jax import models
from hrnet_jax.training.optim import OPTIMIZERS, adamw, partitioned, poly_schedule, sgd
from tests import tiny  # noqa: F401 -- adds the variant "toy"


@pytest.mark.parametrize(
    ("reference", "step", "expected"),
    [
        ("v1", 1, 0.009999777),
        ("v0", 20_000, 0.0054052786),
        ("v1", 20_000, 0.0054051593),
        ("v0", 39_999, 0.000100714),
        ("v1", 39_999, 0.0001),
        ("v0", 0, 0.01),
        ("v1", 0, 0.01),
    ],
)
def test_poly_has_the_published_values(reference, step, expected):
    schedule = poly_schedule(lr=0.01, min_lr=1e-4, power=0.9, steps=40_000, reference=reference)
    assert float(schedule(step)) == pytest.approx(expected, rel=2e-5)


@pytest.mark.parametrize("steps", [1, 2, 4, 20, 100, 20_000, 40_000, 80_000, 160_000])
@pytest.mark.parametrize("x64", [False, True])
def test_the_compiled_schedule_ends_at_its_minimum(steps, x64):
    """As optax's own, it once was NaN there: 19 * (1 / 19) is more than 1."""
    schedule = poly_schedule(lr=0.01, min_lr=1e-4, power=0.9, steps=steps, reference="v1")
    with jax.enable_x64(x64):
        last = jax.jit(schedule)(jnp.asarray(max(steps - 1, 1), jnp.int32))
        assert float(last) == pytest.approx(1e-4, rel=1e-9 if x64 else 1e-4)
        assert last.dtype == (jnp.float64 if x64 else jnp.float32)


def test_a_single_step_has_a_schedule():
    for reference in ("v0", "v1"):
        schedule = poly_schedule(lr=0.1, min_lr=0.0, power=0.9, steps=1, reference=reference)
        assert float(schedule(0)) == pytest.approx(0.1)


def test_sgd_is_pytorchs():
    """g + wd * w joins the momentum, which starts at the first gradient."""
    rng = np.random.default_rng(0)
    w, momentum = rng.standard_normal(5), np.zeros(5)
    optimizer = sgd(lambda step: 0.1 / (step + 1), momentum=0.9, weight_decay=0.01)
    ours = jnp.asarray(w, jnp.float32)
    state = optimizer.init(ours)
    for step in range(4):
        gradient = rng.standard_normal(5)
        momentum = 0.9 * momentum + gradient + 0.01 * w
        w = w - 0.1 / (step + 1) * momentum
        update, state = optimizer.update(jnp.asarray(gradient, jnp.float32), state, ours)
        ours = ours + update
    np.testing.assert_allclose(ours, w, rtol=1e-5)


@pytest.fixture
def params():
    return jax.tree.map(jnp.asarray, models.split(models.build("toy", num_classes=3))[1])


def updates_of(optimizer, params):
    """The first updates for gradients of 1."""
    updates, _ = optimizer.update(
        jax.tree.map(jnp.ones_like, params), optimizer.init(params), params
    )
    return updates


def test_adamw_decays_kernels_only(params):
    plain, decayed = (
        updates_of(adamw(lambda step: 0.1, momentum=0.9, weight_decay=decay), params)
        for decay in (0.0, 0.5)
    )
    difference = jax.tree.map(lambda a, b: np.asarray(b - a), plain, decayed)
    first = difference["backbone"]["first"]
    kernel = params["backbone"]["first"]["conv"]["kernel"]
    np.testing.assert_allclose(first["conv"]["kernel"], -0.05 * kernel, atol=1e-6)
    assert not first["bn"]["scale"].any()
    assert not difference["decode_head"]["conv_seg"]["bias"].any()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_head_may_learn_at_ten_times_the_rate(name, params):
    slow, fast = (
        OPTIMIZERS[name](lambda step, lr=lr: lr, momentum=0.9, weight_decay=0.0)
        for lr in (0.01, 0.1)
    )
    updates = updates_of(partitioned(slow, head=fast), params)
    alone = updates_of(slow, params)
    ratios = jax.tree.map(lambda a, b: np.unique((a / b).round(3)), updates, alone)
    assert {float(r) for leaf in jax.tree.leaves(ratios["backbone"]) for r in leaf} == {1.0}
    assert {float(r) for leaf in jax.tree.leaves(ratios["decode_head"]) for r in leaf} == {10.0}


@pytest.mark.parametrize("name", ["backbone", "backbone.first", "decode_head"])
def test_a_frozen_module_gets_no_updates(name, params):
    optimizer = sgd(lambda step: 0.1, momentum=0.9, weight_decay=0.01)
    updates = updates_of(partitioned(optimizer, freeze=(name,)), params)
    for path, leaf in jax.tree_util.tree_leaves_with_path(updates):
        dotted = jax.tree_util.keystr(path, simple=True, separator=".")
        assert bool(leaf.any()) != dotted.startswith(f"{name}."), dotted


def test_an_unknown_module_to_freeze_is_named(params):
    optimizer = partitioned(sgd(lambda s: 0.1, momentum=0.9, weight_decay=0.0), freeze=("back",))
    with pytest.raises(ValueError, match=r"freeze='back' is no module .* backbone, decode_head"):
        optimizer.init(params)


def test_a_network_frozen_as_a_whole_is_refused(params):
    optimizer = sgd(lambda s: 0.1, momentum=0.9, weight_decay=0.0)
    with pytest.raises(ValueError, match="leaves nothing to learn"):
        partitioned(optimizer, freeze=("backbone", "decode_head")).init(params)
