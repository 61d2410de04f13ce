import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from hrnet_jax.training.losses import cross_entropy


def random_case(seed=0):
    rng = np.random.default_rng(seed)
    logits = jnp.asarray(rng.standard_normal((2, 4, 5, 3)) * 4, jnp.float32)
    label = jnp.asarray(rng.integers(0, 3, (2, 4, 5)), jnp.uint8)
    return logits, label


def test_by_hand():
    logits = jnp.log(jnp.asarray([[[[1.0, 3.0], [1.0, 3.0]]]]))  # probabilities 1/4, 3/4
    label = jnp.asarray([[[1, 255]]], jnp.uint8)
    scores = cross_entropy(logits, label, ignore_label=255)
    assert float(scores.loss) == pytest.approx(-np.log(0.75) / 2)  # over both pixels
    assert float(scores.accuracy) == pytest.approx(0.5)
    v1 = cross_entropy(logits, label, ignore_label=255, reference="v1")
    assert float(v1.loss) == pytest.approx(float(scores.loss))
    assert float(v1.accuracy) == pytest.approx(1.0)  # over the pixel that has a class


def test_value_and_gradient_equal_optax():
    logits, label = random_case()
    label = label.at[0].set(255)

    def theirs(logits):
        valid = label != 255
        pixels = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.where(valid, label, 0))
        return jnp.where(valid, pixels, 0).sum() / label.size

    def ours(logits):
        return cross_entropy(logits, label, ignore_label=255).loss

    for mine, other in zip(
        jax.value_and_grad(ours)(logits), jax.value_and_grad(theirs)(logits), strict=True
    ):
        np.testing.assert_allclose(mine, other, rtol=1e-5, atol=1e-7)


def test_a_batch_of_ignored_pixels_has_loss_and_gradient_zero():
    logits, label = random_case()
    label = jnp.full_like(label, 255)
    loss, gradient = jax.value_and_grad(lambda x: cross_entropy(x, label, ignore_label=255).loss)(
        logits
    )
    assert float(loss) == 0
    assert not np.asarray(gradient).any()


def test_huge_logits_stay_finite():
    logits = jnp.asarray([[[[1e4, -1e4]]]])
    label = jnp.asarray([[[1]]], jnp.uint8)
    loss, gradient = jax.value_and_grad(lambda x: cross_entropy(x, label, ignore_label=255).loss)(
        logits
    )
    assert float(loss) == pytest.approx(2e4)
    assert bool(jnp.isfinite(gradient).all())


def test_bfloat16_logits_give_a_float32_loss():
    logits, label = random_case()
    assert cross_entropy(logits.astype(jnp.bfloat16), label, ignore_label=255).loss.dtype == (
        jnp.float32
    )
