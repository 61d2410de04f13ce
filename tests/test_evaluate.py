import io
import json
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from hrnet_jax import models
from hrnet_jax.checkpoint import Weights
from hrnet_jax.evaluate import evaluate
from hrnet_jax.setup import Setup
from hrnet_jax.step import split
from hrnet_jax.writer import Terminal
from tests.tiny_config import get_config


@pytest.fixture
def config(tiny_city):
    config = get_config()
    config.data.root = str(tiny_city)
    return config


def weights_of(config, **changes) -> Weights:
    _, params, stats = split(models.build("tiny", num_classes=19))
    meta = Setup(config, terminal=Terminal()).meta() | changes
    return Weights(params=params, stats=stats, meta=meta, step=3, path=Path("/weights/3"))


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


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"variant": "hr48"}, r"holds hr48, but config.model.variant=tiny"),
        ({"classes": ["road"]}, r"was trained for 1 classes .* minicity has 19"),
    ],
)
def test_weights_of_something_else_are_refused(config, tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        evaluate(config, weights_of(config, **changes), workdir=tmp_path, terminal=Terminal())
