import dataclasses
import io

import jax
import numpy as np
import pytest
from rich.console import Console

from hrnet_jax.commands.evaluate import evaluate
from hrnet_jax.config.build_data import build_data
from hrnet_jax.config.build_evaluation import build_evaluation, describe_protocol
from hrnet_jax.config.build_training import build_training
from hrnet_jax.config.load import load_predictor
from hrnet_jax.runs.checkpoint import Checkpoints
from hrnet_jax.runs.stored_weights import load_weights
from hrnet_jax.runs.terminal import Terminal
from hrnet_jax.train import introduction, is_due, start_or_resume, train
from tests import tiny  # noqa: F401 -- adds the variant "toy"
from tests.tiny_config import get_config


def test_things_happen_every_so_often_and_at_the_end():
    assert [done for done in range(1, 8) if is_due(done, 3, last=7)] == [3, 6, 7]


def test_a_workdir_may_be_text_and_begin_at_home(home, tiny_city):
    config, terminal = get_config(), Terminal(Console(file=io.StringIO(), width=200))
    config.data.root, config.train.steps = str(tiny_city), 2
    scores = train(config, workdir="~/run", terminal=terminal)
    weights = load_weights("~/run")
    assert weights.path == home / "run" / "checkpoints" / "2"
    again = evaluate(config, weights, workdir="~/run", terminal=terminal)
    assert (home / "run" / "eval" / "scores.json").exists()
    assert scores is not None
    assert again.summary() == scores.summary()
    said = terminal.console.file.getvalue()
    assert said.count(f"Protocol: {describe_protocol(config)}.") == 2  # of both
    assert len(load_predictor("~/run").classes) == 19


def test_a_run_introduces_itself(tiny_city):
    config, terminal = get_config(), Terminal(Console(file=io.StringIO()))
    config.data.root = str(tiny_city)
    text = introduction(
        config,
        build_training(config),
        build_data(config, terminal=terminal),
        build_evaluation(config, terminal=terminal),
        origin="from random weights, seed 0",
    )
    for part in (
        "toy_minicity: toy, ",
        "19 classes", "float32, from random weights, seed 0", "minicity: 8 train and 4 val",
        "4 steps of 8 crops of 32x64 (4.0 epochs)", "8 cpu devices",
    ):  # fmt: skip
        assert part in text, part


def test_a_run_says_what_is_frozen_and_how_the_head_learns(tiny_city):
    config, terminal = get_config(), Terminal(Console(file=io.StringIO()))
    config.data.root = str(tiny_city)
    config.optim.freeze, config.optim.head_lr = ("backbone",), 0.3
    text = introduction(
        config,
        build_training(config),
        build_data(config, terminal=terminal),
        build_evaluation(config, terminal=terminal),
        origin="from weights",
    )
    assert text.endswith(
        "\nFine-tuning: frozen: backbone; learning rate of the head: 0.3, of the rest: 0.03"
    )


def test_only_a_new_run_reads_the_weights_that_it_starts_from(tmp_path):
    config, terminal = get_config(), Terminal(Console(file=io.StringIO()))
    config.init_from = "/nowhere.pth"
    training = build_training(config)
    state = training.state(training.random)
    with Checkpoints(tmp_path, keep_newest=2, warn=pytest.fail) as checkpoints:
        options = {"checkpoints": checkpoints, "terminal": terminal}
        with pytest.raises(FileNotFoundError, match=r"/nowhere.pth"):
            start_or_resume(config, training, **options)
        for step, scored in ((1, True), (2, False)):  # the second should have been evaluated
            checkpoints.save(step, state, meta={"monitor": {"bad_steps": step, "good": []}})
            checkpoints.wait()
            start = start_or_resume(config, training, **options)
            assert (start.step, start.scored) == (step, scored)
            assert start.origin == f"resumed at step {step}"
            assert start.monitor == {"bad_steps": step, "good": []}
            expected = dataclasses.replace(state, step=step)
            jax.tree.map(np.testing.assert_array_equal, start.state, expected)
