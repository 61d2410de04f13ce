"""A network small enough for tests, and the command line with it.

    python -m tests.tiny --config tests/tiny_config.py ...

It has every kind of layer of the published ones, in the smallest number.
"""

from absl import app

from hrnet_jax import main
from hrnet_jax.models.hrnet import VARIANTS, Variant

VARIANTS["tiny"] = Variant(width=4, bottlenecks=1, modules=(1, 1, 1), blocks=1)

if __name__ == "__main__":
    app.run(main.main, flags_parser=main.parse_flags)
