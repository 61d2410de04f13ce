import json

import pytest

from hrnet_jax import config as configs
from hrnet_jax import recipes


@pytest.fixture
def config():
    return recipes.cityscapes(variant="hr18", schedule="40k")


def test_every_recipe_validates(config):
    configs.validate(config)
    configs.validate(recipes.minicity(variant="hr18s"))


def test_a_config_survives_json(config):
    again = configs.from_json(configs.to_json(config))
    assert again.to_dict() == config.to_dict()
    assert isinstance(again.train.crop_size, tuple)
    assert configs.from_dict(json.loads(configs.to_json(config))).to_dict() == config.to_dict()


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
        ("data.mean", (1.0, 2.0), r"config.data.mean=\(1.0, 2.0\) must be three numbers"),
        ("data.std", (1.0, 0.0, 1.0), r"std above 0"),
        ("data.on_error", "skip", r"must be one of stop, quarantine"),
        ("data.workers", -1, r"config.data.workers=-1 must not be negative"),
        ("optim.lr", -0.1, r"config.optim.lr=-0.1 must be positive"),
        ("data.images", "images", r"must contain {split}"),
        ("train.class_weights", (1.0,), r"has 1 values, .* give 19"),
        ("train.ratio_range", (2.0, 0.5), r"must be two numbers with 0 < low <= high"),
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
    other = configs.from_json(configs.to_json(config))
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
