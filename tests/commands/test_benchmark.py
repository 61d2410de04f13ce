import dataclasses
import io
import json
from types import SimpleNamespace

import jax
import pytest
from rich.console import Console

from hrnet_jax.commands import benchmark as module
from hrnet_jax.commands.benchmark import (
    benchmark,
    for_one_device,
    images_per_second,
    most_held,
)
from hrnet_jax.config.build_training import build_training
from hrnet_jax.evaluation.evaluator import Evaluator
from hrnet_jax.parallel.mesh import make_mesh
from hrnet_jax.runs.terminal import Terminal
from tests.tiny_config import get_config


@pytest.fixture
def terminal():
    return Terminal(Console(file=io.StringIO(), width=200))


def test_it_measures_prints_and_writes_without_data(terminal, tmp_path):
    config = get_config()
    config.data.root = str(tmp_path / "none")
    config.train.crop_size = (256, 512)
    measured = benchmark(config, images=7, workdir=tmp_path / "run", terminal=terminal)
    assert (measured.batch_size, measured.crop_size) == (2, (256, 512))  # 8 on 4 GPUs
    batch, activations = (2 * 256 * 512 * x for x in (13, 2 * 8 * 4 / 4))
    assert batch + activations < measured.memory * 2**30 < 50 * (batch + activations)
    assert measured.image_size == (256, 512)
    assert measured.fps > 0
    assert measured.published_memory is measured.published_fps is None
    written = json.loads((tmp_path / "run" / "benchmark.json").read_text())
    assert written == json.loads(json.dumps(dataclasses.asdict(measured)))
    said = terminal.console.file.getvalue()
    assert "mem: GB, training with 2 crops of 256x512" in said
    assert "fps: images/s, 256x512 to label map" in said
    assert "the mean over 2 images after 5 that warm up" in said


def test_speed_is_that_after_the_warm_up_and_of_the_network_alone(terminal, monkeypatch):
    """The first five images take a minute each, the others half a second; reading takes long."""
    clock, calls = [0.0], []

    def assemble(self, group):
        clock[0] += 1000
        return group

    def run(self, params, batch_stats, batch):
        calls.append(batch)
        clock[0] += 60 if len(calls) <= 5 else 0.5
        return [batch[0]["label"]], None

    monkeypatch.setattr(Evaluator, "assemble", assemble)
    monkeypatch.setattr(Evaluator, "run", run)
    monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=lambda: clock[0]))
    config = for_one_device(get_config())
    training = build_training(config, mesh=make_mesh(devices=jax.devices()[:1]))
    speed = images_per_second(config, training, size=(20, 30), images=9, terminal=terminal)
    assert speed == 2
    assert len(calls) == 9


@pytest.mark.parametrize(("fields", "share"), [((8, 1), 2), ((16, 1), 4), ((2, 1), 1), ((8, 4), 4)])
def test_training_is_that_of_one_of_four_gpus(fields, share):
    config = get_config()
    config.train.batch_size, config.train.accumulate = fields
    assert for_one_device(config).train.batch_size == share
    assert config.train.batch_size == fields[0]


def test_an_allocator_is_asked_first():
    assert most_held({"bytes_in_use": 3, "peak_bytes_in_use": 7}, before=1) == 7
    assert most_held(None, before=None) is None


def test_too_few_images_are_refused(terminal, tmp_path):
    with pytest.raises(
        ValueError, match=r"--images=5 leaves nothing to time: the first 5 are warm"
    ):
        benchmark(get_config(), images=5, workdir=tmp_path, terminal=terminal)
