import json
import math

import pytest

from hrnet_jax.config import defaults as configs
from hrnet_jax.config import recipes


@pytest.fixture
def config():
    return recipes.cityscapes(variant="hr18", schedule="40k")


def test_every_recipe_validates(config):
    configs.validate(config)
    configs.validate(recipes.minicity(variant="hr18s"))


def test_a_config_survives_json(config):
    again = configs.from_json(json.dumps(config.to_dict()))
    assert again.to_dict() == config.to_dict()
    assert isinstance(again.train.crop_size, tuple)
    assert configs.from_dict(json.loads(json.dumps(config.to_dict()))).to_dict() == config.to_dict()


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("reference", "v2", r"config.reference='v2' must be one of v0, v1"),
        ("model.variant", "hr18x", r"config.model.variant='hr18x' must be one of .*Did you mean"),
        ("model.dtype", "float16", r"must be one of float32, bfloat16, float64"),
        ("data.name", "minicty", r"Did you mean 'minicity'"),
        (
            "train.crop_size",
            (512,),
            r"config.train.crop_size=\(512,\) is not a size; give \(height",
        ),
        ("train.crop_size", (512, 0), r"is not a size"),
        ("train.steps", 0, r"config.train.steps=0 must be at least 1"),
        ("eval.every_steps", 4001, r"must be a multiple of config.checkpoint.every_steps=4000"),
        ("mesh.data", 0, r"config.mesh.data=0 must be at least 1, or -1 for all devices that conf"),
        ("mesh.height", 0, r"config.mesh.height=0 must be at least 1"),
        ("mesh.timeout", 0, r"config.mesh.timeout=0 must be at least 1"),
        ("train.accumulate", 0, r"config.train.accumulate=0 must be at least 1"),
        ("train.remat", "blocks", r"one of none, block, stage. Did you mean 'block'"),
        ("data.mean", (1.0, 2.0), r"config.data.mean=\(1.0, 2.0\) must be three numbers"),
        ("data.std", (1.0, 0.0, 1.0), r"0.0 is no finite number from 0.01 to 10000"),
        ("data.mean", (0.0, math.nan, 1.0), r"nan is no finite number from 0 to 255"),
        ("eval.split", "tset", r"must be one of val, train, test. Did you mean 'test'"),
        (
            "eval.submission",
            "cityscape",
            r"one of '', cityscapes, ade20k. Did you mean 'cityscapes'",
        ),
        ("eval.limit", -1, r"config.eval.limit=-1 must not be negative"),
        ("data.on_error", "skip", r"must be one of stop, quarantine"),
        ("data.workers", -1, r"config.data.workers=-1 must not be negative"),
        ("optim.lr", -0.1, r"config.optim.lr=-0.1: -0.1 is no finite number from 1e-12 to 1000"),
        ("optim.lr", math.inf, r"config.optim.lr=inf: inf is no finite number"),
        ("optim.min_lr", math.nan, r"config.optim.min_lr=nan: nan is no finite number from 0 to"),
        ("optim.min_lr", math.inf, r"inf is no finite number"),
        ("optim.power", math.nan, r"config.optim.power=nan: nan is no finite number from 0 to 100"),
        ("optim.power", -1.0, r"-1.0 is no finite number"),
        (
            "optim.momentum",
            1.0,
            r"config.optim.momentum=1.0: 1.0 is no finite number from 0 to 0.9999",
        ),
        ("optim.weight_decay", math.inf, r"config.optim.weight_decay=inf: inf is no finite"),
        (
            "eval.ratios",
            (0.5, "x"),
            r"config.eval.ratios=\(0.5, 'x'\): 'x' is no finite number from",
        ),
        ("eval.ratios", (math.nan,), r"config.eval.ratios=\(nan,\): nan is no finite number"),
        ("eval.ratios", (math.inf,), r"inf is no finite number from 0.01 to 100"),
        ("eval.ratios", (), r"config.eval.ratios is empty; give scales"),
        ("train.class_weights", ("a",) * 19, r"'a' is no finite number from 0 to"),
        ("train.class_weights", (math.nan,) * 19, r"nan is no finite number"),
        (
            "train.class_weights",
            (0.0,) * 19,
            r"has 19 values; give 19, one per class and not all 0",
        ),
        ("data.images", "images", r"must contain {split}"),
        ("train.class_weights", (1.0,), r"has 1 values; give 19"),
        ("train.ratio_range", (2.0, 0.5), r"must be two numbers, the lower one first"),
        ("train.ratio_range", (1.0, 1e9), r"1000000000.0 is no finite number from 0.01 to 100"),
        ("train.ratio_range", (1e-9, 1e-9), r"1e-09 is no finite number"),
        ("train.ratio_range", (math.nan, 1.0), r"nan is no finite number"),
        ("train.ratio_range", (2.0,), r"must be two numbers"),
        ("data.name", "custom", r"config.data.classes is empty; name the classes"),
    ],
)
def test_values_that_cannot_work_are_refused_by_name(config, field, value, message):
    section, _, name = field.rpartition(".")
    with config.unlocked():
        (configs.get(config, section) if section else config)[name] = value
    with pytest.raises(ValueError, match=message):
        configs.validate(config)


