import dataclasses
import io
import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from rich.console import Console

from hrnet_jax.data.dataset import folder_dataset
from hrnet_jax.data.datasets import DATASETS
from hrnet_jax.data.transforms import ResizeViews, normalize
from hrnet_jax.evaluation.evaluator import Evaluator, Pictures, class_table
from hrnet_jax.evaluation.metrics import Scores
from hrnet_jax.evaluation.protocol import Protocol
from hrnet_jax.models import split
from hrnet_jax.ops import resize
from hrnet_jax.parallel.compiling import compile_program, compiler_options, inference_options
from hrnet_jax.parallel.mesh import make_mesh
from hrnet_jax.runs.terminal import Terminal
from tests.published import published_model
from tests.tiny import Toy

MEAN, STD = (120.0, 110.0, 100.0), (60.0, 50.0, 55.0)
WHOLE = Protocol(image_size=(32, 64))
SLIDE = Protocol(image_size=(48, 80), mode="slide", crop_size=(32, 32), stride=(20, 24))


def example(name, size=(32, 64), *, protocol=WHOLE, seed=0):
    rng = np.random.default_rng(seed)
    plain = {
        "id": name,
        "image": rng.integers(0, 256, (*size, 3), np.uint8),
        "label": rng.choice([0, 1, 2, 255], size).astype(np.uint8),
    }
    return ResizeViews(sizes=protocol.view_sizes).map(plain)


def evaluator(structure, *, batch_size=8, protocol=WHOLE, devices=8, classes=3):
    return Evaluator(
        structure, num_classes=classes, protocol=protocol, mean=MEAN, std=STD,
        mesh=make_mesh(devices=jax.devices()[:devices]), batch_size=batch_size,
        dtype=jnp.float32, terminal=Terminal(Console(file=io.StringIO())),
    )  # fmt: skip


def by_definition(model, example, protocol):
    """Logits or mean probabilities, image by image and window by window as the reference."""
    network = nnx.merge(*model)
    network.eval()
    size, total = example["label"].shape, 0.0
    options = inference_options(protocol.image_size)
    run = jax.jit(lambda image: network(image), compiler_options=options)
    for view, flip in itertools.product(example["views"], (False, True)[: 1 + protocol.flip]):
        image = normalize(view, mean=MEAN, std=STD)[None, :, :: -1 if flip else 1]
        canvas, count = 0.0, 0.0
        for (top, bottom), (left, right) in itertools.product(*protocol.windows(view.shape[:2])):
            logits = run(jnp.asarray(image[:, top:bottom, left:right]))
            logits = resize(logits, (bottom - top, right - left))
            around = ((0, 0), (top, view.shape[0] - bottom), (left, view.shape[1] - right), (0, 0))
            canvas += np.pad(np.asarray(logits), around)
            count += np.pad(np.ones(logits.shape), around)
        logits = resize(jnp.asarray(canvas / count, jnp.float32), size)
        logits = logits[:, :, ::-1] if flip else logits
        total += jax.nn.softmax(logits) if protocol.averages else logits
    return np.asarray(total)[0]


PROTOCOLS = {
    "whole": Protocol(image_size=(48, 80)),
    "slide": SLIDE,
    "scales and flip": Protocol(image_size=(48, 80), ratios=(0.5, 1.25), flip=True),
    "slide, scales and flip": dataclasses.replace(SLIDE, ratios=(0.75, 1.0), flip=True),
    "1.x": Protocol(image_size=(48, 80), ratios=(0.5, 1.25), flip=True, reference="v1"),
}


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
    found = {}
    run = evaluator(model[0], protocol=protocol, batch_size=1, devices=1)
    for batch in run.label(*model[1:], examples):
        found |= {e["id"]: labels for e, labels in zip(batch.examples, batch.labels, strict=True)}
    for e in examples:
        scores = by_definition(model, e, protocol)
        best = np.sort(scores, -1)
        is_clear = best[..., -1] - best[..., -2] > 1e-5 * abs(scores).max()
        assert is_clear.mean() > 0.99
        np.testing.assert_array_equal(
            found[e["id"]][is_clear], np.argmax(scores, -1)[is_clear], err_msg=e["id"]
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


def test_programs_have_the_options_of_their_images(monkeypatch):
    given = []

    def noted(*arguments, options):
        given.append(options)
        return compile_program(*arguments, options=options)

    monkeypatch.setattr("hrnet_jax.evaluation.evaluator.compile_program", noted)
    model = split(Toy())
    evaluator(model[0], devices=1)(*model[1:], [example("a", (24, 48))], total=1)
    assert given == [inference_options((32, 64))]
    assert given != [compiler_options()]


def test_what_it_cost_is_said():
    model, out = split(Toy()), io.StringIO()
    run = evaluator(model[0], devices=1, batch_size=1)
    run._terminal = Terminal(Console(file=out, width=200))
    run(*model[1:], [example("a", (24, 48))], total=1)
    needs = re.search(r"It needs at most ([\d,]+) MB", out.getvalue())
    assert needs
    assert re.search(
        rf"Evaluation: 1 program, at most {needs[1]} MB per device; 0% of the computed pixels",
        out.getvalue(),
    )


def test_a_class_that_does_not_exist_is_an_error():
    model, bad = split(Toy()), example("city/7")
    bad["label"][3, 5] = 4
    with pytest.raises(ValueError, match=r"city/7 holds class 4 at \(y=3, x=5\), but there are 3"):
        evaluator(model[0])(*model[1:], [bad], total=1)


def test_the_table_shows_absent_classes_as_a_dash():
    dataset = DATASETS["cityscapes"]
    confusion = np.zeros((19, 19), int)
    confusion[0, 0], confusion[0, 1] = 3, 1
    out = io.StringIO()
    Console(file=out, width=120).print(class_table(Scores(confusion), dataset))
    rows = {line.split("│")[1].strip(): line for line in out.getvalue().splitlines() if "│" in line}
    assert "75.00" in rows["road"]
    assert " - " in rows["sky"]
    assert "37.50" in rows["mean"]  # road and sidewalk (predicted, never labelled)


def test_brackets_in_a_class_name_stay_text():
    dataset, out = folder_dataset(classes=("[b]x[/b]", "[/y]")), io.StringIO()
    Console(file=out, width=120).print(class_table(Scores(np.eye(2, dtype=int)), dataset))
    assert "[b]x[/b]" in out.getvalue()
    assert "[/y]" in out.getvalue()


def test_pictures_are_spread_over_the_split(tmp_path):
    pictures = Pictures(tmp_path, DATASETS["cityscapes"], count=2, total=6)
    for i in range(6):
        item = example(f"city/{i}")
        pictures(item, np.zeros_like(item["label"]))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["city_0.png", "city_3.png"]
