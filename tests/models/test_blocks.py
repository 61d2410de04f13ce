import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from hrnet_jax import models, ops
from hrnet_jax.models import split
from hrnet_jax.models.blocks import BasicBlock, Bottleneck
from hrnet_jax.parallel.compiling import compiler_options


def test_a_block_whose_last_scale_is_zero_is_the_rectified_input():
    block = BasicBlock(3, rng=np.random.default_rng(0))
    block.bn2.scale.set_value(jnp.zeros(3))
    x = jnp.asarray(np.random.default_rng(1).standard_normal((1, 4, 5, 3)), jnp.float32)
    np.testing.assert_allclose(block(x), np.maximum(x, 0))


def test_only_a_bottleneck_that_changes_channels_has_a_shortcut_convolution():
    rng = np.random.default_rng(0)
    assert Bottleneck(256, 64, rng=rng).downsample is None
    widening = Bottleneck(64, 64, rng=rng)
    assert widening(jnp.ones((1, 4, 4, 64))).shape == (1, 4, 4, 256)


@pytest.mark.parametrize(("remat", "units"), [("none", 0), ("block", 10), ("stage", 5)])
def test_what_is_computed_again_is_what_was_asked_for(remat, units):
    """A bottleneck and 2 + 3 + 4 branches of one block each; or stem and stages."""
    model = models.build("tiny", num_classes=3)
    model.train()
    model.set_attributes(remat=remat)
    structure, params, batch_stats = split(model)

    def loss(image):
        return nnx.merge(structure, params, batch_stats)(image).sum()

    program = str(jax.make_jaxpr(loss)(jnp.zeros((1, 32, 32, 3))))
    assert program.count(" = checkpoint[") + program.count(" = remat2[") == units


def test_the_backward_pass_keeps_five_arrays_of_a_block_at_most():
    """Of each half what batch normalisation and what the convolution read, and the signs."""
    blocks = nnx.List([BasicBlock(16, rng=np.random.default_rng(0)) for _ in range(6)])
    blocks.train()
    structure, params, batch_stats = split(blocks)
    x = jax.ShapeDtypeStruct((2, 64, 64, 16), jnp.float32)

    def loss(params, batch_stats, x):
        with ops.use(ops.CPU):
            for block in nnx.merge(structure, params, batch_stats):
                x = block(x)
        return (x**2).sum()

    gradient = jax.jit(jax.grad(loss), compiler_options=compiler_options("cpu"))
    memory = gradient.lower(params, batch_stats, x).compile().memory_analysis()
    arrays = memory.temp_size_in_bytes / (x.size * x.dtype.itemsize)
    assert 4 * 6 < arrays < 5 * 6 + 10  # copies for the product of one weight gradient
