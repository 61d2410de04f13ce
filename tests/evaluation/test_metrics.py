import jax.numpy as jnp
import numpy as np
import pytest

from hrnet_jax.evaluation.metrics import Scores, confusion_matrix


def test_confusion_matrix_counts_pairs_and_leaves_ignored_pixels_out():
    rng = np.random.default_rng(0)
    label = rng.choice([0, 1, 2, 255], (3, 20, 30)).astype(np.int32)
    predicted = rng.integers(0, 3, label.shape).astype(np.uint8)
    expected = np.zeros((3, 3), int)
    for t, p in zip(label.ravel(), predicted.ravel(), strict=True):
        if t != 255:
            expected[t, p] += 1
    found = confusion_matrix(jnp.asarray(label), jnp.asarray(predicted), num_classes=3)
    np.testing.assert_array_equal(found, expected)
    assert found.dtype == jnp.int32


def test_scores_by_hand():
    # class 0: 3 right of 4, class 1: never labelled but predicted once, class 2: absent
    scores = Scores(np.array([[3, 1, 0], [0, 0, 0], [0, 0, 0]]))
    np.testing.assert_array_equal(scores.iou, [0.75, 0.0, np.nan])
    np.testing.assert_array_equal(scores.accuracy, [0.75, np.nan, np.nan])
    assert scores.summary() == {
        "mIoU": pytest.approx(37.5), "mAcc": pytest.approx(75.0), "aAcc": pytest.approx(75.0)
    }  # fmt: skip
    assert scores.iou_percent() == [75.0, 0.0, None]
    assert str(scores) == "mIoU 37.50  mAcc 75.00  aAcc 75.00"


def test_counts_beyond_float32_are_exact():
    huge = 2**40 + 1
    scores = Scores(np.array([[huge, 1], [0, huge]]))
    assert scores.confusion.sum() == 2 * huge + 1
    assert scores.iou[0] == huge / (huge + 1)


def test_nothing_labelled_is_nan_not_an_error():
    assert np.isnan(Scores(np.zeros((2, 2), int)).summary()["mIoU"])
