import io
import json
import time

import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

from hrnet_jax.monitor import Monitor
from hrnet_jax.step import Metrics
from hrnet_jax.writer import MetricsWriter, Terminal


def metrics(loss=1.0, finite=True):
    return Metrics(jnp.float32(loss), jnp.float32(0.5), jnp.float32(2.0), jnp.bool_(finite))


@pytest.fixture
def watched(tmp_path):
    """A monitor of batches that take 20 ms each, and what it printed and wrote."""
    out = io.StringIO()
    terminal = Terminal(Console(file=out, width=300))
    writer = MetricsWriter(tmp_path, start=0)

    def batches():
        while True:
            time.sleep(0.02)
            yield {"id": np.array(["aachen/1", "bonn/2"])}

    with terminal.live("Training", total=10) as live:
        monitor = Monitor(
            batches(), schedule=lambda step: 0.1 * step, batch_size=2, max_bad_steps=2,
            writer=writer, live=live, terminal=terminal,
        )  # fmt: skip
        yield monitor, out, lambda: [json.loads(x) for x in writer.path.read_text().splitlines()]
    writer.close()


def step(monitor, number, **values):
    monitor.next_batch()
    monitor.add(number, metrics(**values))


def test_a_report_means_over_its_steps(watched):
    monitor, out, entries = watched
    step(monitor, 0, loss=1.0)
    step(monitor, 1, loss=3.0)
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
    step(monitor, 0)
    with monitor.paused():
        time.sleep(0.5)
    monitor.report(1)
    assert entries()[0]["images_per_second"] > 2 / 0.5


def test_a_bad_step_is_told_with_its_images_and_left_out_of_the_mean(watched):
    monitor, out, entries = watched
    step(monitor, 0, loss=2.0)
    step(monitor, 1, loss=float("nan"), finite=False)
    monitor.report(2)
    assert "step 2: loss nan" in out.getvalue()
    assert "aachen/1, bonn/2" in out.getvalue()
    assert entries()[0]["loss"] == 2.0


def test_too_many_bad_steps_in_a_row_stop_the_run(watched):
    monitor, _, _ = watched
    for number, finite in enumerate([False, True, False, False]):
        step(monitor, number, finite=finite)
    with pytest.raises(FloatingPointError, match=r"step 4: .* as in the 1 steps before it"):
        monitor.report(4)
