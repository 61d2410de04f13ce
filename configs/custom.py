"""FCN + HRNetV2p on your own folders; the variant follows the file's name (default hr18s).

    python -m hrnet_jax.main --config configs/custom.py:hr18 --config.data.root=/path/to/data \
        --config.data.classes="('road', 'car', 'person')"

The folder holds images/{train,val}/*.jpg and labels/{train,val}/*.png of equal names; a label's
pixels are the index of their class in the list, or 255 where there is none. Other names of
folders and files: --config.data.images, .labels, .image_suffix, .label_suffix.
"""

from hrnet_jax import recipes


def get_config(variant: str = "hr18s"):
    return recipes.custom(variant=variant)
