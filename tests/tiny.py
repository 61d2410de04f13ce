"""A network small enough for tests, and the command line with it.

    python -m tests.tiny --config tests/tiny_config.py ...

It has every kind of layer of the published ones, in the smallest number.
"""

import numpy as np
from absl import app
from flax import nnx

from hrnet_jax import main
from hrnet_jax.models.hrnet import VARIANTS, Variant
from hrnet_jax.models.layers import Conv, ConvBN

VARIANTS["tiny"] = Variant(width=4, bottlenecks=1, modules=(1, 1, 1), blocks=1)


class Toy(nnx.Module):
    """Five layers that compile in a second, where the network's own shape does not matter."""

    def __init__(self, num_classes: int = 3):
        rng = np.random.default_rng(0)
        self.first = ConvBN(3, 8, kernel=3, stride=2, rng=rng)
        self.second = ConvBN(8, 8, kernel=3, stride=2, rng=rng)
        self.classify = Conv(8, num_classes, kernel=1, bias=True, rng=rng)

    def __call__(self, image):
        return self.classify(nnx.relu(self.second(nnx.relu(self.first(image)))))


if __name__ == "__main__":
    app.run(main.main, flags_parser=main.parse_flags)
