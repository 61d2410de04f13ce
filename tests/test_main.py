"""The command line from end to end, in its own processes, as a user starts it."""

import itertools
import os
import re
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest

from hrnet_jax import main
from hrnet_jax.config import recipes
from hrnet_jax.runs.stored_weights import save_weights
from tests.command import ROOT, TINY, run, run_each

MISTAKES = {
    "mistyped field": (
        ["--config", "configs/hr18s_minicity.py", "--config.train.step=3"],
        "there is no field config.train.step; did you mean config.train.steps?",
    ),
    "wrong type": (
        ["--config", "configs/hr18s_minicity.py", "--config.train.steps=many"],
        "invalid literal for int() with base 10: 'many'",
    ),
    "no config file": (
        ["--config", "configs/hr18_cityscape.py:80k"],
        "there is no file configs/hr18_cityscape.py for --config; did you mean configs/hr18_citys",
    ),
    "no config file at all alike": (
        ["--config=mine/x.py", "--config.train.steps=3"],
        "there is no file mine/x.py for --config; choose from configs/custom.py, ",
    ),
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
    "field without a config": (
        ["--mode=eval", "--checkpoint=runs/x", "--config.model.dtype=bfloat16"],
        "--config.model.dtype changes a field of a recipe; name the recipe too, as in --config",
    ),
    "compare nothing": (["--mode=compare", "a"], "needs two folders that --mode eval wrote, not 1"),
    "compare nowhere": (["--mode=compare", "a", "b"], "There is no scores.json in a;"),
    "too few images": (
        ["--config=configs/hr18s_minicity.py", "--mode=benchmark", "--images=3"],
        "--images=3 leaves nothing to time: the first 5 are warm-up",
    ),
    "words of no row": (
        ["--mode=zoo", "coco"],
        "No row of the zoo matches 'coco'; choose from",
    ),
    "row that is not here": (
        ["--mode=eval", "--checkpoint=fcn_hr18_512x1024_160k_cityscapes"],
        "get it with: python -m convert.from_pytorch --zoo fcn_hr18_512x1024_160k_cityscapes",
    ),
    "scales that are words": (
        ["--config", "configs/hr18s_minicity.py", "--config.eval.ratios=0.5,x"],
        "config.eval.ratios=('0.5,x',): '0.5,x' is not a number from 0.01 to 100",
    ),
    "scale that is no number": (
        ["--config", "configs/hr18s_minicity.py", "--config.eval.ratios=(nan,)"],
        "is not a number from 0.01 to 100",
    ),
    "weights that are words": (
        ["--config", "configs/hr18s_minicity.py", "--config.train.class_weights=a,b"],
        "config.train.class_weights=('a,b',): 'a,b' is not a number from 0 to",
    ),
    "power that is no number": (
        ["--config", "configs/hr18s_minicity.py", "--config.optim.power=nan"],
        "config.optim.power=nan: nan is not a number",
    ),
    "a flag of another mode": (
        ["--config=configs/hr18s_minicity.py", "--split=test"],
        "--split is for --mode eval, not for --mode train.",
    ),
    "another flag of another mode": (
        ["--mode=predict", "--nosave_predictions"],
        "--save_predictions is for --mode eval, not for --mode predict.",
    ),
    "no such split": (["--mode=eval", "--split=tset"], "--split=tset: value should be one of"),
    "a negative limit": (["--mode=eval", "--limit=-1"], "--limit=-1: "),
    "a field that became a flag": (
        ["--config=configs/hr18s_minicity.py", "--mode=eval", "--config.eval.split=test"],
        "there is no field config.eval.split; --mode eval takes --split.",
    ),
    "a field that was removed": (
        ["--config=configs/hr18s_minicity.py", "--config.train.on_bad_step=stop"],
        "there is no field config.train.on_bad_step; use --config.train.max_bad_steps=1.",
    ),
    "empty input": (
        ["--mode=predict", "--checkpoint=x", "--input", ""],
        "--input is empty; give a path, or omit the option.",
    ),
    "empty workdir": (["--mode=eval", "--workdir", ""], "--workdir is empty"),
    "empty output": (["--mode=predict", "--output="], "--output is empty"),
    "empty checkpoint": (["--mode=eval", "--checkpoint="], "--checkpoint is empty"),
    "stray word": (["train"], "'train' is not an option"),
}


RECIPES = {
    "config.json": ("{}", "config.json is not a recipe, a Python file such as"),
    "typo.py": ("def get_config():\n    return default()\nx = y", "typo.py, line 3)"),
    "syntax.py": ("def get_config()\n", "expected ':' (syntax.py, line 1)"),
    "number.py": ("\n1 / 0", "division by zero ("),
    "imports.py": ("import nothing_such", "No module named 'nothing_such'"),
}


@pytest.fixture(scope="module")
def mistaken():
    results = run_each([arguments for arguments, _ in MISTAKES.values()])
    return dict(zip(MISTAKES, results, strict=True))


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_clear_error(mistaken, mistake):
    done, expected = mistaken[mistake], MISTAKES[mistake][1]
    assert done.returncode == 1
    assert expected in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.startswith("Error: ")


