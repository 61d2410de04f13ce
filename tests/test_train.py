import io
import shutil

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from hrnet_jax.checkpoint import load_weights
from hrnet_jax.train import is_due, train
from hrnet_jax.writer import Terminal
from tests.tiny_config import get_config


@pytest.fixture
def config(tiny_city):
    """All tests here and `tests/test_main.py` run one program, which is compiled once."""
    config = get_config()
    config.data.root = str(tiny_city)
    return config


def quiet() -> Terminal:
    return Terminal(Console(file=io.StringIO(), width=200))


def test_things_happen_every_so_often_and_at_the_end():
    assert [done for done in range(1, 8) if is_due(done, 3, last=7)] == [3, 6, 7]


def test_training_on_own_folders(config, tmp_path):
    """Images and labels in plain folders, class names in the config, nothing else."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 8), ("val", 2)):
        for kind in ("images", "labels"):
            (tmp_path / "data" / kind / split).mkdir(parents=True)
        for index in range(count):
            image = rng.integers(0, 256, (40, 80, 3), np.uint8)
            label = rng.choice([0, 1, 255], (40, 80)).astype(np.uint8)
            Image.fromarray(image).save(tmp_path / "data/images" / split / f"{index}.png")
            Image.fromarray(label).save(tmp_path / "data/labels" / split / f"{index}.png")
    classes = ("left", "right", *(f"unused {i}" for i in range(17)))
    config.data.name, config.data.classes = "custom", classes
    config.data.root, config.data.image_suffix = str(tmp_path / "data"), ".png"
    scores = train(config, workdir=tmp_path / "run", terminal=quiet())
    assert scores.confusion.sum(1).nonzero()[0].tolist() == [0, 1]
    assert tuple(load_weights(tmp_path / "run").meta["classes"]) == classes


def test_images_that_poison_every_step_stop_the_run_and_nothing_is_saved(config, tmp_path):
    config.data.std, config.train.max_bad_steps = (1e-30, 1e-30, 1e-30), 2
    config.eval.every_steps = config.checkpoint.every_steps = 4
    with pytest.raises(FloatingPointError, match="nothing of them was kept"):
        train(config, workdir=tmp_path / "run", terminal=quiet())
    assert not [p for p in (tmp_path / "run" / "checkpoints").iterdir() if p.name.isdigit()]


def test_a_broken_file_in_the_data_is_named(config, tiny_city, tmp_path):
    shutil.copytree(tiny_city, tmp_path / "city")
    victim = sorted((tmp_path / "city" / "gtFine" / "train").rglob("*.png"))[0]
    label = np.array(Image.open(victim))
    label[3, 5] = 77
    Image.fromarray(label).save(victim)
    config.data.root = str(tmp_path / "city")
    with pytest.raises(ValueError, match=rf"(?s){victim.name}.*value 77.*y=3, x=5"):
        train(config, workdir=tmp_path / "run", terminal=quiet())
