"""Whole runs, by the command line and in this process; all share one compiled program."""

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from hrnet_jax.commands.evaluate import evaluate, weights_hash
from hrnet_jax.commands.predict import predict
from hrnet_jax.commands.prepare import prepare
from hrnet_jax.config import checks
from hrnet_jax.config.custom_data import dataset_of
from hrnet_jax.runs.metrics_log import read_metrics
from hrnet_jax.runs.paths import to_path
from hrnet_jax.runs.signals import Stopped
from hrnet_jax.runs.stored_weights import load_weights
from hrnet_jax.runs.terminal import Terminal
from hrnet_jax.runs.workdir import lock_workdir
from hrnet_jax.train import train
from tests import tiny  # noqa: F401 -- adds the variant "toy"
from tests.command import ROOT, TINY, run
from tests.kill_campaign import contents
from tests.tiny_config import get_config


@pytest.fixture(scope="module")
def trained(tmp_path_factory, tiny_city) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("runs")
    workdir, city = folder / "tiny run \u2602 \u0142\xf3d\u017a", folder / "mini\u0441ity"
    city.symlink_to(tiny_city)
    # No language, a time zone with quarter hours, a home that cannot be written to.
    odd = {"LC_ALL": "C", "TZ": "Asia/Kathmandu", "HOME": "/proc"}
    done = run(f"--config.data.root={city}", f"--workdir={workdir}", module=TINY, environment=odd)
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


def test_predict_labels_by_the_protocol_of_a_config(trained, tiny_city, tmp_path):
    workdir, _ = trained
    image = next((tiny_city / "leftImg8bit" / "val").rglob("*.png"))
    arguments = ("--mode=predict", f"--checkpoint={workdir}", f"--input={image}")
    done = run(*arguments, f"--output={tmp_path}", "--config.eval.mode=nonsense",
               module=TINY, devices=1, check=False)  # fmt: skip
    assert "config.eval.mode='nonsense' must be one of whole, slide" in done.stderr
    run(*arguments, f"--output={tmp_path}", "--config.eval.mode=slide", module=TINY, devices=1)
    assert "windows of 480x480" in json.loads((tmp_path / "predict.json").read_text())["protocol"]


def test_resuming_ends_bit_for_bit_where_an_unbroken_run_ends(trained, tiny_city, tmp_path):
    """The second half is lost, as if killed before the last checkpoint was complete."""
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


class Interrupting(Terminal):
    """Sends a signal to this process before it shows a text."""

    def __init__(self, number: int, text: str):
        super().__init__(Console(file=io.StringIO(), width=200))
        self._number, self._text = number, text

    def _look(self, text: str) -> None:
        if self._text in text:
            os.kill(os.getpid(), self._number)
            time.sleep(0.3)  # another thread receives it

    def line(self, text: str) -> None:
        self._look(text)
        super().line(text)

    def track(self, items, what, *, total):
        for item in super().track(items, what, total=total):
            self._look(what)
            yield item


@pytest.mark.skipif(os.name != "posix", reason="sends POSIX signals")
def test_interrupted_again_and_again_a_run_ends_like_one_that_never_was(trained, config, tmp_path):
    """During an evaluation, then between two checkpoints."""
    unbroken, _ = trained
    workdir = tmp_path / "broken"
    with pytest.raises(Stopped) as stopped:
        train(config, workdir=workdir, terminal=Interrupting(signal.SIGTERM, "Evaluating"))
    assert stopped.value.exit_code == 143
    assert not (workdir / "checkpoints" / "2" / "scores.json").exists()
    terminal = Interrupting(signal.SIGINT, "step 2/4  mIoU")
    with pytest.raises(Stopped) as stopped:
        train(config, workdir=workdir, terminal=terminal)
    assert stopped.value.exit_code == 130
    assert "Saving step 3" in terminal.console.file.getvalue()
    assert sorted(path.name for path in (workdir / "checkpoints").iterdir()) == ["2", "3"]
    train(config, workdir=workdir, terminal=quiet())
    ours, theirs = contents(workdir), contents(unbroken)
    assert ours["best checkpoint"] == theirs["best checkpoint"]
    # The interrupt saved 3; 2 stays if it is best.
    assert set(ours["checkpoints"]) - {2} == {3, 4}
    for name in theirs:
        if not name.endswith(("checkpoint 2", "checkpoints", "examples")):
            assert ours[name] == theirs[name], name


