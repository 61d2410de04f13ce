import contextlib
import io
import json
import time

import jax.numpy as jnp
import pytest
from rich.console import Console

from hrnet_jax.runs.metrics_log import MetricsWriter
from hrnet_jax.runs.terminal import Terminal
from hrnet_jax.training.monitor import Monitor
from hrnet_jax.training.step import Metrics


def metrics(loss=1.0, finite=True):
    return Metrics(jnp.float32(loss), jnp.float32(0.5), jnp.float32(2.0), jnp.bool_(finite))


@contextlib.contextmanager
def watching(tmp_path, *, start=0, max_bad_steps=2, resumed=None):
    """A monitor, and what it printed and wrote."""
    out = io.StringIO()
    terminal = Terminal(Console(file=out, width=300))
    writer = MetricsWriter(tmp_path, start=start)

    with terminal.live("Training", total=10) as live:
        monitor = Monitor(
            schedule=lambda step: 0.1 * step, batch_size=2, max_bad_steps=max_bad_steps,
            writer=writer, live=live, terminal=terminal, resumed=resumed,
        )  # fmt: skip
        yield monitor, out, lambda: [json.loads(x) for x in writer.path.read_text().splitlines()]
    writer.close()


@pytest.fixture
def watched(tmp_path):
    with watching(tmp_path) as watched:
        yield watched


def step(monitor, done, **values):
    """A step whose batch takes 20 ms."""
    with monitor.waiting_for_data():
        time.sleep(0.02)
    monitor.add(done, metrics(**values), ids=["aachen/1", "bonn/2"])


def test_a_report_means_over_its_steps(watched):
    monitor, out, entries = watched
    step(monitor, 1, loss=1.0)
    step(monitor, 2, loss=3.0)
    monitor.report(2)
    (entry,) = entries()
    assert entry["step"] == 2
    assert entry["loss"] == 2.0
    assert entry["lr"] == pytest.approx(0.1)  # of the step with index 1
    assert 0 < entry["data_wait"] <= 1
    assert 0 < entry["images_per_second"] < 4 / 0.04
    assert "step 2/10  loss 2.0000" in out.getvalue()


def test_time_out_for_evaluation_does_not_count(watched):
    monitor, _, entries = watched
    step(monitor, 1)
    with monitor.paused():
        time.sleep(0.5)
    monitor.report(1)
    assert entries()[0]["images_per_second"] > 2 / 0.5


def test_a_bad_step_is_told_with_its_images_and_left_out_of_the_mean(watched):
    monitor, out, entries = watched
    step(monitor, 1, loss=2.0)
    step(monitor, 2, loss=float("nan"), finite=False)
    monitor.report(2)
    assert "step 2: loss nan" in out.getvalue()
    assert "aachen/1, bonn/2" in out.getvalue()
    assert entries()[0]["loss"] == 2.0


def test_too_many_bad_steps_in_a_row_stop_the_run(watched):
    monitor, _, _ = watched
    for number, finite in enumerate([False, True, False, False], 1):
        step(monitor, number, finite=finite)
    with pytest.raises(FloatingPointError, match=r"step 4: .* bad steps in a row: 2, all skipped"):
        monitor.report(4)


def test_a_bad_step_is_listed_with_all_its_images(watched, tmp_path):
    monitor, _, _ = watched
    step(monitor, 1, loss=float("inf"), finite=False)
    monitor.report(1)
    (line,) = (tmp_path / "bad_steps.jsonl").read_text().splitlines()
    assert json.loads(line) == {
        "step": 1, "loss": "inf", "grad_norm": "2.0", "ids": ["aachen/1", "bonn/2"]
    }  # fmt: skip


def test_the_first_bad_step_stops_a_run_that_asks_for_it(tmp_path):
    with watching(tmp_path, max_bad_steps=1) as (monitor, _, _):
        step(monitor, 1, finite=False)
        message = r"step 1: .* are not both finite; .* in a row: 1, .*\. The batch was aachen/1"
        with pytest.raises(FloatingPointError, match=message):
            monitor.report(1)


def test_a_run_stopped_between_two_reports_reports_what_an_unbroken_one_would(tmp_path):
    losses = [0.1, 0.7, 1e-3, float("nan"), 0.3]
    finite = [loss == loss for loss in losses]
    for name in ("unbroken", "broken"):
        (tmp_path / name).mkdir()
    with watching(tmp_path / "unbroken") as (monitor, _, unbroken):
        for number, loss in enumerate(losses):
            step(monitor, number + 1, loss=loss, finite=finite[number])
        monitor.report(5)
        (expected,) = unbroken()
    with watching(tmp_path / "broken") as (monitor, _, _):
        for number in range(2):
            step(monitor, number + 1, loss=losses[number])
        state = json.loads(json.dumps(monitor.state()))
    with watching(tmp_path / "broken", start=2, resumed=state) as (monitor, _, broken):
        for number in range(2, 5):
            step(monitor, number + 1, loss=losses[number], finite=finite[number])
        monitor.report(5)
        (entry,) = broken()
    for name in ("loss", "accuracy", "grad_norm", "lr", "step"):
        assert entry[name] == expected[name]


def test_bad_steps_are_counted_over_a_restart(tmp_path):
    with watching(tmp_path) as (monitor, _, _):
        step(monitor, 1, finite=False)
        state = json.loads(json.dumps(monitor.state()))
    with watching(tmp_path, start=1, resumed=state) as (monitor, _, _):
        step(monitor, 2, finite=False)
        with pytest.raises(FloatingPointError, match="bad steps in a row: 2, all skipped"):
            monitor.report(2)
