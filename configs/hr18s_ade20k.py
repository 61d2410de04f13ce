"""FCN + HRNetV2p-W18-Small on ADE20K (150 classes).

    python -m hrnet_jax.main --config configs/hr18s_ade20k.py:80k

Published mIoU (multi-scale + flip):  80k 31.38 (32.45)   160k 33.07 (34.56)
"""

from hrnet_jax.config import recipes


def get_config(schedule: str = "80k"):
    return recipes.ade20k(variant="hr18s", schedule=schedule)
