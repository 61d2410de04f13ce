import pytest

from hrnet_jax.data.datasets.pascal_context import CLASSES_60
from hrnet_jax.interop.class_names import class_names

ZOO = {
    19: "cityscapes",
    150: "ade20k",
    21: "voc12aug",
    60: "pascal_context",
    59: "pascal_context_59",
}


@pytest.mark.parametrize("count", ZOO)
def test_the_dataset_follows_from_the_number_of_classes(count):
    found = class_names(count)
    assert found.dataset == ZOO[count]
    assert len(found.names) == len(found.palette) == count
    assert found.origin == "from their number"


def test_the_names_in_the_file_are_preferred():
    found = class_names(3, names=("a", "b", "c"), palette=((1, 2, 3),) * 3)
    assert (found.dataset, found.names) == ("custom", ("a", "b", "c"))
    assert found.palette == ((1, 2, 3),) * 3
    assert class_names(19, names=tuple(map(str, range(19)))).dataset == "custom"


def test_names_that_do_not_fit_are_not_used():
    found = class_names(19, names=("a", "b"))
    assert found.dataset == "cityscapes"
    assert found.origin == "from their number (the file names 2)"


def test_unknown_classes_are_numbered():
    assert class_names(2).names == ("class 0", "class 1")


def test_the_names_in_2020s_pascal_context_files_are_in_the_wrong_order():
    first = ["background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car"]
    wrong = tuple(first + [name for name in CLASSES_60 if name not in first])
    found = class_names(60, names=wrong)
    assert found.names == tuple(CLASSES_60)
    assert found.dataset == "pascal_context"
    assert "2020" in found.origin
