import io
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from rich.console import Console

from hrnet_jax.commands.plan import (
    CHIPS,
    Collective,
    Costs,
    bound,
    collectives,
    costs,
    plan,
    simulate,
)
from hrnet_jax.config.build import Setup
from hrnet_jax.evaluation.batching import count_programs
from hrnet_jax.evaluation.protocol import Protocol
from hrnet_jax.parallel.mesh import make_mesh
from hrnet_jax.runs.writer import Terminal
from hrnet_jax.training.step import split
from tests.command import ROOT, TINY, run
from tests.tiny import Toy
from tests.tiny_config import get_config


def compiled(function, *shapes, axes=("data",), **options):
    sharding = NamedSharding(make_mesh(height=2), P(*axes))
    arrays = [jax.ShapeDtypeStruct(shape, jnp.float32, sharding=sharding) for shape in shapes]
    return jax.jit(function, **options).lower(*arrays).compile().as_text()


def test_collectives_are_read_from_a_program():
    everywhere = NamedSharding(make_mesh(height=2), P())
    (total,) = collectives(compiled(lambda x: x.sum(0), (8, 3)))
    assert total == Collective("all-reduce", bytes=4 * 3, devices=4, times=1)
    (whole,) = collectives(compiled(lambda x: x + 1, (8, 3), out_shardings=everywhere))
    assert whole == Collective("all-gather", bytes=4 * 24, devices=4, times=1)
    both = collectives(compiled(lambda x: x.sum(), (8, 6), axes=("data", "height")))
    assert {c.kind for c in both} == {"all-reduce"}
    assert {c.bytes for c in both} == {4}
    assert collectives(compiled(lambda x: x + 1, (8, 3))) == []


def test_collectives_in_a_loop_count_as_often_as_it_turns():
    def function(x):
        def add(total, scale):
            return total + (x * jnp.sin(total + scale)).sum(0), None

        return jax.lax.scan(add, jnp.zeros(3), jnp.arange(5.0))[0]

    (total,) = collectives(compiled(function, (8, 3)))
    assert total == Collective("all-reduce", bytes=12, devices=4, times=5)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (
            "  %ar = (f32[18]{0:T(128)}, bf16[2,3]{1,0:T(8,128)(2,1)}) all-reduce(%a, %b), "
            "replica_groups=[2,4]<=[8], to_apply=%add",
            Collective("all-reduce", 18 * 4 + 6 * 2, 4, 1),
        ),
        (
            "  %cp = (f32[1,16]{1,0}, f32[1,16]{1,0}, u32[], u32[]) collective-permute-start(%x), "
            "source_target_pairs={{0,1},{1,2}}",
            Collective("collective-permute", 64, 0, 1),
        ),
        (
            "  ROOT %ag = f32[8,3]{1,0} all-gather(f32[1,3]{1,0} %x), channel_id=1, "
            "replica_groups={{0,1,2,3,4,5,6,7}}, dimensions={0}",
            Collective("all-gather", 96, 8, 1),
        ),
    ],
)
def test_collectives_are_read_as_accelerators_write_them(line, expected):
    """TPUs combine sums, and start an exchange before they wait for it."""
    assert collectives(line) == [expected]


def some_costs(**changes):
    usual = Costs(
        parameters=10, images=16, devices=8, flops=8 * 197e12, traffic=819e9 / 2,
        arguments=100, temporary=700, workspace=200,
        collectives=[
            Collective("all-reduce", bytes=10**9, devices=8, times=2),
            Collective("collective-permute", bytes=10**9, devices=0, times=1),
        ],
    )  # fmt: skip
    return usual._replace(**changes)


def test_a_bound_is_arithmetic_or_memory_then_exchanges():
    """One second of arithmetic, half of one of memory; a sum goes around the ring twice."""
    least = bound(some_costs(), CHIPS[0], dtype="bfloat16")
    assert least is not None
    assert (least.compute, least.memory) == (1, 0.5)
    assert least.latency == pytest.approx(3 * CHIPS[0].latency)
    assert least.transfer == pytest.approx((2 * 2 * 7 / 8 + 1) * 1e9 / CHIPS[0].link)
    assert least.step == pytest.approx(1 + least.latency + least.transfer)
    assert least.first == "compute"
    slower = bound(some_costs(traffic=2 * 819e9), CHIPS[0], dtype="bfloat16")
    assert slower is not None
    assert slower.first == "memory"
    assert bound(some_costs(), CHIPS[0], dtype="float64") is None
    assert some_costs().memory == 1000


class ToySetup(Setup):
    """The small network in place of the one that the config names."""

    @property
    def _model(self):
        return split(Toy(19))


def toy_costs(**fields):
    config = get_config()
    config.train.crop_size = (64, 64)
    for field, value in fields.items():
        config[field].update(value)
    terminal = Terminal(Console(file=io.StringIO(), width=200))
    return costs(ToySetup(config, terminal=terminal))[0]


def test_costs_are_those_of_the_compiled_step():
    plain, rows = toy_costs(), toy_costs(mesh={"height": 2})
    assert (
        plain.parameters
        == rows.parameters
        == sum(
            leaf.size
            for leaf in jax.tree.leaves(ToySetup(get_config(), terminal=Terminal())._model[1])
        )
    )
    assert plain.flops == rows.flops
    # 3x3 convolutions at stride 2 and 4, 1x1 at 4; backward about twice as much as forward.
    forward = 2 * 8 * (32 * 32 * 27 * 8 + 16 * 16 * (72 * 8 + 8 * 19))
    assert 2.5 < plain.flops / forward < 12  # the rest: enlargement, softmax, normalisation
    batch = 64 * 64 * (3 * 4 + 1)  # one crop per device, as float32 and as uint8
    state = 4 * 2 * plain.parameters
    assert batch + state < plain.arguments < batch + 1.2 * state + 1000
    # The second layer's gradient: one value per output pixel, window position and input channel.
    assert plain.workspace == 16 * 16 * 9 * 8 * 4
    assert {c.kind for c in plain.collectives} == {"all-reduce"}
    assert {c.kind for c in rows.collectives} == {"all-reduce", "collective-permute"}


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


@pytest.mark.slow
def test_planned_memory_is_what_a_step_takes():
    """Within 15 %, which the command itself checks; docs/scale.md has two more crops."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.scale", "check", "--crop", "256", "512", "--batch=2"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "planned" in done.stdout


def test_a_plan_refuses_what_the_mesh_cannot_share():
    config = get_config()
    config.mesh.height = 4
    with pytest.raises(ValueError, match=r"crop_size has 32 rows, which config.mesh.height=4"):
        plan(config, devices=jax.devices(), terminal=Terminal(Console(file=io.StringIO())))
