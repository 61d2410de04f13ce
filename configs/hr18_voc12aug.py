"""FCN + HRNetV2p-W18 on Pascal VOC 2012 + Aug (21 classes).

    python -m hrnet_jax.main --config configs/hr18_voc12aug.py:20k

Published mIoU (multi-scale + flip):  20k 72.30 (74.71)   40k 72.90 (75.59)
"""

from hrnet_jax.config import recipes


def get_config(schedule: str = "20k"):
    return recipes.voc12aug(variant="hr18", schedule=schedule)
