import io
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

from hrnet_jax.evaluation.evaluator import Evaluator
from hrnet_jax.models import split
from hrnet_jax.parallel.mesh import make_mesh
from hrnet_jax.runs.terminal import Terminal
from tests.evaluation.definition import MEAN, PROTOCOLS, STD, WHOLE, by_definition, example
from tests.published import published_model
from tests.tiny import Toy


def evaluator(structure, *, batch_size=8, protocol=WHOLE, devices=8, console=None):
    return Evaluator(
        structure, num_classes=3, protocol=protocol, mean=MEAN, std=STD,
        mesh=make_mesh(devices=jax.devices()[:devices]), batch_size=batch_size,
        dtype=jnp.float32, terminal=Terminal(console or Console(quiet=True)),
    )  # fmt: skip


def tiny_hrnet():
    return published_model("tiny", num_classes=3)


@pytest.mark.parametrize(
    ("build", "name"),
    [
        (Toy, "slide"),
        *(pytest.param(tiny_hrnet, name, marks=pytest.mark.slow) for name in PROTOCOLS),
    ],
)
def test_label_maps_are_those_of_the_definition(build, name):
    model, protocol = split(build()), PROTOCOLS[name]
    sizes = [(40, 61), (33, 90), (70, 45), (1, 1), (64, 64)]  # the last one fills a window
    examples = [example(str(size), size, protocol=protocol, seed=n) for n, size in enumerate(sizes)]
    results = {}
    run = evaluator(model[0], protocol=protocol, batch_size=1, devices=1)
    for batch in run.label(*model[1:], examples):
        results |= {e["id"]: labels for e, labels in zip(batch.examples, batch.labels, strict=True)}
    for e in examples:
        scores = by_definition(model, e, protocol)
        best = np.sort(scores, -1)
        is_clear = best[..., -1] - best[..., -2] > 1e-5 * abs(scores).max()
        assert is_clear.mean() > 0.99
        np.testing.assert_array_equal(
            results[e["id"]][is_clear], np.argmax(scores, -1)[is_clear], err_msg=e["id"]
        )


def test_every_image_counts_once_in_any_order_batch_and_number_of_devices():
    model = split(Toy())
    sizes = [(32, 64), (20, 64), (32, 64), (50, 41)]
    examples = [example(str(i), sizes[i % 4], seed=i) for i in range(11)]
    seen = {}

    def remember(example, predicted):
        seen[example["id"]] = predicted

    first = evaluator(model[0])(*model[1:], examples, total=11, on_prediction=remember)
    second = evaluator(model[0], batch_size=3, devices=1)(*model[1:], examples[::-1], total=11)
    np.testing.assert_array_equal(first.confusion, second.confusion)
    by_hand = np.zeros((3, 3), int)
    for e in examples:
        assert seen[e["id"]].shape == e["label"].shape
        keep = e["label"] != 255
        np.add.at(by_hand, (e["label"][keep], seen[e["id"]][keep]), 1)
    np.testing.assert_array_equal(first.confusion, by_hand)


def test_a_split_ends_with_what_its_programs_need():
    model, out = split(Toy()), io.StringIO()
    run = evaluator(model[0], devices=1, batch_size=1, console=Console(file=out, width=200))
    run(*model[1:], [example("a", (24, 48))], total=1)
    needs = re.findall(r"It needs at most ([\d,]+) MB", out.getvalue())
    assert len(needs) == 2  # the network, its logits to label maps
    most = max(needs, key=int)
    assert f"Evaluation: 2 programs, at most {most} MB per device; 0% of the" in out.getvalue()
    assert out.getvalue().endswith("of the computed pixels were padding\n")


def test_a_class_that_does_not_exist_is_an_error():
    model, bad = split(Toy()), example("city/7")
    bad["label"][3, 5] = 4
    with pytest.raises(ValueError, match=r"city/7 holds class 4 at \(y=3, x=5\), but there are 3"):
        evaluator(model[0])(*model[1:], [bad], total=1)
