from pathlib import Path

import numpy as np
import pytest

from hrnet_jax.commands.locate_run import has_checkpoint, load_network, locate_run
from hrnet_jax.config import recipes
from hrnet_jax.runs.stored_weights import save_weights
from hrnet_jax.runs.terminal import Terminal


@pytest.mark.parametrize(
    ("flags", "workdir"),
    [
        ({"checkpoint": "runs/x"}, "runs/x"),
        ({"checkpoint": "runs/x/checkpoints"}, "runs/x"),
        ({"checkpoint": "runs/x/checkpoints/40"}, "runs/x"),
        ({"checkpoint": "runs/x/checkpoints", "workdir": "runs/y"}, "runs/y"),
        ({"workdir": "big/checkpoints"}, "big/checkpoints"),
        ({"workdir": "big/checkpoints/hr18"}, "big/checkpoints/hr18"),
    ],
)
def test_results_lie_beside_the_checkpoints(flags, workdir):
    given = {"workdir": None, "checkpoint": None, "config": None} | flags
    found, checkpoint = locate_run(**given)
    assert str(found) == workdir
    assert str(checkpoint) == flags.get("checkpoint", workdir)


def test_without_flags_a_run_is_named_after_its_config():
    config = recipes.minicity(variant="hr18s")
    place = Path("runs/hr18s_minicity")
    assert locate_run(workdir=None, checkpoint=None, config=config) == (place, place)
    with pytest.raises(ValueError, match="--checkpoint is missing; give it, --workdir or --config"):
        locate_run(workdir=None, checkpoint=None, config=None)


def test_a_run_can_resume_once_a_checkpoint_is_complete(tmp_path):
    (tmp_path / "checkpoints" / "3.incomplete").mkdir(parents=True)
    assert not has_checkpoint(tmp_path)
    (tmp_path / "checkpoints" / "3").mkdir()
    assert has_checkpoint(tmp_path)


@pytest.fixture
def saved(tmp_path):
    def save(classes):
        config = recipes.minicity(variant="hr18s")
        meta = {"source": {}, "classes": classes, "config": config.to_dict()}
        save_weights(tmp_path, {"a": np.zeros(1)}, {"b": np.zeros(1)}, meta=meta)
        return tmp_path

    return save


def test_weights_label_by_their_own_config_or_by_the_one_that_is_given(saved):
    path, config = saved(["road"]), recipes.minicity(variant="hr18s")
    config.eval.mode = "slide"
    own = load_network(path, config=None, terminal=Terminal())
    assert own.meta["config"]["eval"]["mode"] == "whole"
    other = load_network(path, config=config, terminal=Terminal())
    assert other.meta["config"]["eval"]["mode"] == "slide"


def test_a_backbone_labels_nothing(saved):
    with pytest.raises(ValueError, match="is a backbone without a head, which cannot label images"):
        load_network(saved([]), config=None, terminal=Terminal())