def test_a_recipe_that_does_not_run_is_one_clear_error(tmp_path):
    for name, (text, _) in RECIPES.items():
        (tmp_path / name).write_text(text)
    results = run_each([["--config", str(tmp_path / name)] for name in RECIPES])
    for done, (_, expected) in zip(results, RECIPES.values(), strict=True):
        assert done.returncode == 1
        assert expected in done.stderr
        assert done.stderr.startswith("Error: ")
        assert "Traceback" not in done.stderr


def test_missing_cityscapes_names_the_way_out(mistaken):
    done = mistaken["no dataset"]
    for text in ("leftImg8bit_trainvaltest.zip", "--config.data.root=", "hr18s_minicity.py"):
        assert text in done.stderr


def test_a_batch_that_devices_cannot_share_is_refused_and_claims_nothing(tiny_city, tmp_path):
    done = run(
        f"--config.data.root={tiny_city}", f"--workdir={tmp_path}", "--config.train.batch_size=3",
        module=TINY, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "config.train.batch_size=3 cannot be split over 8 devices" in done.stderr
    assert not (tmp_path / "config.json").exists()


def test_doctor_answers_scripts_with_its_exit_code(tiny_city, tmp_path):
    root, workdir = tmp_path / "city", f"--workdir={tmp_path / 'run'}"
    shutil.copytree(tiny_city, root)
    arguments = ("--config=configs/hr18s_minicity.py", f"--config.data.root={root}", workdir)
    assert "No problem found" in run(*arguments, "--mode=doctor").stdout
    next((root / "gtFine/val").rglob("*labelIds.png")).unlink()
    done = run(*arguments, "--mode=doctor", check=False)
    assert done.returncode == 1
    assert "1 problem found" in done.stdout
    assert done.stderr == ""


def test_samples_are_drawn(tiny_city, tmp_path):
    run(
        "--config=configs/hr18s_minicity.py", f"--config.data.root={tiny_city}",
        f"--workdir={tmp_path}", "--mode=samples", "--config.log.pictures=2",
    )  # fmt: skip
    assert [path.name for path in sorted((tmp_path / "samples").iterdir())] == [
        "000.png",
        "001.png",
    ]


def test_without_memory_on_the_device_there_is_advice(tiny_city, tmp_path):
    script = """
import jax
from absl import app
from hrnet_jax import main, train
from tests import tiny
def compile_step(*_, **__):
    raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate.")
train.compile_step = compile_step
app.run(main.main, flags_parser=main.parse_flags)
"""
    done = run(
        "--config=tests/tiny_config.py", f"--config.data.root={tiny_city}",
        f"--workdir={tmp_path}", module=("-c", script), check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    for text in ("Out of memory while", "config.train.batch_size", "config.train.crop_size"):
        assert text in done.stderr


@pytest.mark.skipif(os.name != "posix", reason="sends POSIX signals")
def test_an_interrupt_while_python_imports_is_no_traceback():
    """Importing reports itself, so the signal arrives in the middle of it."""
    # A test run in the background ignores the signal, and its children inherit that. They do
    # not inherit a handler.
    mine = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        process = subprocess.Popen(
            [sys.executable, "-X", "importtime", "-m", "hrnet_jax.main", "--mode=zoo"],
            cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
    finally:
        signal.signal(signal.SIGINT, mine)
    with process:
        before = list(itertools.takewhile(lambda line: "jax._src" not in line, process.stderr))
        process.send_signal(signal.SIGINT)
        out, after = process.communicate()
    assert process.returncode == 130
    assert out == ""
    assert not [line for line in [*before, *after.splitlines()] if "import time" not in line]


def test_help_teaches():
    done = run("--help", check=False)
    text = done.stdout + done.stderr
    assert "predict    label the images and videos of --input with --checkpoint" in text
    assert "--limit: Number of images that --mode eval scores, from the first; 0: all." in text
    for mode in main._MODES:
        assert re.search(rf"^ *{mode}(  |$)", text, flags=re.MULTILINE), mode


def test_what_prepare_writes_is_a_root_to_train_from(tiny_city, tmp_path):
    arguments = ("--mode=prepare", "--config=configs/hr18s_minicity.py", f"--output={tmp_path}")
    done = run(*arguments, f"--config.data.root={tiny_city}")
    assert f"Use it with --config.data.root={tmp_path}/minicity/1.0.0" in done.stdout
    assert "val: 4 examples, every CRC-32 correct" in done.stdout
    assert "Downloading" not in done.stdout + done.stderr


def test_a_faulty_config_of_a_checkpoint_is_named_before_anything_is_drawn(tmp_path):
    config = recipes.minicity(variant="hr18s")
    config.eval.ratios, config.data.root = (), str(tmp_path / "minicity")
    meta = {"source": {}, "classes": ["road"], "config": config.to_dict()}
    save_weights(tmp_path / "run", {"a": np.zeros(1)}, {"b": np.zeros(1)}, meta=meta)
    done = run("--mode=eval", f"--checkpoint={tmp_path / 'run'}", check=False)
    assert done.stderr.startswith("Error: config.eval.ratios is empty")
    assert not (tmp_path / "minicity").exists()


def test_the_zoo_needs_no_config(tmp_path):
    done = run("--mode=zoo", "pascal_context_59", "80k", f"--workdir={tmp_path}")
    assert "fcn_hr48_480x480_80k_pascal_context_59" in done.stdout
    assert "3ae7081e.pth" in done.stdout
    assert "40k" not in done.stdout
