import dataclasses

import numpy as np
import pytest

from hrnet_jax.evaluation.metrics import Scores
from hrnet_jax.evaluation.per_image import ImageCounts, PerImage, confusion_of


def counts_of(images, *, num_classes=3):
    """From {id: (label, predicted)}."""
    counts = ImageCounts(num_classes)
    for name, (label, predicted) in images.items():
        counts.add(name, label.shape, confusion_of(label, predicted, num_classes=num_classes))
    return counts.result()


@pytest.fixture
def images():
    rng = np.random.default_rng(0)
    return {
        name: (
            rng.choice([0, 1, 2, 255], (5, 7)).astype(np.uint8),
            rng.integers(0, 3, (5, 7), np.uint8),
        )
        for name in ("b/ä", "a", "c")
    }


def test_a_confusion_is_that_of_the_definition(images):
    label, predicted = images["a"]
    expected = np.zeros((3, 3), int)
    for truth, guess in zip(label.ravel(), predicted.ravel(), strict=True):
        if truth != 255:
            expected[truth, guess] += 1
    np.testing.assert_array_equal(confusion_of(label, predicted, num_classes=3), expected)


def test_counts_are_in_the_order_of_the_ids_and_add_up(images):
    counts = counts_of(images)
    assert counts.ids.tolist() == ["a", "b/ä", "c"]
    assert counts.sizes.tolist() == [[5, 7]] * 3
    total = sum(confusion_of(*pair, num_classes=3) for pair in images.values())
    np.testing.assert_array_equal(counts.intersection.sum(0), np.diagonal(total))
    np.testing.assert_array_equal(counts.labelled.sum(0), total.sum(1))
    np.testing.assert_array_equal(counts.predicted.sum(0), total.sum(0))
    assert Scores(total).confusion.sum() == counts.labelled.sum()


def test_equal_names_of_two_parts_both_count(images):
    rows = [("a", pair) for pair in images.values()]
    results = []
    for order in (rows, rows[::-1]):
        counts = ImageCounts(3)
        for name, (label, predicted) in order:
            counts.add(name, label.shape, confusion_of(label, predicted, num_classes=3))
        results.append(counts.result())
    assert results[0].ids.tolist() == ["a", "a", "a"]
    np.testing.assert_array_equal(results[0].intersection, results[1].intersection)
    assert results[0].fingerprint() == results[1].fingerprint()


def test_the_fingerprint_is_the_datas_not_the_networks(images):
    print_of = counts_of(images).fingerprint()
    assert counts_of(dict(reversed(images.items()))).fingerprint() == print_of
    others = {name: (label, np.zeros_like(label)) for name, (label, _) in images.items()}
    assert counts_of(others).fingerprint() == print_of
    label, predicted = images["c"]
    changes = {
        "name": {**images, "d": images["c"]},
        "label": {**images, "c": (np.where(label == 0, 1, label).astype(np.uint8), predicted)},
        "size": {**images, "c": (label.T.copy(), predicted.T.copy())},
    }
    prints = {counts_of(changed).fingerprint() for changed in changes.values()}
    assert len(prints | {print_of}) == 4


def test_what_is_saved_is_read_back_without_objects(images, tmp_path):
    counts = counts_of(images)
    counts.save(tmp_path / "per_image.npz")
    again = PerImage.load(tmp_path / "per_image.npz")
    for field in dataclasses.fields(PerImage):
        np.testing.assert_array_equal(getattr(again, field.name), getattr(counts, field.name))
    assert [path.name for path in tmp_path.iterdir()] == ["per_image.npz"]


def test_a_damaged_file_is_named(images, tmp_path):
    path = tmp_path / "per_image.npz"
    counts_of(images).save(path)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(ValueError, match=r"per_image\.npz cannot be read .*evaluate again"):
        PerImage.load(path)
    np.savez(path, ids=np.array([object()], dtype=object))
    with pytest.raises(ValueError, match="cannot be read"):
        PerImage.load(path)
