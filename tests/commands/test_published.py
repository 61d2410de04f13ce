import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from hrnet_jax import zoo
from hrnet_jax.commands.evaluate import Results
from hrnet_jax.commands.list_zoo import here
from hrnet_jax.commands.published import compare_miou, compare_scores, costs_of
from hrnet_jax.config import recipes
from hrnet_jax.config.build_evaluation import build_evaluation, protocol_of
from hrnet_jax.data.decode import decode
from hrnet_jax.data.sources.folder import First
from hrnet_jax.evaluation.metrics import Scores
from hrnet_jax.evaluation.protocol import MULTI_SCALE
from hrnet_jax.runs.stored_weights import Weights
from hrnet_jax.runs.terminal import Terminal

W18 = zoo.get("fcn_hr18_512x1024_160k_cityscapes")


def protocol(row, **changes):
    plain = protocol_of(recipes.of_row(row))
    return dataclasses.replace(plain, **changes)


@pytest.mark.parametrize(
    ("changes", "measured", "text"),
    [
        ({}, 78.794, "78.80 published (whole), 78.79 measured, within 0.05"),
        ({"reference": "v1"}, 78.85, "78.80 published (whole), 78.85 measured, within 0.05"),
        ({"crop_size": (32, 32)}, 78.854, "78.80 published (whole), 78.85 measured, within 0.05"),
        ({}, 78.86, "78.80 published (whole), 78.86 measured, 0.06 above it"),
        ({}, 70.0, "78.80 published (whole), 70.00 measured, 8.80 below it"),
        ({"ratios": MULTI_SCALE, "flip": True}, 80.74,
         "80.74 published (ms+flip), 80.74 measured, within 0.05"),
    ],
)  # fmt: skip
def test_a_published_protocol_is_compared(changes, measured, text):
    found = compare_miou(W18, W18.upload, protocol=protocol(W18, **changes), measured=measured)
    assert found.describe() == text
    assert found.file == W18.file()


@pytest.mark.parametrize(
    "changes",
    [
        {"flip": True},
        {"ratios": MULTI_SCALE},
        {"ratios": (0.5, 1.0), "flip": True},
        {"ratios": MULTI_SCALE, "flip": True, "reference": "v1"},
        {"mode": "slide"},
        {"image_size": (512, 1024)},
    ],
)
def test_another_protocol_is_not(changes):
    changed = protocol(W18, **changes)
    assert compare_miou(W18, W18.upload, protocol=changed, measured=78.8) is None


def test_windows_and_older_files_have_figures_of_their_own():
    context = zoo.ROWS[-1]
    found = compare_miou(context, context.upload, protocol=protocol(context), measured=50.0)
    assert found.describe() == "51.12 published (slide), 50.00 measured, 1.12 below it"
    row = zoo.get("fcn_hr18s_512x512_20k_voc12aug")
    found = compare_miou(row, row.older[0], protocol=protocol(row), measured=65.2)
    assert found.published == 65.2
    assert found.file.endswith("56e36088.pth")


def changed(config, **fields):
    for name, value in fields.items():
        section, field = name.split("__")
        config[section][field] = value
    return config


CITY = {"variant": "hr18", "schedule": "80k"}


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (recipes.cityscapes(**CITY), (2.9, 12.97)),  # published with 40k
        (recipes.pascal_context(variant="hr48", schedule="80k"), (6.1, 8.86)),
        (recipes.pascal_context(variant="hr48", schedule="80k", classes=59), (None, None)),
        (changed(recipes.cityscapes(**CITY), train__batch_size=16), (None, 12.97)),
        (changed(recipes.cityscapes(**CITY), train__remat="block"), (None, 12.97)),
        (changed(recipes.cityscapes(**CITY), eval__ratios=MULTI_SCALE), (2.9, None)),
        (changed(recipes.cityscapes(**CITY), model__dtype="bfloat16"), (2.9, 12.97)),
        (recipes.minicity(variant="hr18"), (None, None)),
    ],
)
def test_published_costs_are_those_of_the_same_work_only(config, expected):
    assert costs_of(config) == expected


PUBLISHED = Weights(
    params={},
    batch_stats={},
    meta={"zoo": {"name": W18.name, "file": W18.file()}},
    step=0,
    path=Path("/weights/0"),
)
HALF = Scores(np.kron(np.eye(10, dtype=np.int64), np.array([[1, 0], [1, 0]]))[:19, :19])


@pytest.fixture
def published(tiny_city):
    """Evaluations of the published config, as if the tiny city had so many images."""

    def build(images=500, split="val", **changes):
        config = recipes.of_row(W18)
        config.update_from_flattened_dict({"data.root": str(tiny_city), **changes})
        evaluation = build_evaluation(config, split=split, terminal=Terminal())
        return dataclasses.replace(
            evaluation, source=Images(source=evaluation.source, count=images)
        )

    return build


class Images(First):
    """The first image of a source, again and again."""

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        return self.source[0]


def test_weights_of_the_zoo_are_compared_with_their_published_figure(published):
    found = compare_scores(HALF, weights=PUBLISHED, evaluation=published())
    measured = HALF.summary()["mIoU"]
    assert (found.published, found.measured, found.file) == (78.8, measured, W18.file())


@pytest.mark.parametrize(
    "changes",
    [
        {"images": 499},
        {"split": "train"},
        {"model.dtype": "bfloat16"},
        {"data.mean": (0.0, 0.0, 0.0)},
        {"eval.image_size": (512, 1024)},
        {"eval.flip": True},
        {"data.name": "minicity"},
    ],
    ids=str,
)
def test_any_other_measurement_is_not(published, changes):
    assert compare_scores(HALF, weights=PUBLISHED, evaluation=published(**changes)) is None


def test_weights_of_other_origin_are_not(published):
    evaluation = published()
    for meta in ({}, {"zoo": {"name": "fcn_hr99", "file": "fcn_hr99-00000000.pth"}}):
        weights = dataclasses.replace(PUBLISHED, meta=meta)
        assert compare_scores(HALF, weights=weights, evaluation=evaluation) is None
    nothing = Scores(np.zeros((19, 19), np.int64))
    assert compare_scores(nothing, weights=PUBLISHED, evaluation=evaluation) is None


def test_receipt_and_report_say_it(published, tmp_path):
    evaluation = published(**{"log.pictures": 0})
    results = Results(evaluation, folder=tmp_path)
    example = decode(evaluation.source[0], evaluation.dataset)
    results(example, np.zeros_like(example["label"]))
    results.write(HALF, weights=PUBLISHED, seconds=1.0)
    receipt = json.loads((tmp_path / "scores.json").read_text())["published"]
    assert receipt["text"].startswith("78.80 published (whole), ")
    assert receipt["measured"] == HALF.summary()["mIoU"]
    assert receipt["text"] in (tmp_path / "report.html").read_text()
    folder = tmp_path / W18.name
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "eval").mkdir()
    (tmp_path / "scores.json").rename(folder / "eval" / "scores.json")
    assert here(W18, folder=tmp_path) == f"{receipt['measured']:.2f} (whole)"
