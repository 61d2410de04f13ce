"""FCN + HRNetV2p-W18-Small on minicity, the street scenes that this package draws itself.

    python -m hrnet_jax.main --config configs/hr18s_minicity.py

Needs no data and no GPU: takes minutes on two CPU cores.
"""

from hrnet_jax.config import recipes


def get_config():
    return recipes.minicity(variant="hr18s")
