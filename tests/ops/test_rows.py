import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from hrnet_jax import ops
from hrnet_jax.commands.step_costs import collectives
from hrnet_jax.models.layers import BatchNorm, Conv
from hrnet_jax.parallel.mesh import make_mesh

SIZE = (4, 16, 10, 8)  # two images per group of devices, four rows per device


def conv(stride: int, kernel: int = 3):
    layer = Conv(8, 8, kernel=kernel, stride=stride, rng=np.random.default_rng(0))
    return layer, lambda layer, x: layer(x)


def enlarge(factor: int):
    size = (SIZE[1] * factor, SIZE[2] * factor)
    return None, lambda _, x: ops.upsample(x, size, factor=factor, in_two_steps=True)


def normalize():
    layer = BatchNorm(8)
    layer.train()
    return layer, lambda layer, x: nnx.clone(layer)(x)  # its statistics change where it is called


LAYERS = {
    "3x3": conv(1), "3x3, stride 2": conv(2), "5x5": conv(1, 5), "1x1": conv(1, 1),
    "x2": enlarge(2), "x4": enlarge(4), "x8": enlarge(8), "normalise": normalize(),
}  # fmt: skip


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_on_rows_is_the_layer(name):
    """Result and gradient, and what moves between devices: rows, or sums per channel."""
    layer, apply = LAYERS[name]
    rng = np.random.default_rng(1)
    x = rng.standard_normal(SIZE)
    mesh = make_mesh(height=4)

    def both(x, weight):
        def score(x):
            y = apply(layer, x)
            return (y * weight).sum(), y

        with ops.use(ops.form_on(mesh) if on_rows else ops.CPU):
            (_, y), gradient = jax.value_and_grad(score, has_aux=True)(x)
        return y, gradient

    with jax.enable_x64(True):
        on_rows = False
        shape = jax.eval_shape(lambda x: apply(layer, x), jnp.asarray(x)).shape
        weight = rng.standard_normal(shape)
        alone = jax.jit(both)(x, weight)
        on_rows = True
        cut = NamedSharding(mesh, P("data", "height"))
        program = jax.jit(lambda x, w: both(x, w), in_shardings=cut, out_shardings=cut)
        compiled = program.lower(x, weight).compile()
        split = compiled(*jax.device_put((x, weight), cut))
    for one, other in zip(alone, split, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-12)
    found = collectives(compiled.as_text())
    if name == "1x1":
        assert not found
    elif name == "normalise":
        assert {c.kind for c in found} == {"all-reduce"}
        assert sum(c.bytes for c in found) == 4 * 8 * 8  # mean, variance, and two in the gradient
    else:
        assert {c.kind for c in found} == {"collective-permute"}
        halo = 2 if name == "5x5" else 1
        assert max(c.bytes for c in found) == 8 * halo * 2 * SIZE[2] * 8
        assert len(found) == (2 if name == "3x3, stride 2" else 4)


def test_only_a_mesh_with_a_height_cuts_images():
    assert ops.form_on(make_mesh()) == ops.CPU
    assert ops.form_on(make_mesh(height=2)).conv != ops.CPU.conv


def test_rows_cannot_be_resized_by_no_whole_factor():
    form = ops.form_on(make_mesh(height=2))
    with pytest.raises(ValueError, match=r"from 4 to 7: the factor is not an integer\. Use crops"):
        form.resize(jnp.ones((4, 4, 4, 1)), (7, 8))
