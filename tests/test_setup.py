import io

import jax
import numpy as np
import pytest
from rich.console import Console

from hrnet_jax.setup import Setup
from hrnet_jax.writer import Terminal
from tests.tiny_config import get_config


@pytest.fixture
def setup(tiny_city):
    config = get_config()
    config.data.root = str(tiny_city)
    return Setup(config, terminal=Terminal(Console(file=io.StringIO(), width=200)))


def test_a_compiled_shape_is_that_of_the_batches(setup):
    batches = setup.train_batches(0)
    batch = next(batches)
    for name, expected in setup.batch_shape().items():
        assert batch[name].shape == expected.shape
        assert batch[name].dtype == expected.dtype
    batches.close()


def test_the_step_is_the_position_in_the_data(setup):
    from_zero, from_two = setup.train_batches(0), setup.train_batches(2)
    for _ in range(2):
        next(from_zero)
    for _ in range(2):
        a, b = next(from_zero), next(from_two)
        np.testing.assert_array_equal(a["image"], b["image"])
        assert a["id"].tolist() == b["id"].tolist()
    from_zero.close()
    from_two.close()


def test_float64_is_float64_throughout(setup):
    with jax.enable_x64(True):
        setup.config.model.dtype = "float64"
        again = Setup(setup.config, terminal=setup.terminal)
        state = again.initial_state(again.optimizer()[0])
        assert {leaf.dtype.name for leaf in jax.tree.leaves(state[:2])} == {"float64"}


def test_a_checkpoint_says_all_that_prediction_needs(setup):
    meta = setup.meta()
    assert meta["variant"] == "tiny"
    assert len(meta["classes"]) == len(meta["palette"]) == 19
    assert meta["mean"] == (123.675, 116.28, 103.53)
    assert meta["config"]["eval"]["image_size"] == (64, 128)


def test_what_would_stop_training_is_found_first(setup):
    setup.config.data.root = "/nowhere"
    with pytest.raises(FileNotFoundError, match="/nowhere"):
        setup.check_training()


def test_a_run_introduces_itself(setup):
    setup.describe(start=0)
    text = setup.terminal.console.file.getvalue()
    for part in (
        "tiny",
        "19 classes",
        "random weights",
        "8 train and 4 val",
        "4.0 epochs",
        "8 cpu",
    ):
        assert part in text, part
