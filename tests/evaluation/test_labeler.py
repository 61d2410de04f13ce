import io
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

from hrnet_jax.evaluation import labeler as module
from hrnet_jax.evaluation.batching import Batcher, Views
from hrnet_jax.evaluation.labeler import Labeler
from hrnet_jax.models import split
from hrnet_jax.parallel.compiling import (
    compile_program,
    compiler_options,
    inference_options,
    pixel_options,
)
from hrnet_jax.parallel.mesh import make_mesh
from hrnet_jax.runs.terminal import Terminal
from tests.evaluation.definition import MEAN, PROTOCOLS, STD, WHOLE, by_definition, example
from tests.tiny import Toy


def labeler(structure, *, devices=1, console=None):
    terminal = Terminal(console or Console(quiet=True))
    mesh = make_mesh(devices=jax.devices()[:devices])
    return Labeler(structure, mesh=mesh, dtype=jnp.float32, terminal=terminal)


def batch_of(*examples, protocol=WHOLE):
    batcher = Batcher(protocol, mean=MEAN, std=STD, batch_size=len(examples))
    return batcher.assemble([Views(e["views"], e["label"].shape) for e in examples])


@pytest.mark.parametrize("name", ["whole", "slide", "scales and flip"])
def test_probabilities_are_those_of_the_definition(name):
    model, protocol = split(Toy()), PROTOCOLS[name]
    e = example("a", (70, 45), protocol=protocol)
    (result,) = labeler(model[0]).probabilities(*model[1:], batch_of(e, protocol=protocol))
    expected = by_definition(model, e, protocol)
    expected = expected if protocol.averages else jax.nn.softmax(expected)
    assert result.dtype == np.float16
    assert result.shape == (3, 70, 45)
    np.testing.assert_allclose(result, np.moveaxis(expected, -1, 0), atol=5e-4)


def test_images_on_several_devices_are_what_each_is_alone():
    model = split(Toy())
    examples = [example(str(seed), (20 + seed, 64), seed=seed) for seed in range(2)]
    both = labeler(model[0], devices=2)
    one = labeler(model[0])
    squares, counts = both.label_maps(*model[1:], batch_of(*examples))
    results = both.probabilities(*model[1:], batch_of(*examples))
    assert counts is None
    for e, square, result in zip(examples, np.asarray(squares), results, strict=True):
        (alone,), _ = one.label_maps(*model[1:], batch_of(e))
        np.testing.assert_array_equal(square, alone)
        np.testing.assert_array_equal(result, one.probabilities(*model[1:], batch_of(e))[0])


def test_networks_and_pixels_have_options_of_their_own(monkeypatch):
    given = []

    def noted(*arguments, options):
        given.append(options)
        return compile_program(*arguments, options=options)

    monkeypatch.setattr(module, "compile_program", noted)
    model = split(Toy())
    labeler(model[0]).label_maps(*model[1:], batch_of(example("a", (24, 48))))
    assert given == [inference_options((32, 64)), pixel_options()]
    assert all(options != compiler_options() for options in given)


def test_a_network_is_compiled_once_for_all_that_is_asked_of_it():
    model, out = split(Toy()), io.StringIO()
    run = labeler(model[0], console=Console(file=out, width=200))
    for size in ((24, 48), (48, 96)):  # both are resized to 32x64
        batch = batch_of(example("a", size))
        run.label_maps(*model[1:], batch)
        run.probabilities(*model[1:], batch)
    compiled = re.findall(r"^Compiling the evaluation of (.*): .* s$", out.getvalue(), re.MULTILINE)
    assert compiled == ["images of 32x64", "label maps", "probabilities"]


def test_what_a_program_needs_is_said_before_it_runs():
    model, out = split(Toy()), io.StringIO()
    run = labeler(model[0], console=Console(file=out, width=200))
    run.label_maps(*model[1:], batch_of(example("a", (24, 48))))
    needs = [int(text) for text in re.findall(r"It needs at most (\d+) MB", out.getvalue())]
    assert len(needs) == run.num_programs == 2
    assert max(needs) == round(run.memory / 1e6)
