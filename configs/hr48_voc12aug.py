"""FCN + HRNetV2p-W48 on Pascal VOC 2012 + Aug (21 classes).

    python -m hrnet_jax.main --config configs/hr48_voc12aug.py:20k

Published mIoU (multi-scale + flip):  20k 75.87 (78.58)   40k 76.24 (78.49)
"""

from hrnet_jax.config import recipes


def get_config(schedule: str = "20k"):
    return recipes.voc12aug(variant="hr48", schedule=schedule)
