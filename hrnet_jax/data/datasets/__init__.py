"""The datasets, by the name a config gives (`config.data.name`)."""

import dataclasses

from hrnet_jax.data.dataset import Dataset
from hrnet_jax.data.datasets import ade20k, cityscapes, pascal_context, voc12aug

# Street scenes drawn by this package, stored exactly as Cityscapes is.
_MINICITY = dataclasses.replace(
    cityscapes.DATASET,
    name="minicity",
    counts={"train": 200, "val": 50},  # unless drawn in another number
    counts_are_official=False,
    obtain="Nothing to download: configs/hr18s_minicity.py draws it where there is no folder.\n"
    "Remove the incomplete one, then start again.",
)

DATASETS: dict[str, Dataset] = {
    dataset.name: dataset
    for dataset in (
        cityscapes.DATASET,
        ade20k.DATASET,
        voc12aug.DATASET,
        pascal_context.DATASET,
        pascal_context.DATASET_59,
        _MINICITY,
    )
}
