"""FCN + HRNetV2p-W48 on ADE20K (150 classes).

    python -m hrnet_jax.main --config configs/hr48_ade20k.py:80k

Published mIoU (multi-scale + flip):  80k 41.90 (43.27)   160k 42.02 (43.86)
"""

from hrnet_jax.config import recipes


def get_config(schedule: str = "80k"):
    return recipes.ade20k(variant="hr48", schedule=schedule)
