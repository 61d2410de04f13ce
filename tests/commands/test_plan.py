import io

import jax
import pytest
from rich.console import Console

from hrnet_jax.commands.plan import plan, simulate
from hrnet_jax.evaluation.batching import count_programs
from hrnet_jax.evaluation.protocol import Protocol
from hrnet_jax.runs.terminal import Terminal
from tests.command import TINY, run
from tests.tiny_config import get_config


def test_programs_are_counted_as_the_evaluator_compiles_them():
    whole = Protocol(image_size=(64, 128))
    assert count_programs([(64, 128)] * 3, protocol=whole) == 2  # network, pixels
    assert count_programs([(64, 128), (128, 64)], protocol=whole) == 4
    mirrored = Protocol(image_size=(64, 128), flip=True)
    assert count_programs([(64, 128)] * 3, protocol=mirrored) == 2  # network, pixels


@pytest.mark.parametrize("devices", ["eight", "0", "v5e", "8,"])
def test_devices_that_are_none_are_refused(devices):
    with pytest.raises(
        ValueError,
        match=r"must be a number of simulated devices, such as 8, or a TPU topology, such as v5e",
    ):
        simulate(devices)


@pytest.mark.slow
def test_the_command_prints_a_plan_without_data(tmp_path):
    done = run(
        "--mode", "plan", "--devices", "4", "--config.mesh.height=2",
        f"--config.data.root={tmp_path / 'none'}", "--config.train.crop_size=(64,64)",
        module=TINY, devices=1,
    )  # fmt: skip
    assert "Mesh: 4 cpu devices = data 2 x height 2; 8 crops of 64x64 per step" in done.stdout
    assert "collective-permute" in done.stdout
    assert "all-gather" not in done.stdout
    assert "Programs to compile: 1 training step, those of evaluation (unknown" in done.stdout
    assert "TPU v5e" in done.stdout


def test_a_plan_refuses_what_the_mesh_cannot_share():
    config = get_config()
    config.mesh.height = 4
    with pytest.raises(ValueError, match=r"crop_size has 32 rows, which config.mesh.height=4"):
        plan(config, devices=jax.devices(), terminal=Terminal(Console(file=io.StringIO())))
