"""FCN + HRNetV2p-W18 on ADE20K (150 classes).

    python -m hrnet_jax.main --config configs/hr18_ade20k.py:80k

Published mIoU (multi-scale + flip):  80k 36.27 (37.28)   160k 36.79 (38.58)
"""

from hrnet_jax.config import recipes


def get_config(schedule: str = "80k"):
    return recipes.ade20k(variant="hr18", schedule=schedule)
