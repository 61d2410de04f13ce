import numpy as np
import pytest

from hrnet_jax.data.datasets.ade20k import CLASSES, DATASET
from hrnet_jax.data.sources.open import open_source


def test_names_and_colours_are_the_published_ones():
    names = list(CLASSES)
    assert len(names) == 150
    assert (names[0], names[7], names[149]) == ("wall", "bed", "flag")
    assert CLASSES["flag"] == (0x5C, 0x00, 0xFF)
    assert CLASSES["road"] == CLASSES["skyscraper"] == (0x8C, 0x8C, 0x8C)
    assert len(set(CLASSES.values())) == 149
    assert DATASET.classes == tuple(names)


def test_the_label_map_equals_reduce_zero_label():
    table, is_legal = DATASET.lookup_table()
    raw = np.arange(151, dtype=np.uint8)
    np.testing.assert_array_equal(table[raw], raw - 1)  # 0 becomes 255
    assert np.flatnonzero(is_legal).tolist() == list(range(151))


@pytest.mark.parametrize(("split", "folder"), [("train", "training"), ("val", "validation")])
def test_the_official_layout(tmp_path, split, folder):
    for name in (f"images/{folder}/ADE_1.jpg", f"annotations/{folder}/ADE_1.png"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_bytes(name.encode())
    (record,) = open_source(tmp_path, DATASET, split)
    assert record.id == "ADE_1"
    assert record.label == f"annotations/{folder}/ADE_1.png".encode()
    assert DATASET.counts == {"train": 20210, "val": 2000}
