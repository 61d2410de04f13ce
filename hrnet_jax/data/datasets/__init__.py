"""The datasets, by the name a config gives (`config.data.name`)."""

from hrnet_jax.data.dataset import Dataset
from hrnet_jax.data.datasets import ade20k, cityscapes, pascal_context, voc12aug

DATASETS: dict[str, Dataset] = {
    "cityscapes": cityscapes.DATASET,
    "ade20k": ade20k.DATASET,
    "voc12aug": voc12aug.DATASET,
    "pascal_context": pascal_context.DATASET,
    "pascal_context_59": pascal_context.DATASET_59,
    "minicity": cityscapes.MINICITY,
}
