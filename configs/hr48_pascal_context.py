"""FCN + HRNetV2p-W48 on Pascal Context (60 classes, background included).

    python -m hrnet_jax.main --config configs/hr48_pascal_context.py:40k

Published mIoU (multi-scale + flip):  40k 45.14 (47.42)   80k 45.84 (47.84)

The published numbers are for sliding windows of 480x480 with a stride of 320.
"""

from hrnet_jax.config import recipes


def get_config(schedule: str = "40k"):
    return recipes.pascal_context(variant="hr48", schedule=schedule)
