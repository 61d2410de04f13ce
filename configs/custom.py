"""FCN + HRNetV2p on your own folders; the variant follows the file's name (default hr18s).

    python -m hrnet_jax.main --config configs/custom.py:hr18 --config.data.root=/path/to/data \
        --config.data.classes=road,car,person

The folder holds images/{train,val}/*.jpg and labels/{train,val}/*.png of equal names; a label's
pixels are the index of their class in the list, or 255 where there is none. If yours differ, say so
with --config.data.x, where x is

    images, labels              folders below the root, as in img_dir/{split}
    image_suffix, label_suffix  how the names end
    list_file                   names without suffix, one a line, as in {split}.txt
    label_map                   which value is which class, as in 0:255,1-3:0-2 (255: ignored)
    palette                     colours for pictures, as in 804080,00008E,DC143C

What these fields cannot say, a `Dataset` can: files in several folders, names to leave out, labels
elsewhere where the usual ones are missing. Copy this file and give it:

    from hrnet_jax.data.dataset import Dataset, Part

    FOREST = Dataset(name="forest", classes=("tree", "path"), ...)

    def get_config(variant: str = "hr18s"):
        return recipes.custom(variant=variant, dataset=FOREST)

`hrnet_jax/data/datasets/` has examples. Its checkpoints label images by themselves; `--mode eval`
needs this file as --config, because it says where images and labels are.
"""

from hrnet_jax.config import recipes


def get_config(variant: str = "hr18s"):
    return recipes.custom(variant=variant)
