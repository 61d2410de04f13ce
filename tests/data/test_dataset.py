import dataclasses
import pickle

import numpy as np
import pytest

from hrnet_jax.data.dataset import Part, folder_dataset, voc_palette
from hrnet_jax.data.datasets import DATASETS
from hrnet_jax.data.datasets.cityscapes import DATASET as CITYSCAPES


def two_classes(**changes):
    return dataclasses.replace(folder_dataset(classes=("cat", "dog")), **changes)


def test_every_dataset_is_listed_under_its_name():
    assert all(name == dataset.name for name, dataset in DATASETS.items())


def test_datasets_survive_pickling_for_worker_processes():
    for dataset in DATASETS.values():
        assert pickle.loads(pickle.dumps(dataset)) == dataset


def test_minicity_is_cityscapes_with_other_counts():
    minicity = DATASETS["minicity"]
    own = ("name", "counts", "counts_are_official", "obtain")
    same = {field: getattr(CITYSCAPES, field) for field in own}
    assert dataclasses.replace(minicity, **same) == CITYSCAPES
    assert minicity.counts == {"train": 200, "val": 50}


def test_lookup_table_gives_class_indices_and_legal_values():
    table, is_legal = two_classes(label_map={7: 0, 9: 1, 3: 255}).lookup_table()
    assert (table[7], table[9], table[3]) == (0, 1, 255)
    assert np.flatnonzero(is_legal).tolist() == [3, 7, 9]
    assert (np.delete(table, [7, 9]) == 255).all()


def test_a_folder_dataset_holds_class_indices_by_default():
    dataset = folder_dataset(classes=("cat", "dog", "owl"), list_file="{split}.txt")
    assert dataset.label_map == {0: 0, 1: 1, 2: 2, 255: 255}
    assert dataset.num_classes == 3
    assert dataset.splits["val"] == (
        Part(
            images="images/val",
            labels="labels/val",
            image_suffix=".jpg",
            label_suffix=".png",
            lists=("val.txt",),
        ),
    )
    assert "images/{split}/**/*.jpg" in dataset.obtain
    assert "{split}.txt (one name without suffix per line)" in dataset.obtain


def test_voc_palette_has_the_published_colors():
    palette = voc_palette(21)
    assert palette[:4] == ((0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0))
    assert palette[8] == (64, 0, 0)
    assert palette[15] == (192, 128, 128)
    assert palette[20] == (0, 64, 128)
    assert len(set(voc_palette(256))) == 256


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"palette": ((0, 0, 0),)}, "2 classes but 1 palette colours"),
        ({"palette": ((0, 0, 0), (0, 0, 256))}, r"colour of 'dog' is \(0, 0, 256\)"),
        ({"classes": ("cat", "cat")}, r"names a class twice: \['cat'\]"),
        ({"classes": (), "palette": ()}, "has 0 classes"),
        ({"label_map": {0: 0, 256: 1}}, "raw value 256"),
        ({"label_map": {0: 0, 1: 2}}, "maps 1 to 2; allowed are 0 to 1 and 255"),
        ({"label_map": {0: 255}}, "maps no value to a class"),
        ({"counts": {"test": 5}}, r"counts images of \['test'\]"),
        ({"splits": {"train": ()}}, "a split without parts"),
    ],
)
def test_a_contradictory_dataset_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        two_classes(**changes)


def test_a_part_needs_suffixes():
    with pytest.raises(ValueError, match=r"Part\.label_suffix is empty"):
        Part(images="a", labels="b", image_suffix=".jpg", label_suffix="")
