"""FCN + HRNetV2p-W18-Small on Cityscapes.

    python -m hrnet_jax.main --config configs/hr18s_cityscapes.py:40k

Published mIoU (multi-scale + flip):  40k 73.86 (75.91)   80k 75.31 (77.48)   160k 76.31 (78.31)
"""

from hrnet_jax.config import recipes


def get_config(schedule: str = "40k"):
    return recipes.cityscapes(variant="hr18s", schedule=schedule)
