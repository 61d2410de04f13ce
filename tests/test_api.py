"""The snippets of docs/api.md, run one after the other as a user would."""

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hrnet_jax import models, zoo
from hrnet_jax.config import recipes
from hrnet_jax.data.datasets import DATASETS
from hrnet_jax.models import split
from hrnet_jax.runs.stored_weights import save_weights
from tests import (
    standins,
    tiny,  # noqa: F401 -- adds the variants
)

TEXT = (Path(__file__).parent.parent / "docs" / "api.md").read_text()
SNIPPETS = re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL)
ROW = zoo.get("fcn_hr18_512x1024_160k_cityscapes")


@pytest.fixture
def toy(monkeypatch):
    """A few layers in place of the network, to save seconds."""
    monkeypatch.setitem(models.VARIANTS, "tiny", models.VARIANTS["toy"])


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A folder with a photo, and a small network in the place of the zoo's row."""
    monkeypatch.chdir(tmp_path)
    _, params, batch_stats = split(models.build("tiny", num_classes=19))
    config = recipes.of_row(ROW).to_dict()
    config["eval"]["image_size"] = (32, 64)
    dataset = DATASETS["cityscapes"]
    meta = {
        "variant": "tiny", "classes": dataset.classes, "palette": dataset.palette,
        "mean": config["data"]["mean"], "std": config["data"]["std"], "config": config,
        "source": {"file": "tiny.pth"},
    }  # fmt: skip
    save_weights(zoo.WEIGHTS / ROW.name, params, batch_stats, meta=meta)
    Image.new("RGB", (60, 30), (90, 60, 30)).save("photo.jpg")
    return tmp_path


def test_there_are_five():
    assert len(SNIPPETS) == 5
    assert ROW.name in SNIPPETS[0]


def test_labels_probabilities_and_logits(toy, home):
    names: dict = {}
    for snippet in SNIPPETS[:3]:
        exec(snippet, names)
    assert names["labels"].shape == names["certainty"].shape == (30, 60)
    assert 0 <= names["share"] <= 1
    assert (home / "out" / "photo_overlay.png").exists()
    assert names["logits"].shape == (1, 16, 24, 19)
    assert names["saliency"].shape == (1, 64, 96, 3)
    assert np.abs(names["saliency"]).max() > 0


@pytest.mark.slow
def test_fine_tuning_and_scoring(home, capsys):
    standins.custom(Path("data/mine"), num_classes=3)
    small = {
        'variant="hr18"': 'variant="tiny"',
        "2_000": "2",
        " = 500": " = 2\nconfig.train.crop_size = config.eval.image_size = (32, 64)\n"
        "config.train.image_size = (32, 64)\nconfig.train.batch_size = 8",
    }
    names: dict = {}
    for snippet in SNIPPETS[3:]:
        for text, replacement in small.items():
            snippet = snippet.replace(text, replacement)
        exec(snippet, names)
    assert "(2 of 3 classes by name)" in capsys.readouterr().out
    assert names["scores"].confusion.shape == (3, 3)
    assert (home / "runs" / "puddles" / "eval" / "scores.json").exists()
