"""The command line from end to end, in processes of its own as a user starts it."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parent.parent
TINY = ("-m", "tests.tiny", "--config", "tests/tiny_config.py")


def run(*arguments: str, module=("-m", "hrnet_jax.main"), devices: int = 8, check: bool = True):
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": str(devices), "COLUMNS": "120"}
    done = subprocess.run(
        [sys.executable, *module, *arguments],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    if check:
        assert done.returncode == 0, done.stdout + done.stderr
    return done


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
    assert json.loads((workdir / "config.json").read_text())["model"]["variant"] == "tiny"
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


MISTAKES = {
    "mistyped field": (
        ["--config", "configs/hr18s_minicity.py", "--config.train.step=3"],
        "there is no field config.train.step; did you mean config.train.steps?",
    ),
    "wrong type": (
        ["--config", "configs/hr18s_minicity.py", "--config.train.steps=many"],
        "invalid literal for int() with base 10: 'many'",
    ),
    "no config file": (["--config", "configs/nothing.py"], "configs/nothing.py"),
    "no config": ([], "--config is missing; try --config configs/hr18s_minicity.py"),
    "unpublished schedule": (
        ["--config", "configs/hr18_cityscapes.py:20k"],
        "There is no schedule '20k' for this recipe; use one of 40k, 80k, 160k",
    ),
    "no dataset": (
        ["--config", "configs/hr18_cityscapes.py", "--config.data.root=/nowhere"],
        "there is no folder /nowhere",
    ),
    "no weights": (
        ["--config", "configs/hr18s_minicity.py", "--mode=eval", "--workdir=/nowhere"],
        "There is no checkpoint in /nowhere. Train first",
    ),
    "unknown mode": (["--mode=fly"], "flag --mode=fly: value should be one of"),
    "stray word": (["train"], "'train' is no option"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_clear_error(mistake):
    arguments, expected = MISTAKES[mistake]
    done = run(*arguments, check=False)
    assert done.returncode == 1
    assert expected in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.startswith("Error: ")


def test_missing_cityscapes_names_the_way_out():
    done = run("--config=configs/hr18_cityscapes.py", "--config.data.root=/nowhere", check=False)
    for text in ("leftImg8bit_trainvaltest.zip", "--config.data.root=", "hr18s_minicity.py"):
        assert text in done.stderr


def test_a_workdir_of_another_config_is_refused(trained, tiny_city):
    workdir, _ = trained
    done = run(
        f"--config.data.root={tiny_city}", f"--workdir={workdir}", "--config.optim.lr=0.5",
        module=TINY, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "belongs to a run with another config" in done.stderr
    assert "optim.lr: 0.03 -> 0.5" in done.stderr


def test_a_batch_that_devices_cannot_share_is_refused_and_claims_nothing(tiny_city, tmp_path):
    done = run(
        f"--config.data.root={tiny_city}", f"--workdir={tmp_path}", "--config.train.batch_size=3",
        module=TINY, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "config.train.batch_size=3 cannot be split over 8 devices" in done.stderr
    assert not (tmp_path / "config.json").exists()


def test_help_teaches():
    done = run("--help", check=False)
    assert "predict  label the images in --input" in done.stdout + done.stderr
