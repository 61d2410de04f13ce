"""Two networks for tests, and the command line with them.

    python -m tests.tiny --config tests/tiny_config.py ...

"tiny" has every kind of layer of the published networks, as few as possible; compiling its training
step takes half a minute. "toy" is for tests of everything around a network.
"""

import numpy as np
from absl import app
from flax import nnx

from hrnet_jax import main, models
from hrnet_jax.models.hrnet import VARIANTS, Variant
from hrnet_jax.models.layers import Conv, ConvBN

VARIANTS["tiny"] = Variant(width=4, bottlenecks=1, modules=(1, 1, 1), blocks=1)


class Toy(nnx.Module):
    """Five layers that compile in a second."""

    def __init__(self, num_classes: int = 3, *, seed: int = 0):
        rng = np.random.default_rng(seed)
        self.first = ConvBN(3, 8, kernel=3, stride=2, rng=rng)
        self.second = ConvBN(8, 8, kernel=3, stride=2, rng=rng)
        self.classify = Conv(8, num_classes, kernel=1, bias=True, rng=rng)

    def __call__(self, image):
        return self.classify(nnx.relu(self.second(nnx.relu(self.first(image)))))


_build = models.build


def _build_or_toy(variant: str, *, num_classes: int, seed: int = 0):
    if variant == "toy":
        return Toy(num_classes, seed=seed)
    return _build(variant, num_classes=num_classes, seed=seed)


VARIANTS["toy"] = VARIANTS["tiny"]  # a name that configs accept
models.build = _build_or_toy


if __name__ == "__main__":
    app.run(main.main, flags_parser=main.parse_flags)
