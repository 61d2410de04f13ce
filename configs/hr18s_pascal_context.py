"""FCN + HRNetV2p-W18-Small on Pascal Context (60 classes, background included).

    python -m hrnet_jax.main --config configs/hr18s_pascal_context.py:40k

No run of this variant was published; schedules: 40k and 80k.
"""

from hrnet_jax.config import recipes


def get_config(schedule: str = "40k"):
    return recipes.pascal_context(variant="hr18s", schedule=schedule)
