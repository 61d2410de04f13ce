import jax.numpy as jnp
import numpy as np

from hrnet_jax.models.blocks import BasicBlock, Bottleneck


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
