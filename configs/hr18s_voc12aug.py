"""FCN + HRNetV2p-W18-Small on Pascal VOC 2012 + Aug (21 classes).

    python -m hrnet_jax.main --config configs/hr18s_voc12aug.py:20k

Published mIoU (multi-scale + flip):  20k 65.50 (68.89)   40k 66.61 (70.00)
"""

from hrnet_jax.config import recipes


def get_config(schedule: str = "20k"):
    return recipes.voc12aug(variant="hr18s", schedule=schedule)
