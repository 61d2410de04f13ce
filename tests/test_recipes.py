import importlib.util
from pathlib import Path

import pytest

from hrnet_jax import config as configs

FOLDER = Path(__file__).parent.parent / "configs"
FILES = sorted(path.stem for path in FOLDER.glob("*.py"))


def load(name: str, *argument: str):
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config(*argument)


@pytest.mark.parametrize("name", FILES)
def test_every_config_file_loads_and_says_its_command(name):
    config = load(name)
    if name == "custom":
        config.data.classes = ("a",)
    configs.validate(config)
    assert f"--config configs/{name}.py" in (FOLDER / f"{name}.py").read_text()


@pytest.mark.parametrize("variant", ["hr18s", "hr18", "hr48"])
@pytest.mark.parametrize(
    ("schedule", "steps"), [("40k", 40_000), ("80k", 80_000), ("160k", 160_000)]
)
def test_cityscapes_rows_have_the_published_settings(variant, schedule, steps):
    config = load(f"{variant}_cityscapes", schedule)
    assert config.name == f"{variant}_cityscapes_{schedule}"
    assert config.model.variant == variant
    assert config.reference == "v0"
    assert config.train.to_dict() == {
        "steps": steps,
        "batch_size": 8,
        "image_size": (1024, 2048),
        "ratio_range": (0.5, 2.0),
        "crop_size": (512, 1024),
        "class_weights": (),
        "max_bad_steps": 10,
    }
    assert config.optim.to_dict() == {
        "lr": 0.01, "min_lr": 1e-4, "power": 0.9, "momentum": 0.9, "weight_decay": 5e-4
    }  # fmt: skip
    assert config.eval.image_size == (1024, 2048)
    assert config.eval.every_steps == config.checkpoint.every_steps == steps // 10


def test_an_unpublished_schedule_names_the_published_ones():
    with pytest.raises(ValueError, match=r"no schedule '20k' .* use one of 40k, 80k, 160k"):
        load("hr18_cityscapes", "20k")
