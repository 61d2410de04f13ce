import dataclasses

import numpy as np

from hrnet_jax.data.dataset import folder_dataset
from hrnet_jax.data.datasets.cityscapes import DATASET as CITYSCAPES
from hrnet_jax.data.examine import class_weights, examine, spread
from hrnet_jax.data.sources.open import open_source
from tests.data.in_memory import PETS, Memory, image, labels, png, source


def test_minicity_is_clean(tiny_city):
    dataset = dataclasses.replace(CITYSCAPES, name="minicity")
    sources = {split: open_source(tiny_city, dataset, split) for split in ("train", "val")}
    found, statistics = examine(sources, dataset)
    assert found == []
    assert statistics["train"].examples == 8
    assert statistics["train"].sizes == {(64, 128): 8}
    assert statistics["val"].image_kinds == {"PNG": 4}


def test_statistics_count_every_pixel_by_value_and_by_class():
    dataset = folder_dataset(classes=("a", "b"), label_map={0: 0, 5: 0, 1: 1, 9: 255})
    raws = [np.array([[0, 5, 5, 1]], np.uint8), np.array([[9, 9, 1, 1]], np.uint8)]
    files = Memory([(png(image(i, 1, 4)), png(raw)) for i, raw in enumerate(raws)])
    _, statistics = examine({"train": files}, dataset)
    assert {v: n for v, n in enumerate(statistics["train"].pixels) if n} == {0: 1, 1: 3, 5: 2, 9: 2}
    assert statistics["train"].class_pixels.tolist() == [3, 3]
    assert statistics["train"].class_labels.tolist() == [1, 2]


def test_class_weights_are_one_on_average_and_rare_classes_weigh_more():
    pixels = np.array([900, 100, 0])
    weights = class_weights(pixels)
    np.testing.assert_allclose((pixels / 1000 * weights).sum(), 1)
    np.testing.assert_allclose(weights[1] / weights[0], 3)  # the square root of 9
    assert weights[2] == weights[1]


def test_a_sample_is_spread_evenly():
    assert spread(10, 3) == [0, 3, 6]
    assert list(spread(3, 10)) == list(spread(3, None)) == [0, 1, 2]
    files = source(labels([0, 1, 2], number=20))
    _, statistics = examine({"train": files, "val": files}, PETS, limit=9)
    assert [sums.examples for sums in statistics.values()] == [5, 5]