def test_only_what_decides_the_result_counts_as_a_difference(config):
    other = configs.from_json(json.dumps(config.to_dict()))
    other.log.every_steps = 7
    other.data.root = "/elsewhere"
    assert configs.differences(config, other) == []
    other.optim.lr = 0.02
    assert configs.differences(config, other) == ["optim.lr: 0.01 -> 0.02"]


def test_fields_are_listed_by_dotted_name(config):
    assert {"reference", "train.batch_size", "optim.lr"} <= set(configs.fields(config))


def test_custom_folders_become_a_dataset():
    config = recipes.custom(variant="hr18s")
    config.data.classes = ("road", "car")
    config.data.image_suffix = ".jpeg"
    dataset = configs.dataset_of(config)
    assert dataset.classes == ("road", "car")
    assert dataset.splits["train"][0].image_suffix == ".jpeg"


@pytest.fixture
def custom():
    config = recipes.custom(variant="hr18s")
    config.data.classes = ("road,car", " person")
    return config


def test_names_with_commas_are_several_classes(custom):
    assert configs.dataset_of(custom).classes == ("road", "car", "person")
    configs.validate(custom)


def test_custom_labels_colours_and_lists_need_no_code(custom):
    custom.data.label_map = "0:255, 1:0,2-4:1, 9:2,20-22:0-2"
    custom.data.palette = "804080,#00008E,dc143c"
    custom.data.images = custom.data.labels = "all"
    custom.data.list_file = "lists/{split}.txt"
    configs.validate(custom)
    dataset = configs.dataset_of(configs.from_json(json.dumps(custom.to_dict())))
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
        ("label_map", "0:0,0:1", r"'0:1' gives values again, above 255, backwards"),
        ("label_map", "4-2:1", r"backwards"),
        ("label_map", "256:1", r"above 255"),
        ("label_map", "1-3:0-1", r"'1-3:0-1' gives .* not as many as classes"),
        ("label_map", "1:0-1", r"not as many as classes"),
        ("label_map", "0:3", r"label_map sends 0 to 3; allowed are 0 to 2 and 255"),
        ("palette", "red", r"config.data.palette='red': 'red' is not a colour RRGGBB"),
        ("palette", "804080", r"3 classes but 1 palette colours"),
        ("classes", (1, 2), r"config.data.classes=\(1, 2\) must be names"),
        ("classes", ("a,a",), r"names a class twice: \['a'\]"),
        ("classes", (" ,",), r"config.data.classes is empty"),
        ("images", "images", r"must contain {split}.*name lists with --config.data.list_file"),
    ],
)
def test_custom_fields_that_cannot_work_are_refused_by_name(custom, field, value, message):
    custom.data[field] = value
    with pytest.raises(ValueError, match=message):
        configs.validate(custom)


def test_a_number_belongs_to_protocol_precision_and_images_a_label_map_to_the_first_two():
    config = recipes.minicity(variant="hr18s")
    config.model.dtype, config.eval.split, config.eval.limit = "bfloat16", "train", 5
    labelled, scored = configs.describe_protocol(config), configs.describe_evaluation(config)
    assert labelled == f"{configs.protocol_of(config).describe()}, in bfloat16"
    assert scored == f"{labelled}, on the train split, the first 5 images only"
