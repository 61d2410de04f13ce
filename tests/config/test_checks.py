import math

import pytest

from hrnet_jax.config import recipes
from hrnet_jax.config.checks import get, validate


@pytest.fixture
def config():
    return recipes.cityscapes(variant="hr18", schedule="40k")


def test_every_recipe_validates(config):
    validate(config)
    validate(recipes.minicity(variant="hr18s"))


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("reference", "v2", r"config.reference='v2' must be one of v0, v1"),
        ("model.variant", "hr18x", r"config.model.variant='hr18x' must be one of .*Did you mean"),
        ("model.dtype", "float16", r"must be one of float32, bfloat16, float64"),
        ("data.name", "minicty", r"Did you mean 'minicity'"),
        ("model.head", "mine", r"one of fcn.*What a recipe adds is known only if"),
        ("train.loss", "mine", r"one of cross_entropy.*What a recipe adds is known only if"),
        ("optim.name", "mine", r"one of sgd, adamw.*What a recipe adds is known only if"),
        ("data.name", "xyz", r"What a recipe adds is known only if --config names that"),
        (
            "train.crop_size",
            (512,),
            r"config.train.crop_size=\(512,\) is not a size; give \(height",
        ),
        ("train.crop_size", (512, 0), r"is not a size"),
        ("train.steps", 0, r"config.train.steps=0 must be at least 1"),
        ("eval.every_steps", 4001, r"must be a multiple of config.checkpoint.every_steps=4000"),
        ("mesh.height", 0, r"config.mesh.height=0 must be at least 1"),
        ("mesh.timeout", 0, r"config.mesh.timeout=0 must be at least 1"),
        ("train.accumulate", 0, r"config.train.accumulate=0 must be at least 1"),
        ("train.remat", "blocks", r"one of none, block, stage. Did you mean 'block'"),
        ("data.mean", (1.0, 2.0), r"config.data.mean=\(1.0, 2.0\) must be three numbers"),
        ("data.std", (1.0, 0.0, 1.0), r"0.0 is not a number from 0.01 to 10000"),
        ("data.mean", (0.0, math.nan, 1.0), r"nan is not a number from 0 to 255"),
        ("data.on_error", "skip", r"must be one of stop, quarantine"),
        ("data.workers", -1, r"config.data.workers=-1 must not be negative"),
        ("optim.lr", -0.1, r"config.optim.lr=-0.1: -0.1 is not a number from 1e-12 to 1000"),
        ("optim.lr", math.inf, r"config.optim.lr=inf: inf is not a number"),
        (
            "optim.min_lr",
            math.nan,
            r"config.optim.min_lr=nan: nan is not a number from 0 to",
        ),
        ("optim.min_lr", math.inf, r"inf is not a number"),
        (
            "optim.power",
            math.nan,
            r"config.optim.power=nan: nan is not a number from 0 to 100",
        ),
        ("optim.power", -1.0, r"-1.0 is not a number"),
        (
            "optim.momentum",
            1.0,
            r"config.optim.momentum=1.0: 1.0 is not a number from 0 to 0.9999",
        ),
        ("optim.weight_decay", math.inf, r"config.optim.weight_decay=inf: inf is not a number"),
        (
            "eval.ratios",
            (0.5, "x"),
            r"config.eval.ratios=\(0.5, 'x'\): 'x' is not a number from",
        ),
        ("eval.ratios", (math.nan,), r"config.eval.ratios=\(nan,\): nan is not a number"),
        ("eval.ratios", (math.inf,), r"inf is not a number from 0.01 to 100"),
        ("eval.ratios", (), r"config.eval.ratios is empty; give scales"),
        ("train.class_weights", ("a",) * 19, r"'a' is not a number from 0 to"),
        ("train.class_weights", (math.nan,) * 19, r"nan is not a number"),
        (
            "train.class_weights",
            (0.0,) * 19,
            r"has 19 values; give 19, one per class and not all 0",
        ),
        ("data.images", "images", r"must contain {split}"),
        ("train.class_weights", (1.0,), r"has 1 values; give 19"),
        ("train.ratio_range", (2.0, 0.5), r"must be two numbers, the lower one first"),
        ("train.ratio_range", (1.0, 1e9), r"1000000000.0 is not a number from 0.01 to 100"),
        ("train.ratio_range", (1e-9, 1e-9), r"1e-09 is not a number"),
        ("train.ratio_range", (math.nan, 1.0), r"nan is not a number"),
        ("train.ratio_range", (2.0,), r"must be two numbers"),
        ("data.name", "custom", r"config.data.classes is empty; name the classes"),
    ],
)
def test_values_that_cannot_work_are_refused_by_name(config, field, value, message):
    section, _, name = field.rpartition(".")
    with config.unlocked():
        (get(config, section) if section else config)[name] = value
    with pytest.raises(ValueError, match=message):
        validate(config)
