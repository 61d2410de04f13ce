import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from hrnet_jax.models.heads.fcn import FCNHead
from hrnet_jax.ops import resize


def test_the_head_equals_concatenation_followed_by_one_convolution():
    rng = np.random.default_rng(0)
    channels, sizes = [2, 4, 8, 16], [(9, 13), (5, 7), (3, 4), (2, 2)]
    head = FCNHead(channels, num_classes=3, rng=rng)
    features = [
        jnp.asarray(rng.standard_normal((2, *size, c)), jnp.float32)
        for size, c in zip(sizes, channels, strict=True)
    ]

    def as_the_reference(features):
        resized = [resize(x, sizes[0]) for x in features]
        unit = head.convs[0]
        return head.conv_seg(nnx.relu(unit(jnp.concatenate(resized, -1))))

    for mode in (head.eval, head.train):
        mode()
        statistics = jax.tree.map(jnp.copy, nnx.state(head, nnx.BatchStat))
        expected = as_the_reference(features)
        nnx.update(head, statistics)
        np.testing.assert_allclose(head(features), expected, rtol=1e-5, atol=1e-6)
