"""Small networks for tests, and the command line with them.

    python -m tests.tiny --config tests/tiny_config.py ...

"tiny" has every kind of layer of the published ones, in the smallest number; compiling its training
step takes half a minute. "toy" is for tests of all that goes on around a network. Both enter by
the dict that users add theirs to.
"""

import numpy as np
from absl import app
from flax import nnx

from hrnet_jax import main
from hrnet_jax.models import VARIANTS
from hrnet_jax.models.hrnet import Variant
from hrnet_jax.models.layers import Conv, ConvBN
from hrnet_jax.ops import relu

VARIANTS["tiny"] = Variant(width=4, bottlenecks=1, modules=(1, 1, 1), blocks=1)


class ToyVariant(Variant):
    """A backbone of two layers, with one feature at stride 4."""

    def channels(self, branches):
        return [8]

    def backbone(self, *, rng):
        return ToyBackbone(rng=rng)


class ToyBackbone(nnx.Module):
    def __init__(self, *, rng):
        self.first = ConvBN(3, 8, kernel=3, stride=2, rng=rng)
        self.second = ConvBN(8, 8, kernel=3, stride=2, rng=rng)

    def __call__(self, image):
        return [relu(self.second(relu(self.first(image))))]


VARIANTS["toy"] = ToyVariant(width=8, bottlenecks=0, modules=(0, 0, 0), blocks=0)


class Toy(nnx.Module):
    """Five layers that compile in a second."""

    def __init__(self, num_classes: int = 3, *, seed: int = 0):
        rng = np.random.default_rng(seed)
        self.first = ConvBN(3, 8, kernel=3, stride=2, rng=rng)
        self.second = ConvBN(8, 8, kernel=3, stride=2, rng=rng)
        self.classify = Conv(8, num_classes, kernel=1, bias=True, rng=rng)

    def __call__(self, image):
        return self.classify(relu(self.second(relu(self.first(image)))))


if __name__ == "__main__":
    app.run(main.main, flags_parser=main.parse_flags)
