import io

import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

from hrnet_jax.data import DATASETS
from hrnet_jax.evaluator import Evaluator, Pictures, batches_of_one_size, class_table
from hrnet_jax.metrics import Scores
from hrnet_jax.sharding import make_mesh
from hrnet_jax.step import split
from hrnet_jax.writer import Terminal
from tests.tiny import Toy


def example(name, size=(32, 64), label_size=None, seed=0):
    rng = np.random.default_rng(seed)
    return {
        "id": name,
        "image": rng.standard_normal((*size, 3)).astype(np.float32),
        "original": rng.integers(0, 256, (*size, 3), np.uint8),
        "label": rng.choice([0, 1, 2, 255], label_size or size).astype(np.uint8),
    }


@pytest.fixture(scope="module")
def model():
    return split(Toy())


def evaluator(model, batch_size):
    return Evaluator(
        model[0], num_classes=3, mesh=make_mesh(), batch_size=batch_size, dtype=jnp.float32,
        terminal=Terminal(Console(file=io.StringIO())),
    )  # fmt: skip


def test_every_image_counts_once_in_any_order_and_batch(model):
    examples = [example(str(i), seed=i) for i in range(11)]
    seen = {}

    def remember(example, predicted):
        seen[example["id"]] = predicted

    first = evaluator(model, 8)(*model[1:], examples, total=11, on_prediction=remember)
    second = evaluator(model, 16)(*model[1:], examples[::-1], total=11)
    np.testing.assert_array_equal(first.confusion, second.confusion)
    valid = sum((e["label"] != 255).sum() for e in examples)
    assert first.confusion.sum() == valid
    assert set(seen) == {e["id"] for e in examples}
    by_hand = np.zeros((3, 3), int)
    for e in examples:
        keep = e["label"] != 255
        np.add.at(by_hand, (e["label"][keep], seen[e["id"]][keep]), 1)
    np.testing.assert_array_equal(first.confusion, by_hand)


def test_labels_keep_their_size(model):
    seen = []
    scores = evaluator(model, 8)(
        *model[1:],
        [example("a", (32, 64), (50, 101))],
        total=1,
        on_prediction=lambda _, predicted: seen.append(predicted.shape),
    )
    assert seen == [(50, 101)]
    assert scores.confusion.sum() > 0


def test_sizes_are_not_mixed():
    sizes = [(8, 8), (8, 16), (8, 8), (8, 8), (8, 16)]
    examples = [example(str(i), size) for i, size in enumerate(sizes)]
    groups = [[e["id"] for e in group] for group in batches_of_one_size(examples, batch_size=2)]
    assert groups == [["0", "2"], ["1", "4"], ["3"]]


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


def test_pictures_are_spread_over_the_split(tmp_path):
    pictures = Pictures(tmp_path, DATASETS["cityscapes"], count=2, total=6)
    for i in range(6):
        item = example(f"city/{i}")
        pictures(item, np.zeros_like(item["label"]))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["city_0.png", "city_3.png"]
