"""Whole runs, by the command line and in this process: all of one program, compiled once."""

import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from hrnet_jax.checkpoint import load_weights
from hrnet_jax.train import train
from hrnet_jax.writer import Terminal
from tests import tiny  # noqa: F401 -- adds the variant "toy"
from tests.command import TINY, run
from tests.tiny_config import get_config


@pytest.fixture(scope="module")
def trained(tmp_path_factory, tiny_city) -> tuple[Path, str]:
    workdir = tmp_path_factory.mktemp("runs") / "tiny run"  # with a space
    done = run(f"--config.data.root={tiny_city}", f"--workdir={workdir}", module=TINY)
    return workdir, done.stdout


def test_training_leaves_what_the_readme_promises(trained):
    workdir, output = trained
    entries = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert [e["step"] for e in entries if "loss" in e] == [1, 2, 3, 4]
    assert [e["step"] for e in entries if "mIoU" in e] == [2, 4]
    assert sorted(p.name for p in (workdir / "checkpoints").iterdir()) == ["2", "4"]
    assert len(list((workdir / "pictures").glob("*.png"))) == 2
    assert (workdir / "curves.png").exists()
    assert list((workdir / "tensorboard").glob("events*"))
    assert json.loads((workdir / "config.json").read_text())["model"]["variant"] == "toy"
    for text in ("Compiling the training step", "images/s", "data wait", "mIoU", "traffic light"):
        assert text in output


def test_a_second_start_has_nothing_left_to_do(trained, tiny_city):
    workdir, _ = trained
    done = run(f"--config.data.root={tiny_city}", f"--workdir={workdir}", module=TINY)
    assert "All 4 steps are done" in done.stdout
    assert "Compiling" not in done.stdout


def test_eval_gives_the_value_of_training(trained, tiny_city):
    workdir, _ = trained
    done = run("--mode=eval", f"--workdir={workdir}", f"--checkpoint={workdir}/checkpoints/4",
               module=("-m", "tests.tiny"))  # fmt: skip
    assert "mean" in done.stdout
    scores = json.loads((workdir / "eval" / "scores.json").read_text())
    entries = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    (last,) = [e for e in entries if "mIoU" in e and e["step"] == 4]
    assert scores["mIoU"] == last["mIoU"]
    assert scores["step"] == 4
    assert scores["images"] == 4


def test_predict_labels_a_folder_without_a_config(trained, tiny_city, tmp_path):
    workdir, _ = trained
    folder = tiny_city / "leftImg8bit" / "val"
    run("--mode=predict", f"--checkpoint={workdir}", f"--input={folder}", f"--output={tmp_path}",
        module=("-m", "tests.tiny"), devices=1,)  # fmt: skip
    labels = sorted(tmp_path.rglob("*_label.png"))
    assert len(labels) == 4
    assert len(list(tmp_path.rglob("*_overlay.png"))) == 4
    label = Image.open(labels[0])
    assert label.mode == "P"
    assert label.size == (128, 64)
    assert np.asarray(label).max() < 19
    assert label.getpalette()[:3] == [0x80, 0x40, 0x80]  # road


def test_resuming_ends_bit_for_bit_where_an_unbroken_run_ends(trained, tiny_city, tmp_path):
    """The second half is lost, as by a kill before the last checkpoint was complete."""
    workdir, _ = trained
    unbroken = json.loads((workdir / "checkpoints" / "4" / "meta" / "metadata").read_text())
    broken = tmp_path / "broken"
    shutil.copytree(workdir, broken)
    shutil.rmtree(broken / "checkpoints" / "4")
    done = run(f"--config.data.root={tiny_city}", f"--workdir={broken}", module=TINY)
    assert "resumed at step 2" in done.stdout
    resumed = json.loads((broken / "checkpoints" / "4" / "meta" / "metadata").read_text())
    assert resumed["checksums"] == unbroken["checksums"]
    steps = [
        json.loads(line)["step"] for line in (broken / "metrics.jsonl").read_text().splitlines()
    ]
    assert steps == [1, 2, 2, 3, 4, 4]


def test_a_workdir_of_another_config_is_refused(trained, tiny_city):
    workdir, _ = trained
    done = run(
        f"--config.data.root={tiny_city}", f"--workdir={workdir}", "--config.optim.lr=0.5",
        module=TINY, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "belongs to a run with another config" in done.stderr
    assert "optim.lr: 0.03 -> 0.5" in done.stderr


@pytest.fixture
def config(tiny_city):
    """All tests here and `tests/test_main.py` run one program, which is compiled once."""
    config = get_config()
    config.data.root = str(tiny_city)
    return config


def quiet() -> Terminal:
    return Terminal(Console(file=io.StringIO(), width=200))


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
