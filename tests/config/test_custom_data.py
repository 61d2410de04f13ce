import json

import pytest

from hrnet_jax.config import recipes
from hrnet_jax.config.checks import validate
from hrnet_jax.config.custom_data import dataset_of
from hrnet_jax.config.stored import from_dict


def test_custom_folders_become_a_dataset():
    config = recipes.custom(variant="hr18s")
    config.data.classes = ("road", "car")
    config.data.image_suffix = ".jpeg"
    dataset = dataset_of(config)
    assert dataset.classes == ("road", "car")
    assert dataset.splits["train"][0].image_suffix == ".jpeg"


@pytest.fixture
def custom():
    config = recipes.custom(variant="hr18s")
    config.data.classes = ("road,car", " person")
    return config


def test_names_with_commas_are_several_classes(custom):
    assert dataset_of(custom).classes == ("road", "car", "person")
    validate(custom)


def test_custom_labels_colours_and_lists_need_no_code(custom):
    custom.data.label_map = "0:255, 1:0,2-4:1, 9:2,20-22:0-2"
    custom.data.palette = "804080,#00008E,dc143c"
    custom.data.images = custom.data.labels = "all"
    custom.data.list_file = "lists/{split}.txt"
    validate(custom)
    dataset = dataset_of(from_dict(json.loads(json.dumps(custom.to_dict()))))
    assert dataset.label_map == {0: 255, 1: 0, 2: 1, 3: 1, 4: 1, 9: 2, 20: 0, 21: 1, 22: 2}
    assert dataset.palette == ((0x80, 0x40, 0x80), (0, 0, 0x8E), (0xDC, 0x14, 0x3C))
    assert [part.lists for (part,) in dataset.splits.values()] == [
        ("lists/train.txt",),
        ("lists/val.txt",),
    ]


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("label_map", "0=255", r"config.data.label_map='0=255': '0=255' is not value:class"),
        ("label_map", "0:-1", r"'0:-1' is not value:class; give for example"),
        ("label_map", "0:0,0:1", r"'0:1' must map each value up to 255 once, in rising"),
        ("label_map", "4-2:1", r"in rising order"),
        ("label_map", "256:1", r"up to 255 once"),
        ("label_map", "1-3:0-1", r"'1-3:0-1' must map .* as many classes as values"),
        ("label_map", "1:0-1", r"as many classes as values"),
        ("label_map", "0:3", r"label_map maps 0 to 3; allowed are 0 to 2 and 255"),
        ("palette", "red", r"config.data.palette='red': 'red' is not a colour RRGGBB"),
        ("palette", "804080", r"3 classes but 1 palette colours"),
        ("classes", (1, 2), r"config.data.classes=\(1, 2\) must be names"),
        ("classes", ("a,a",), r"names a class twice: \['a'\]"),
        ("classes", (" ,",), r"config.data.classes is empty"),
        ("images", "images", r"must contain {split}.*with lists: --config.data.list_file"),
    ],
)
def test_custom_fields_that_cannot_work_are_refused_by_name(custom, field, value, message):
    custom.data[field] = value
    with pytest.raises(ValueError, match=message):
        validate(custom)
