"""FCN + HRNetV2p on your own folders; the variant follows the file's name (default hr18s).

    python -m hrnet_jax.main --config configs/custom.py:hr18 --config.data.root=/path/to/data \
        --config.data.classes=road,car,person

The folder holds images/{train,val}/*.jpg and labels/{train,val}/*.png with equal names. Each pixel
of a label is the index of its class in the list, or 255 for no class. If yours differ, set
--config.data.x, where x is

    images, labels              folders below the root, as in img_dir/{split}
    image_suffix, label_suffix  how the names end
    list_file                   names without suffix, one per line, as in {split}.txt
    label_map                   label values and their classes, as in 0:255,1-3:0-2 (255: ignored)
    palette                     colours for pictures, as in 804080,00008E,DC143C

If these fields are not enough, define a `Dataset`: files in several folders, names to exclude, a
second place for missing labels. Copy this file and write:

    from hrnet_jax.data.dataset import Dataset, Part

    FOREST = Dataset(name="forest", classes=("tree", "path"), ...)

    def get_config(variant: str = "hr18s"):
        return recipes.custom(variant=variant, dataset=FOREST)

`hrnet_jax/data/datasets/` has examples. Checkpoints can label images without this file; `--mode
eval` needs it as --config to find images and labels.
"""

from hrnet_jax.config import recipes


def get_config(variant: str = "hr18s"):
    return recipes.custom(variant=variant)
