import math
import tracemalloc

import numpy as np
import pytest

from hrnet_jax.evaluation.gallery import Gallery
from hrnet_jax.evaluation.per_image import confusion_of
from tests.evaluation.test_report import DATASET, scenes


def shown(gallery):
    return {kind: [tile.id for tile in tiles] for kind, tiles in gallery.groups().items()}


def test_the_gallery_shows_the_ends_and_the_middle():
    gallery, ids = Gallery(DATASET, count=2), []
    for example, predicted in scenes():
        gallery.add(example, predicted, confusion_of(example["label"], predicted, num_classes=6))
        ids.append(example["id"])
    found = shown(gallery)
    scores = [tile.score for tiles in gallery.groups().values() for tile in tiles]
    assert len({name for names in found.values() for name in names}) == 6
    assert found["worst"] == [ids[11], ids[10]]
    assert found["best"] == [ids[0], ids[1]]
    assert set(found["median"]) <= set(ids[4:8])
    assert not any(map(math.isnan, scores))


@pytest.mark.parametrize(("count", "sizes"), [(1, [1, 0, 0]), (2, [1, 0, 1]), (4, [2, 0, 2])])
def test_few_images_are_shown_once_each(count, sizes):
    gallery = Gallery(DATASET)
    for example, predicted in scenes(count):
        gallery.add(example, predicted, confusion_of(example["label"], predicted, num_classes=6))
    assert [len(names) for names in shown(gallery).values()] == sizes


def test_the_gallery_does_not_grow_with_the_split():
    """Random order, many images: what is kept stays small, the middle stays near the median."""
    gallery, rng = Gallery(DATASET, count=2, side=16), np.random.default_rng(0)
    (example, predicted), *_ = scenes(1)
    order, sizes = rng.permutation(400), []
    tracemalloc.start()
    for number in order:
        confusion = np.array([[number + 1, 400 - number], [0, 0]])
        gallery.add({**example, "id": f"{number:03}"}, predicted, confusion)
        sizes.append(tracemalloc.get_traced_memory()[0])
    tracemalloc.stop()
    assert len(gallery._tiles) <= 2 + 2 + 8
    assert max(sizes[50:]) < 1.3 * sizes[50] + 20_000
    found = shown(gallery)
    assert found["worst"] == ["000", "001"]
    assert found["best"] == ["399", "398"]
    assert all(abs(int(name) - 200) < 12 for name in found["median"])
