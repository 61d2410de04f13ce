import importlib.util
import re
from pathlib import Path

import pytest

from hrnet_jax.config import recipes
from hrnet_jax.config.checks import validate
from hrnet_jax.config.custom_data import dataset_of
from hrnet_jax.data.dataset import folder_dataset
from hrnet_jax.data.datasets import DATASETS

FOLDER = Path(__file__).parents[2] / "configs"
FILES = sorted(path.stem for path in FOLDER.glob("*.py"))

# The 25 published runs: file, schedule, steps, batch, (long, short side), crop, learning rate,
# weight decay, classes, mIoU, mIoU with several scales and flip.
CITYSCAPES = (8, (1024, 2048), (512, 1024), 0.01, 5e-4, 19)
ADE20K = (16, (512, 2048), (512, 512), 0.01, 5e-4, 150)
VOC12AUG = (16, (512, 2048), (512, 512), 0.01, 5e-4, 21)
CONTEXT_60 = (16, (520, 520), (480, 480), 0.004, 1e-4, 60)
CONTEXT_59 = (16, (520, 520), (480, 480), 0.004, 1e-4, 59)
ROWS = [
    ("hr18s_cityscapes", "40k", 40_000, *CITYSCAPES, "73.86", "75.91"),
    ("hr18_cityscapes", "40k", 40_000, *CITYSCAPES, "77.19", "78.92"),
    ("hr48_cityscapes", "40k", 40_000, *CITYSCAPES, "78.48", "79.69"),
    ("hr18s_cityscapes", "80k", 80_000, *CITYSCAPES, "75.31", "77.48"),
    ("hr18_cityscapes", "80k", 80_000, *CITYSCAPES, "78.65", "80.35"),
    ("hr48_cityscapes", "80k", 80_000, *CITYSCAPES, "79.93", "80.72"),
    ("hr18s_cityscapes", "160k", 160_000, *CITYSCAPES, "76.31", "78.31"),
    ("hr18_cityscapes", "160k", 160_000, *CITYSCAPES, "78.80", "80.74"),
    ("hr48_cityscapes", "160k", 160_000, *CITYSCAPES, "80.65", "81.92"),
    ("hr18s_ade20k", "80k", 80_000, *ADE20K, "31.38", "32.45"),
    ("hr18_ade20k", "80k", 80_000, *ADE20K, "36.27", "37.28"),
    ("hr48_ade20k", "80k", 80_000, *ADE20K, "41.90", "43.27"),
    ("hr18s_ade20k", "160k", 160_000, *ADE20K, "33.07", "34.56"),
    ("hr18_ade20k", "160k", 160_000, *ADE20K, "36.79", "38.58"),
    ("hr48_ade20k", "160k", 160_000, *ADE20K, "42.02", "43.86"),
    ("hr18s_voc12aug", "20k", 20_000, *VOC12AUG, "65.50", "68.89"),
    ("hr18_voc12aug", "20k", 20_000, *VOC12AUG, "72.30", "74.71"),
    ("hr48_voc12aug", "20k", 20_000, *VOC12AUG, "75.87", "78.58"),
    ("hr18s_voc12aug", "40k", 40_000, *VOC12AUG, "66.61", "70.00"),
    ("hr18_voc12aug", "40k", 40_000, *VOC12AUG, "72.90", "75.59"),
    ("hr48_voc12aug", "40k", 40_000, *VOC12AUG, "76.24", "78.49"),
    ("hr48_pascal_context", "40k", 40_000, *CONTEXT_60, "45.14", "47.42"),
    ("hr48_pascal_context", "80k", 80_000, *CONTEXT_60, "45.84", "47.84"),
    ("hr48_pascal_context_59", "40k", 40_000, *CONTEXT_59, "50.33", "52.83"),
    ("hr48_pascal_context_59", "80k", 80_000, *CONTEXT_59, "51.12", "53.56"),
]  # fmt: skip


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
    validate(config)
    assert f"--config configs/{name}.py" in (FOLDER / f"{name}.py").read_text()


def test_every_published_dataset_has_a_config_of_every_variant():
    datasets = {"cityscapes", "ade20k", "voc12aug", "pascal_context", "pascal_context_59"}
    expected = {f"{variant}_{name}" for variant in ("hr18s", "hr18", "hr48") for name in datasets}
    assert expected == set(FILES) - {"custom", "hr18s_minicity"}
    for name in expected:
        config = load(name)
        assert name == f"{config.model.variant}_{config.data.name}"


