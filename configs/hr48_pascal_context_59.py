"""FCN + HRNetV2p-W48 on Pascal Context (59 classes).

    python -m hrnet_jax.main --config configs/hr48_pascal_context_59.py:40k

Published mIoU (multi-scale + flip):  40k 50.33 (52.83)   80k 51.12 (53.56)

The published numbers are for sliding windows of 480x480 with a stride of 320.
"""

from hrnet_jax.config import recipes


def get_config(schedule: str = "40k"):
    return recipes.pascal_context(variant="hr48", schedule=schedule, classes=59)
