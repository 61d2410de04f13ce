import functools

import jax
import jax.numpy as jnp
import numpy as np

from hrnet_jax.compiling import compiler_options
from hrnet_jax.inference import label_map, whole
from hrnet_jax.models.layers import resize_bilinear
from tests.tiny import Toy


def test_logits_go_to_the_input_size_first():
    model = Toy()
    image = jnp.asarray(np.random.default_rng(0).standard_normal((1, 33, 47, 3)), jnp.float32)

    @functools.partial(jax.jit, compiler_options=compiler_options())
    def run(image):
        logits = model(image)
        two_steps = resize_bilinear(resize_bilinear(logits, (33, 47)), (20, 90))
        return whole(model, image, size=(20, 90)), two_steps, resize_bilinear(logits, (20, 90))

    found, two_steps, at_once = run(image)
    np.testing.assert_allclose(found, two_steps, atol=1e-6)
    assert float(abs(two_steps - at_once).max()) > 1e-4


def test_bfloat16_logits_are_resized_in_float32():
    model = Toy()
    image = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.bfloat16)
    logits = jax.eval_shape(lambda image: whole(model, image, size=(32, 32)), image)
    assert logits.dtype == jnp.float32


def test_the_first_of_equal_classes_wins():
    assert int(label_map(jnp.zeros((1, 1, 1, 5)))[0, 0, 0]) == 0
