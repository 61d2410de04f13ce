"""FCN + HRNetV2p-W48 on Cityscapes.

    python -m hrnet_jax.main --config configs/hr48_cityscapes.py:40k

Published mIoU (multi-scale + flip):  40k 78.48 (79.69)   80k 79.93 (80.72)   160k 80.65 (81.92)
"""

from hrnet_jax.config import recipes


def get_config(schedule: str = "40k"):
    return recipes.cityscapes(variant="hr48", schedule=schedule)