def test_there_are_25_published_runs():
    assert len({row[:2] for row in ROWS}) == len(ROWS) == 25


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row[0]}_{row[1]}")
def test_a_published_run_has_its_settings(row):
    name, schedule, steps, batch_size, image_size, crop_size, lr, decay, classes, *miou = row
    config = load(name, schedule)
    assert config.name == f"{name}_{schedule}"
    assert config.model.to_dict() == {
        "variant": name.partition("_")[0], "head": "fcn", "dtype": "float32"
    }  # fmt: skip
    assert config.data.name == name.partition("_")[2]
    assert dataset_of(config).num_classes == classes
    assert config.data.mean == (123.675, 116.28, 103.53)
    assert config.data.std == (58.395, 57.12, 57.375)
    assert (config.reference, config.init_from, config.seed) == ("v0", "", 0)
    assert config.train.to_dict() == {
        "steps": steps,
        "batch_size": batch_size,
        "image_size": image_size,
        "ratio_range": (0.5, 2.0),
        "crop_size": crop_size,
        "augmentations": (),
        "loss": "cross_entropy",
        "class_weights": (),
        "max_bad_steps": 10,
        "accumulate": 1,
        "remat": "none",
    }
    assert config.mesh.to_dict() == {"height": 1, "timeout": 60}
    assert config.optim.to_dict() == {
        "name": "sgd", "lr": lr, "head_lr": None, "min_lr": 1e-4, "power": 0.9, "momentum": 0.9,
        "weight_decay": decay, "freeze": (),
    }  # fmt: skip
    assert config.eval.image_size == image_size
    mode = "slide" if "context" in name else "whole"
    assert (config.eval.mode, config.eval.crop_size, config.eval.stride) == (
        mode, (480, 480), (320, 320)
    )  # fmt: skip
    assert (config.eval.ratios, config.eval.flip) == ((1.0,), False)
    assert config.eval.every_steps == config.checkpoint.every_steps == steps // 10
    text = (FOLDER / f"{name}.py").read_text()
    assert re.search(rf"\b{schedule} {miou[0]} \({miou[1]}\)", text)


@pytest.mark.parametrize(
    ("name", "schedule", "allowed"),
    [
        ("hr18_cityscapes", "20k", "40k, 80k, 160k"),
        ("hr18_ade20k", "40k", "80k, 160k"),
        ("hr18_voc12aug", "80k", "20k, 40k"),
        ("hr48_pascal_context", "160k", "40k, 80k"),
    ],
)
def test_an_unpublished_schedule_names_the_published_ones(name, schedule, allowed):
    with pytest.raises(ValueError, match=f"no schedule '{schedule}' .* use one of {allowed},"):
        load(name, schedule)


def test_pascal_context_has_two_numbers_of_classes():
    with pytest.raises(ValueError, match="has 60 classes, or 59 without background; not 33"):
        recipes.pascal_context(variant="hr48", schedule="40k", classes=33)


def test_a_dataset_may_be_an_object(monkeypatch):
    mine = folder_dataset(name="forest", classes=("tree", "path"))
    monkeypatch.setitem(DATASETS, "forest", mine)  # as a recipe does that was read before
    config = recipes.custom(variant="hr18", dataset=mine)
    assert (config.name, config.data.name) == ("hr18_forest", "forest")
    assert dataset_of(config) is mine
    validate(config)
    for name in ("forest", "cityscapes", "custom"):
        other = folder_dataset(name=name, classes=("tree",))
        with pytest.raises(ValueError, match=f"The name '{name}' is taken; give Dataset"):
            recipes.custom(variant="hr18", dataset=other)


def test_a_recipe_may_lie_in_the_home_folder(home):
    (home / "mine.py").touch()
    assert recipes.locate("~/mine.py") == home / "mine.py"


def test_a_recipe_is_found_here_else_in_the_installed_package(tmp_path, monkeypatch):
    assert recipes.locate("configs/custom.py") == Path("configs/custom.py")
    installed = tmp_path / "site" / "hrnet_jax"
    (installed / "configs").mkdir(parents=True)
    (installed / "configs" / "hr18_ade20k.py").touch()
    monkeypatch.setattr(recipes, "__file__", str(installed / "config" / "recipes.py"))
    (tmp_path / "home").mkdir()
    monkeypatch.chdir(tmp_path / "home")
    assert recipes.locate("configs/hr18_ade20k.py") == installed / "configs" / "hr18_ade20k.py"
    for name, advice in (
        ("configs/hr18_ade.py", r"did you mean configs/hr18_ade20k\.py\?"),
        ("", r"choose from configs/hr18_ade20k\.py\."),
    ):
        with pytest.raises(
            FileNotFoundError, match=f"^there is no file {name} for --config; {advice}$"
        ):
            recipes.locate(name)
    (installed / "configs" / "hr18_ade20k.py").unlink()
    with pytest.raises(FileNotFoundError, match=r"/.* has no folder configs/; run in a clone"):
        recipes.locate("x.py")
