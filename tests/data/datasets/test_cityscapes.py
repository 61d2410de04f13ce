import numpy as np

from hrnet_jax.data.datasets.cityscapes import DATASET

# "trainId name RRGGBB" as published, kept apart from the tables under test.
PUBLISHED = """
0 road 804080; 1 sidewalk F423E8; 2 building 464646; 3 wall 66669C; 4 fence BE9999; 5 pole 999999;
6 traffic light FAAA1E; 7 traffic sign DCDC00; 8 vegetation 6B8E23; 9 terrain 98FB98; 10 sky 4682B4;
11 person DC143C; 12 rider FF0000; 13 car 00008E; 14 truck 000046; 15 bus 003C64; 16 train 005064;
17 motorcycle 0000E6; 18 bicycle 770B20
"""
TRAIN_ID_TO_ID = [7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33]


def test_names_and_colors_are_the_published_ones():
    entries = [entry.split() for entry in PUBLISHED.replace("\n", " ").split(";")]
    assert [int(index) for index, *_ in entries] == list(range(19))
    assert DATASET.classes == tuple(" ".join(name) for _, *name, _ in entries)
    assert DATASET.palette == tuple(tuple(bytes.fromhex(color)) for *_, color in entries)


def test_ids_map_to_train_ids_and_all_others_are_ignored():
    table, is_legal = DATASET.lookup_table()
    assert table[TRAIN_ID_TO_ID].tolist() == list(range(19))
    assert (np.delete(table, TRAIN_ID_TO_ID) == 255).all()
    assert np.flatnonzero(is_legal).tolist() == list(range(34))


def test_the_official_layout_and_counts():
    (train,) = DATASET.splits["train"]
    assert (train.images, train.labels) == ("leftImg8bit/train", "gtFine/train")
    assert (train.image_suffix, train.label_suffix) == (
        "_leftImg8bit.png",
        "_gtFine_labelIds.png",
    )
    assert DATASET.counts == {"train": 2975, "val": 500}


def test_the_test_split_may_lack_labels():
    (test,) = DATASET.parts("test")
    assert (test.images, test.labels) == ("leftImg8bit/test", "gtFine/test")
    assert test.fallback is not None
    assert (test.fallback.images, test.fallback.labels) == ("leftImg8bit/test", None)
    assert "test" not in DATASET.splits
