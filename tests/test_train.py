import io

from rich.console import Console

from hrnet_jax.commands.evaluate import evaluate
from hrnet_jax.config.defaults import describe_evaluation
from hrnet_jax.config.load import load_predictor
from hrnet_jax.runs.checkpoint import load_weights
from hrnet_jax.runs.writer import Terminal
from hrnet_jax.train import is_due, train
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
    assert said.count(f"Protocol: {describe_evaluation(config)}.") == 2  # of both
    assert len(load_predictor("~/run").classes) == 19