@pytest.mark.skipif(os.name != "posix", reason="sends POSIX signals")
def test_all_in_a_bucket_a_run_ends_like_one_on_a_disk(
    trained, config, bucket, tmp_path, monkeypatch
):
    """Prepared data and workdir, stopped during an evaluation; then evaluation and prediction."""
    unbroken, _ = trained
    workdir = to_path("gs://bucket/run")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    prepare(config.data.root, dataset_of(config), output=tmp_path / "data", terminal=quiet())
    bucket.upload(tmp_path / "data", "data")
    image = next(Path(config.data.root, "leftImg8bit", "val").rglob("*.png"))
    config.data.root = "gs://bucket/data"
    with pytest.raises(Stopped):
        train(config, workdir=workdir, terminal=Interrupting(signal.SIGTERM, "Evaluating"))
    assert "scores.json" not in bucket.below("run/checkpoints/2")
    train(config, workdir=workdir, terminal=quiet())
    copy = bucket.download("run", tmp_path / "run")
    assert contents(copy) == contents(unbroken)
    assert {path.name for path in copy.iterdir()} | {".lock"} == {
        path.name for path in unbroken.iterdir()
    } - {"eval"} | {".lock"}
    evaluate(config, load_weights(workdir), workdir=workdir, terminal=quiet())
    assert "report.html" in bucket.below("run/eval")
    written = json.loads((workdir / "eval" / "scores.json").read_text())
    assert written["checkpoint"].startswith("gs://bucket/run/checkpoints/")
    best = load_weights(unbroken)
    assert (written["step"], written["weights"]) == (best.step, weights_hash(best))
    predict(load_weights(workdir), [str(image)], output=workdir / "predict", terminal=quiet())
    assert len(bucket.below("run/predict")) == 3


KILLED_AT = (  # before this object is written for the n-th time
    ("metrics.jsonl", 2), ("checkpoints/2/scores.json", 1), ("checkpoints/4/meta/metadata", 1),
    ("checkpoints/4/files.json", 1), ("checkpoints/4/commit_success.txt", 1), ("curves.png", 2),
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(("name", "count"), KILLED_AT, ids=lambda value: str(value))
def test_killed_before_any_object_is_written_a_run_ends_like_one_that_never_was(
    trained, tiny_city, bucket, tmp_path, name, count
):
    unbroken, _ = trained
    arguments = (f"--config.data.root={tiny_city}", "--workdir=gs://bucket/run")
    process = subprocess.Popen(
        [sys.executable, *TINY, *arguments], cwd=ROOT, env=os.environ | {"JAX_NUM_CPU_DEVICES": "8"}
    )

    def kill(written):
        if written == f"run/{name}" and bucket.written.count(written) == count - 1:
            process.kill()
            process.wait()
            raise ConnectionError

    bucket.before = kill
    assert process.wait(200) == -signal.SIGKILL
    bucket.before = lambda name: None
    assert bucket.written.count(f"run/{name}") == count - 1
    run(*arguments, module=TINY)
    assert contents(bucket.download("run", tmp_path)) == contents(unbroken)


def test_a_second_run_in_the_same_workdir_is_refused(trained, config):
    workdir, _ = trained
    with (
        lock_workdir(workdir, warn=pytest.fail),
        pytest.raises(ValueError, match=rf"is in use by process {os.getpid()} on "),
    ):
        train(config, workdir=workdir, terminal=quiet())


@pytest.mark.slow
def test_a_run_that_is_killed_ends_like_one_that_never_was(tmp_path):
    """The short form of `python -m tests.kill_campaign`."""
    done = run(f"--folder={tmp_path / 'campaign'}", "--trials=3",
               module=("-m", "tests.kill_campaign"), devices=1)  # fmt: skip
    assert "3 trials, " in done.stdout
    assert "0 ended differently" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    ("before", "after"),
    [((1, 1), (8, 1)), ((8, 1), (1, 1)), ((8, 4), (8, 2))],
    ids=["1 to 8", "8 to 1", "2x4 to 4x2"],
)
def test_resuming_on_another_mesh(tiny_city, tmp_path, before, after):
    recording = ("-m", "tests.recording", *TINY[2:])
    arguments = (
        f"--config.data.root={tiny_city}", f"--workdir={tmp_path}",
        "--config.train.crop_size=(128, 64)",
    )  # fmt: skip

    def start(devices, height):
        return run(*arguments, f"--config.mesh.height={height}", module=recording, devices=devices)

    start(*before)
    expected = read_metrics(tmp_path / "metrics.jsonl")
    examples = {entry["step"]: entry["ids"] for entry in read_metrics(tmp_path / "ids.jsonl")}
    assert sorted(examples) == [0, 1, 2, 3]
    shutil.rmtree(tmp_path / "checkpoints" / "4")
    (tmp_path / "ids.jsonl").unlink()
    assert "resumed at step 2" in start(*after).stdout
    resumed = {entry["step"]: entry["ids"] for entry in read_metrics(tmp_path / "ids.jsonl")}
    assert resumed == {step: examples[step] for step in (2, 3)}
    entries = read_metrics(tmp_path / "metrics.jsonl")
    assert [entry["step"] for entry in entries] == [entry["step"] for entry in expected]
    third, again = ([e["loss"] for e in run if e["step"] == 3] for run in (expected, entries))
    assert again == pytest.approx(third, rel=1e-5)
    assert len(third) == 1


