import numpy as np

from hrnet_jax.data.datasets import ade20k
from hrnet_jax.data.datasets.pascal_context import CLASSES_59, CLASSES_60, DATASET, DATASET_59
from hrnet_jax.data.sources.open import open_source


def test_names_are_alphabetical_after_the_background():
    names = list(CLASSES_60)
    assert len(names) == 60
    assert names[0] == "background"
    assert names[1:] == sorted(names[1:]) == list(CLASSES_59)
    assert (DATASET.classes, DATASET_59.classes) == (tuple(names), tuple(names[1:]))


def test_colours_are_the_first_sixty_of_ade20k():
    assert list(CLASSES_60.values()) == list(ade20k.CLASSES.values())[:60]


def test_59_classes_are_the_same_files_without_the_background():
    table, is_legal = DATASET.lookup_table()
    table_59, is_legal_59 = DATASET_59.lookup_table()
    raw = np.arange(60, dtype=np.uint8)
    np.testing.assert_array_equal(table[raw], raw)
    np.testing.assert_array_equal(table_59[raw], raw - 1)  # 0 becomes 255
    np.testing.assert_array_equal(is_legal, is_legal_59)
    assert np.flatnonzero(is_legal).tolist() == list(range(60))
    assert DATASET.splits == DATASET_59.splits


def test_the_layout_is_the_references(tmp_path):
    for name in (
        "JPEGImages/2008_1.jpg",
        "JPEGImages/2008_2.jpg",
        "SegmentationClassContext/2008_1.png",
        "ImageSets/SegmentationContext/val.txt",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("2008_1\n")
    (record,) = open_source(tmp_path, DATASET_59, "val")
    assert record.id == "2008_1"
