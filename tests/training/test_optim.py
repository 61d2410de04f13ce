import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hrnet_jax.training.optim import poly_schedule, sgd


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