@pytest.mark.slow
def test_a_full_disk_ends_a_run_loudly_and_costs_no_checkpoint(tiny_city, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ("mount", "-t", "tmpfs", "-o")
    if not shutil.which("mount") or subprocess.run([*mount, "size=1m", "tmpfs", disk]).returncode:
        pytest.skip("may not mount a file system")
    try:
        arguments = (f"--config.data.root={tiny_city}", f"--workdir={disk / 'run'}")
        (disk / "filler").write_bytes(bytes(650_000))
        done = run(*arguments, module=TINY, check=False)
        assert done.returncode == 1
        assert done.stderr.splitlines()[-1].startswith("Error: ")
        assert "No space left on device" in done.stderr
        (disk / "filler").unlink()
        subprocess.run(["mount", "-o", "remount,size=100m", disk], check=True)
        assert "mIoU" in run(*arguments, module=TINY).stdout
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


def test_a_save_that_fails_ends_the_command_at_once(tiny_city, tmp_path):
    """Orbax's threads alone would keep it alive for five minutes."""
    folder = tmp_path / "run" / "checkpoints"
    folder.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", folder]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("may not mount a file system")
    try:
        done = run(
            f"--config.data.root={tiny_city}", f"--workdir={folder.parent}",
            module=TINY, check=False, timeout=60,
        )  # fmt: skip
    finally:
        subprocess.run(["umount", "-l", folder], check=True)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("Error: Checkpoint 2 could not be written to ")


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
    """All tests here and in `tests/test_main.py` run one program, compiled once."""
    config = get_config()
    config.data.root = str(tiny_city)
    return config


def quiet() -> Terminal:
    return Terminal(Console(file=io.StringIO(), width=200))


def test_training_on_own_folders(config, tmp_path):
    """Only images and labels in plain folders, and class names in the config."""
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


RECIPE = """
import dataclasses

from hrnet_jax.config import recipes
from hrnet_jax.data.datasets import DATASETS
from tests import tiny_config

FOREST = dataclasses.replace(DATASETS["minicity"], name="forest")


def get_config():
    config = tiny_config.get_config()
    mine = recipes.custom(variant="toy", dataset=FOREST)
    config.name, config.data.name, config.train.steps = mine.name, mine.data.name, 2
    return config
"""


def test_training_on_a_dataset_that_the_recipe_defines(tiny_city, tmp_path):
    """Its checkpoints are evaluated with the recipe, and label images without."""
    recipe, workdir = tmp_path / "mine.py", tmp_path / "run"
    recipe.write_text(RECIPE)
    given = (f"--config={recipe}", f"--config.data.root={tiny_city}", f"--workdir={workdir}")
    module = ("-m", "tests.tiny")
    assert "forest: 8 train and 4 val images" in run(*given, module=module).stdout
    scored = run(*given, "--mode=eval", "--limit=2", module=module)
    assert "the first 2 images only" in scored.stdout
    receipt = json.loads((workdir / "eval" / "scores.json").read_text())
    assert (receipt["dataset"], receipt["images"]) == ("forest", 2)
    lost = run("--mode=eval", f"--checkpoint={workdir}", module=module, check=False)
    assert "config.data.name='forest' must be one of" in lost.stderr
    assert "What a recipe adds is known only if --config names that" in lost.stderr
    image = next((tiny_city / "leftImg8bit" / "val").rglob("*.png"))
    run("--mode=predict", f"--checkpoint={workdir}", f"--input={image}", module=module)
    assert len(list((workdir / "predict").glob("*_label.png"))) == 1


def test_images_that_poison_every_step_stop_the_run_and_nothing_is_saved(
    config, tmp_path, monkeypatch
):
    monkeypatch.setitem(checks._RANGES, "data.std", (0, 1e4))  # such a std is refused
    config.data.std, config.train.max_bad_steps = (1e-30, 1e-30, 1e-30), 2
    config.eval.every_steps = config.checkpoint.every_steps = 4
    with pytest.raises(FloatingPointError, match=r"bad steps in a row: \d+, all skipped"):
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
