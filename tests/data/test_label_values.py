"""Labels of another meaning are recognised; clean labels of any kind are not suspected."""

import pytest

from hrnet_jax.data.dataset import folder_dataset
from hrnet_jax.data.datasets.cityscapes import DATASET as CITYSCAPES
from tests.data.in_memory import PETS, findings, labels, source

ADE_MAP = {0: 255} | {raw: raw - 1 for raw in range(1, 151)}
ADE = folder_dataset(classes=tuple(f"c{i}" for i in range(150)), label_map=ADE_MAP)
CONTEXT_59 = folder_dataset(
    classes=tuple(f"c{i}" for i in range(1, 60)),
    label_map={0: 255} | {raw: raw - 1 for raw in range(1, 60)},
)
CONTEXT_60 = folder_dataset(classes=("background", *(f"c{i}" for i in range(1, 60))))
VOC = folder_dataset(classes=("background", *(f"c{i}" for i in range(1, 21))))
PLAIN_19, PLAIN_150, PLAIN_59 = (
    folder_dataset(classes=tuple(f"c{i}" for i in range(count))) for count in (19, 150, 59)
)

MEANINGS = {
    "binary mask": ([0, 255], PETS, "0 and 255 only: binary masks?"),
    "binary mask, one class more": (
        [0, 255], folder_dataset(classes=("no", "yes"), label_map={0: 0, 1: 1}), "binary masks?",
    ),
    "scaled for the eye": ([0, 85, 170], PETS, "multiples of 85"),
    "one value": ([1], PETS, "every pixel of every label is 1"),
    "labelIds for trainIds": ([0, 7, 8, 11, 21, 23, 26], PLAIN_19, "Cityscapes' labelIds"),
    "trainIds for labelIds": (range(19), CITYSCAPES, "look like class indices"),
    "trainIds with 255": ([*range(19), 255], CITYSCAPES, "look like class indices"),
    "classes from 1": ([0, 1, 2, 3], PETS, "classes counted from 1, with 0 for unlabelled"),
    "ADE20K as indices": (range(151), PLAIN_150, "as in ADE20K's files"),
    "some of ADE20K as indices": ([0, 1, 4, 17], PLAIN_150, "look like ADE20K's own files"),
    "ADE20K mapped twice": ([0, 3, 149, 255], ADE, "look already mapped"),
    "Context 60 as 59": (range(60), PLAIN_59, "as in Pascal Context's 60 classes"),
    "Context 59 as 60": ([0, 5, 58, 255], CONTEXT_60, "look like Pascal Context's 59 classes"),
    "Context 59 mapped twice": ([0, 5, 58, 255], CONTEXT_59, "look already mapped"),
}  # fmt: skip


@pytest.mark.parametrize("meaning", MEANINGS)
def test_labels_of_another_meaning_get_the_right_suggestion(meaning):
    values, dataset, text = MEANINGS[meaning]
    (finding,) = [f for f in findings(source(labels(values)), dataset) if f.kind == "meaning"]
    assert text in finding.problem
    assert not finding.stops_training
    assert finding.suggestion


CLEAN = {
    "pets": ([0, 1, 2, 255], PETS),
    "pets without 255": ([0, 1, 2], PETS),
    "rare last class": ([0, 1], PETS),
    "VOC": ([0, 3, 15, 255], VOC),
    "cityscapes": ([0, 1, 7, 8, 11, 21, 23, 26], CITYSCAPES),
    "ADE20K": ([0, 1, 3, 17, 150], ADE),
    "some of ADE20K": ([0, 1, 3, 17], ADE),
    "ADE20K, mapped": ([0, 3, 17, 149, 255], PLAIN_150),
    "Context 60": ([0, 3, 15, 59], CONTEXT_60),
    "Context 59": ([0, 3, 15, 59], CONTEXT_59),
    "mask": ([0, 1], folder_dataset(classes=("no", "yes"))),
    "mask of 255": (
        [0, 255], folder_dataset(classes=("no", "yes"), label_map={0: 0, 255: 1}),
    ),
}  # fmt: skip


@pytest.mark.parametrize("clean", CLEAN)
def test_clean_data_raises_no_alarm(clean):
    values, dataset = CLEAN[clean]
    val = source(labels(values, number=3), name="val", first=100)
    assert findings(source(labels(values)), dataset, val=val) == []
