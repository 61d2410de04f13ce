import io

import jax
import numpy as np
import pytest
from rich.console import Console

from hrnet_jax.config import recipes
from hrnet_jax.config.build_training import build_training, checkpoint_meta, first_weights
from hrnet_jax.runs.terminal import Terminal
from tests import tiny  # noqa: F401 -- adds the variants "tiny" and "toy"
from tests.interop.tiny_files import backbone_state, mmseg_state, write
from tests.tiny_config import get_config


@pytest.fixture
def config():
    config = get_config()
    config.model.variant = "tiny"
    return config


@pytest.fixture
def terminal():
    return Terminal(Console(file=io.StringIO(), width=200))


def test_sizes_that_the_mesh_cannot_share_are_refused_before_anything_is_read(config):
    config.mesh.height = 2
    with pytest.raises(ValueError, match=r"crop_size has 32 rows.* use a multiple of 64"):
        build_training(config)
    config.train.crop_size = (64, 64)
    config.train.accumulate = 4
    with pytest.raises(ValueError, match=r"batch_size=8 cannot .* use a multiple of 16"):
        build_training(config)


def test_a_config_that_cannot_work_is_refused_whoever_made_it(config):
    config.eval.stride = (500, 500)
    with pytest.raises(ValueError, match=r"config.eval.stride=\(500, 500\) must not exceed"):
        build_training(config)


def test_the_shapes_of_a_state_are_those_of_the_state(config):
    training = build_training(config)
    state = training.state(training.random)
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), state) == jax.tree.map(
        lambda leaf: (leaf.shape, leaf.dtype), training.state_shape
    )


def test_float64_is_float64_throughout(default_precision, config):
    config.model.dtype = "float64"
    training = build_training(config)
    state = training.state(training.random)
    assert {leaf.dtype.name for leaf in jax.tree.leaves((state.params, state.batch_stats))} == {
        "float64"
    }
    assert jax.config.jax_default_matmul_precision == "highest"


def test_a_checkpoint_says_all_that_prediction_needs(config):
    meta = checkpoint_meta(config)
    assert meta["variant"] == "tiny"
    assert len(meta["classes"]) == len(meta["palette"]) == 19
    assert meta["mean"] == (123.675, 116.28, 103.53)
    assert meta["config"]["eval"]["image_size"] == (64, 128)


def test_training_starts_from_a_file_and_says_so(config, terminal, tmp_path):
    state = mmseg_state(19)
    config.init_from = str(write(tmp_path / "start.pth", state, CLASSES=None))
    training = build_training(config)
    weights = first_weights(config, random=training.random, terminal=terminal)
    kernel = training.state(weights).params["backbone"]["conv1"]["kernel"]
    np.testing.assert_array_equal(
        np.asarray(kernel).transpose(3, 2, 0, 1), state["backbone.conv1.weight"]
    )
    assert "start.pth (mmsegmentation): 265 tensors of the backbone, 7 of the head" in (
        weights.origin
    )


def test_a_backbone_leaves_the_head_random(config, terminal, tmp_path):
    config.init_from = str(write(tmp_path / "w18.pth", backbone_state()))
    random = build_training(config).random
    weights = first_weights(config, random=random, terminal=terminal)
    jax.tree.map(
        np.testing.assert_array_equal, weights.params["decode_head"], random.params["decode_head"]
    )
    assert "the 7 of the head are random" in weights.origin


def test_a_file_that_is_not_there_is_named(config, terminal):
    config.init_from = "/nowhere.pth"
    random = build_training(config).random
    with pytest.raises(FileNotFoundError, match=r"/nowhere.pth"):
        first_weights(config, random=random, terminal=terminal)


def test_a_published_recipe_without_its_backbone_is_a_loud_start(config, terminal):
    random = build_training(config).random
    assert first_weights(config, random=random, terminal=terminal) is random
    assert random.origin == "random weights, seed 0"
    assert "Warning" not in terminal.console.file.getvalue()
    published = recipes.cityscapes(variant="hr18", schedule="40k")
    first_weights(published, random=random, terminal=terminal)
    text = terminal.console.file.getvalue()
    assert "Warning: training starts from random weights" in text
    assert "hrnetv2_w18-00eb2006.pth" in text
    assert "--config.init_from=FILE" in text
