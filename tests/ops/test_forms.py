"""Every form of every operation gives what the reference gives: values and gradients."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hrnet_jax import models, ops
from tests import tiny  # noqa: F401 -- adds the variant "tiny"

FORMS = {"accelerator": ops.ACCELERATOR, "cpu": ops.CPU}
SAME = ((1, 1), (1, 1))


def conv(channels, *, kernel, stride, padding=SAME):
    def apply(x, weights):
        return ops.conv(x, weights, stride=stride, padding=padding)

    return apply, (2, 6, 9, channels[0]), [(kernel, kernel, *channels)]


def batch_norm(x, scale, bias):
    y, mean, var = ops.batch_norm(x, scale=scale, bias=bias, epsilon=1e-5)
    return y, jax.lax.stop_gradient((mean, var))


def normalize(x, scale, bias, mean):
    return ops.normalize(x, scale=scale, bias=bias, mean=mean, var=mean**2, epsilon=1e-5)


def resize(shape, size):
    return lambda x: ops.resize(x, size), (2, *shape, 3), []


def upsample(shape, size, factor):
    def apply(x):
        return ops.upsample(x, size, factor=factor, in_two_steps=True)

    return apply, (1, *shape, 3), []


OPERATIONS = {  # what is applied, the shape of x, the shapes of the other arguments
    "3x3": conv((4, 5), kernel=3, stride=1),
    "3x3, few from many": conv((7, 2), kernel=3, stride=1),
    "3x3, stride 2": conv((4, 5), kernel=3, stride=2),
    "3x3, stride 2, few from many": conv((7, 2), kernel=3, stride=2),
    "3x3, no rows of zeros": conv((4, 5), kernel=3, stride=1, padding=((0, 0), (1, 1))),
    "3x3, uneven zeros": conv((4, 5), kernel=3, stride=2, padding=((0, 1), (1, 0))),
    "1x1": conv((4, 5), kernel=1, stride=1, padding=((0, 0), (0, 0))),
    "1x1 with zeros": conv((4, 5), kernel=1, stride=1, padding=((1, 0), (0, 2))),
    "normalize": (normalize, (2, 5, 6, 4), [(4,)] * 3),
    "batch_norm": (batch_norm, (2, 5, 6, 4), [(4,)] * 2),
    "relu": (ops.relu, (2, 5, 6, 4), []),
    "resize x4": resize((3, 5), (12, 20)),
    "resize x8 and x3": resize((1, 2), (8, 6)),
    "resize by a fractional factor": resize((7, 10), (13, 27)),
    "resize down": resize((7, 10), (5, 3)),
    "upsample to a multiple": upsample((3, 4), (6, 8), 2),
    "upsample to less": upsample((3, 4), (5, 7), 2),
}


def values_and_gradients(form, name, dtype):
    apply, shape, others = OPERATIONS[name]
    rng = np.random.default_rng(0)
    arguments = [jnp.asarray(rng.standard_normal(s) + 2, dtype) for s in (shape, *others)]

    def score(*arguments):
        with ops.use(form):
            result = apply(*arguments)
        first = jax.tree.leaves(result)[0]
        weights = np.random.default_rng(1).standard_normal(first.shape)
        return (first * weights).sum(), result

    program = jax.value_and_grad(score, argnums=range(len(arguments)), has_aux=True)
    (_, result), gradients = jax.jit(program)(*arguments)
    return result, gradients


@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-11), ("float32", 2e-5)])
@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("form", FORMS)
def test_a_form_gives_the_values_and_gradients_of_the_reference(form, name, dtype, tolerance):
    with jax.enable_x64(dtype == "float64"):
        ours, expected = (
            jax.device_get(values_and_gradients(f, name, dtype))
            for f in (FORMS[form], ops.REFERENCE)
        )
    for one, other in zip(jax.tree.leaves(ours), jax.tree.leaves(expected), strict=True):
        assert one.dtype == other.dtype == dtype
        limit = tolerance * max(1, float(abs(other).max()))
        np.testing.assert_allclose(one, other, rtol=0, atol=limit)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("size", [(32, 64), (33, 47)], ids=str)
def test_a_network_of_any_form_has_the_loss_and_gradients_of_the_reference(form, size):
    model = models.build("tiny", num_classes=3)
    model.train()
    structure, params, batch_stats = models.split(model)
    image = np.random.default_rng(0).standard_normal((2, *size, 3))

    def loss_of(form):
        def loss(params, batch_stats):
            with ops.use(form):
                logits = models.merge(structure, params, batch_stats)(jnp.asarray(image))
                return (ops.resize(logits, size) ** 2).mean()

        return jax.jit(jax.value_and_grad(loss))

    with jax.enable_x64(True):
        params, batch_stats = jax.tree.map(np.float64, (params, batch_stats))
        ours, expected = (loss_of(f)(params, batch_stats) for f in (FORMS[form], ops.REFERENCE))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-7, atol=1e-9), ours, expected
    )


def test_the_reference_is_differentiable_in_both_modes():
    model = models.build("tiny", num_classes=3)
    model.train()
    structure, params, batch_stats = models.split(model)
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        image, direction = jnp.asarray(rng.standard_normal((2, 1, 33, 32, 3)))
        params, batch_stats = jax.tree.map(np.float64, (params, batch_stats))

        def score(image):
            return (models.merge(structure, params, batch_stats)(image) ** 2).mean()

        _, forwards = jax.jvp(score, (image,), (direction,))
        backwards = (jax.grad(score)(image) * direction).sum()
    assert float(forwards) == pytest.approx(float(backwards), rel=1e-9)


def test_a_form_holds_within_its_context_only():
    leaky = dataclasses.replace(ops.REFERENCE, relu=lambda x: jnp.maximum(x, x / 2))
    with ops.use(leaky):
        assert float(ops.relu(-jnp.ones(1))[0]) == -0.5
    assert float(ops.relu(-jnp.ones(1))[0]) == 0


@pytest.mark.parametrize(
    ("platform", "form"), [("cpu", ops.CPU), ("gpu", ops.ACCELERATOR), ("tpu", ops.ACCELERATOR)]
)
def test_the_platform_decides_the_form(platform, form):
    assert ops.form_for(platform) == form
