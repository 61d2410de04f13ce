import dataclasses
import io
import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from hrnet_jax import models
from hrnet_jax.commands.compare import read_evaluation
from hrnet_jax.commands.evaluate import Results, evaluate, weights_hash
from hrnet_jax.config.build_evaluation import build_evaluation
from hrnet_jax.config.build_training import checkpoint_meta
from hrnet_jax.config.custom_data import dataset_of
from hrnet_jax.data.decode import decode
from hrnet_jax.evaluation.metrics import Scores
from hrnet_jax.evaluation.per_image import PerImage, confusion_of
from hrnet_jax.models import split
from hrnet_jax.runs.stored_weights import Weights
from hrnet_jax.runs.terminal import Terminal
from tests.tiny_config import get_config


@pytest.fixture
def config(tiny_city):
    config = get_config()
    config.data.root = str(tiny_city)
    return config


def weights_of(config, **changes) -> Weights:
    _, params, batch_stats = split(models.build("toy", num_classes=19))
    meta = checkpoint_meta(config) | changes
    return Weights(
        params=params, batch_stats=batch_stats, meta=meta, step=3, path=Path("/weights/3")
    )


def test_scores_are_written_with_their_protocol(config, tmp_path):
    terminal = Terminal(Console(file=io.StringIO(), width=200))
    scores = evaluate(config, weights_of(config), workdir=tmp_path, terminal=terminal)
    receipt = json.loads((tmp_path / "eval" / "scores.json").read_text())
    assert receipt["mIoU"] == scores.summary()["mIoU"]
    assert receipt["images"] == 4
    assert receipt["checkpoint"] == "/weights/3"
    assert "one scale" in receipt["protocol"]
    assert len(receipt["iou"]) == 19
    assert np.array(receipt["confusion"]).sum() == scores.confusion.sum() > 0
    assert "Protocol: whole images" in terminal.console.file.getvalue()
    assert "in float32" in receipt["protocol"]
    assert receipt["images_per_second"] == pytest.approx(4 / receipt["seconds"])
    assert receipt["devices"] == {"cpu": 8}
    assert receipt["versions"]["jax"] == jax.__version__
    counts = PerImage.load(tmp_path / "eval" / "per_image.npz")
    # The host counts image by image what the devices count in batches.
    np.testing.assert_array_equal(counts.labelled.sum(0), scores.confusion.sum(1))
    np.testing.assert_array_equal(counts.predicted.sum(0), scores.confusion.sum(0))
    assert read_evaluation(tmp_path).receipt == receipt
    assert receipt["data"] in (tmp_path / "eval" / "report.html").read_text()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"variant": "hr48"}, r"holds hr48, but config.model.variant=toy"),
        ({"head": "other"}, r"holds other, but config.model.head=fcn; use --config.model.head="),
        ({"classes": ["road"]}, r"was trained for 1 classes .* minicity has 19"),
    ],
)
def test_weights_of_something_else_are_refused(config, tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        evaluate(config, weights_of(config, **changes), workdir=tmp_path, terminal=Terminal())


NO_WEIGHTS = Weights(params={}, batch_stats={}, meta={}, step=0, path=Path("/weights/0"))


def labelled_perfectly(config, folder, *, write=True, split="val", limit=0, **options):
    """Give the labels themselves as predictions; no network is needed for what follows."""
    evaluation = build_evaluation(config, split=split, limit=limit, terminal=Terminal())
    results = Results(evaluation, folder=folder, **options)
    total = np.zeros((19, 19), np.int64)
    for index in range(len(evaluation.source)):
        example = decode(evaluation.source[index], evaluation.dataset)
        predicted = np.where(example["label"] == 255, 0, example["label"])
        results(example, predicted)
        total += confusion_of(example["label"], predicted, num_classes=19)
    if write:
        results.write(Scores(total), weights=NO_WEIGHTS, seconds=2.0)
    return results


def files(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_label_maps_and_submissions_are_written_on_demand(config, tiny_city, tmp_path):
    config.log.pictures = 0
    (tmp_path / "submission").mkdir()
    (tmp_path / "submission" / "older.png").touch()
    terminal = Terminal(Console(file=io.StringIO(), width=200))
    results = labelled_perfectly(
        config, tmp_path, limit=3, submission="cityscapes", save_predictions=True
    )
    results.describe_label_maps(terminal)
    said = terminal.console.file.getvalue()
    assert f"Label maps: {tmp_path / 'predictions'}" in said
    assert "1 files in" in said
    assert "first older.png; remove them before you submit" in said
    (tmp_path / "submission" / "older.png").unlink()
    assert len(list((tmp_path / "predictions").rglob("*.png"))) == 3
    submitted = sorted((tmp_path / "submission").iterdir())
    assert len(submitted) == 3
    assert all(path.name.endswith("_leftImg8bit.png") for path in submitted)
    receipt = json.loads((tmp_path / "scores.json").read_text())
    assert receipt["mIoU"] == 100
    assert receipt["images"] == 3
    assert receipt["protocol"].endswith("in float32, the first 3 images only")
    # What is submitted are the ids of the label files, wherever those have a class.
    raw = next((tiny_city / "gtFine" / "val").rglob(
        submitted[0].name.replace("_leftImg8bit", "_gtFine_labelIds")))  # fmt: skip
    raw, written = (np.asarray(Image.open(path)) for path in (raw, submitted[0]))
    has_class = dataset_of(config).lookup_table()[0][raw] != 255
    np.testing.assert_array_equal(written[has_class], raw[has_class])


def test_a_killed_evaluation_leaves_the_numbers_of_the_one_before(config, tmp_path, monkeypatch):
    config.log.pictures = 0
    labelled_perfectly(config, tmp_path)
    before = {name: (tmp_path / name).read_bytes() for name in files(tmp_path)}
    assert sorted(before) == ["per_image.npz", "report.html", "scores.json"]
    labelled_perfectly(config, tmp_path, write=False)  # killed before the end

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("os.fsync", killed)  # killed while writing
    with pytest.raises(KeyboardInterrupt):
        labelled_perfectly(config, tmp_path)
    assert {name: (tmp_path / name).read_bytes() for name in files(tmp_path)} == before


def test_a_split_without_labels_gives_label_maps_and_no_scores(config, tiny_city, tmp_path):
    source = tiny_city / "leftImg8bit" / "val"
    shutil.copytree(source, tmp_path / "city" / "leftImg8bit" / "test")
    config.data.root = str(tmp_path / "city")
    labelled_perfectly(config, tmp_path / "eval", split="test", submission="cityscapes")
    receipt = json.loads((tmp_path / "eval" / "scores.json").read_text())
    assert not {"mIoU", "iou", "confusion"} & set(receipt)
    assert "on the test split" in receipt["protocol"]
    assert len(list((tmp_path / "eval" / "submission").iterdir())) == 4
    assert "no scores" in (tmp_path / "eval" / "report.html").read_text()
    with pytest.raises(ValueError, match=r"has no scores: the split 'test' has no labels"):
        read_evaluation(tmp_path / "eval")


def test_a_folder_that_cannot_be_written_is_found_first(config, tmp_path, monkeypatch):
    monkeypatch.setattr("os.access", lambda *_: False)
    evaluation = build_evaluation(config, terminal=Terminal())
    with pytest.raises(OSError, match=r"eval cannot be written to .*choose another .*--workdir"):
        Results(evaluation, folder=tmp_path / "eval")


def test_a_hash_knows_weights_by_their_values(config):
    weights = weights_of(config)
    moved = dataclasses.replace(weights, path=Path("/elsewhere"), step=9)
    assert weights_hash(weights) == weights_hash(moved)
    changed = jax.tree.map(np.array, weights.params)
    changed["backbone"]["first"]["conv"]["kernel"][0, 0, 0, 0] += 1e-3
    assert weights_hash(weights) != weights_hash(dataclasses.replace(weights, params=changed))
