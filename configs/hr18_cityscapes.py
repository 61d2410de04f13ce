"""FCN + HRNetV2p-W18 on Cityscapes.

    python -m hrnet_jax.main --config configs/hr18_cityscapes.py:40k

Published mIoU (multi-scale + flip):  40k 77.19 (78.92)   80k 78.65 (80.35)   160k 78.80 (80.74)
"""

from hrnet_jax.config import recipes


def get_config(schedule: str = "40k"):
    return recipes.cityscapes(variant="hr18", schedule=schedule)
