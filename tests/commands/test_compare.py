import io
import json

import numpy as np
import pytest
from rich.console import Console

from hrnet_jax.commands.compare import compare, difference_table, differences
from hrnet_jax.evaluation.metrics import Scores
from hrnet_jax.evaluation.per_image import ImageCounts, confusion_of
from hrnet_jax.runs.terminal import Terminal

CLASSES = ["road", "[b]car[/b]", "absent"]


def evaluated(folder, *, wrong=0.3, names=30, classes=CLASSES, protocol="whole", seed=0):
    """Write an eval folder; the labels depend on `seed` only, `wrong` is the share of errors."""
    labels, errors = np.random.default_rng(seed), np.random.default_rng(7)
    counts, total = ImageCounts(3), np.zeros((3, 3), int)
    for number in range(names):
        label = labels.integers(0, 2, (8, 9), np.uint8)
        predicted = np.where(errors.random(label.shape) < wrong, 1 - label, label).astype(np.uint8)
        confusion = confusion_of(label, predicted, num_classes=3)
        counts.add(f"{number}", label.shape, confusion)
        total += confusion
    result, scores = counts.result(), Scores(total)
    receipt = {
        "checkpoint": "/runs/x", "weights": "abcdef0123", "protocol": protocol, "images": names,
        "split": "val", "data": result.fingerprint(), "classes": classes, **scores.summary(),
        "confusion": total.tolist(),
    }  # fmt: skip
    folder.mkdir(parents=True)
    (folder / "scores.json").write_text(json.dumps(receipt))
    result.save(folder / "per_image.npz")
    return result, scores


def printed(a, b):
    out = io.StringIO()
    found = compare([a, b], terminal=Terminal(Console(file=out, width=120)))
    return found, out.getvalue()


def test_differences_are_those_of_the_scores(tmp_path):
    a, before = evaluated(tmp_path / "a", wrong=0.3)
    b, after = evaluated(tmp_path / "b", wrong=0.25)
    mean, *rows = differences(a, b, classes=CLASSES)
    assert mean.a == pytest.approx(before.summary()["mIoU"], abs=1e-9)
    assert mean.b == pytest.approx(after.summary()["mIoU"], abs=1e-9)
    sizes = [abs(row.difference) for row in rows[:2]]
    assert sizes == sorted(sizes, reverse=True)
    for row in rows[:2]:
        place = CLASSES.index(row.name)
        assert row.difference == pytest.approx(100 * (after.iou - before.iou)[place])
        assert row.low < row.difference < row.high
        assert row.is_clear
    assert rows[2].name == "absent"
    assert np.isnan([rows[2].difference, rows[2].low]).all()


def test_the_interval_is_that_of_a_bootstrap_written_out(tmp_path):
    a, _ = evaluated(tmp_path / "a", wrong=0.3)
    b, _ = evaluated(tmp_path / "b", wrong=0.29)
    (mean, *_), rng, drawn = differences(a, b, classes=CLASSES), np.random.default_rng(5), []
    for _ in range(1000):
        picked = rng.integers(0, len(a.ids), len(a.ids))
        both = []
        for counts in (a, b):
            right = counts.intersection[picked].sum(0)[:2]
            union = (counts.labelled + counts.predicted)[picked].sum(0)[:2] - right
            both.append((right / union).mean())
        drawn.append(100 * (both[1] - both[0]))
    np.testing.assert_allclose([mean.low, mean.high], np.percentile(drawn, (2.5, 97.5)), atol=0.15)


def test_pairing_narrows_the_interval_and_equal_networks_differ_by_nothing(tmp_path):
    a, _ = evaluated(tmp_path / "a")
    for row in differences(a, a, classes=CLASSES)[:3]:
        assert (row.difference, row.low, row.high, row.is_clear) == (0, 0, 0, False)


def test_a_workdir_a_folder_or_the_receipt_can_be_given(tmp_path):
    evaluated(tmp_path / "a" / "eval", wrong=0.3)
    evaluated(tmp_path / "b", wrong=0.1, protocol="slide")
    found, text = printed(tmp_path / "a", tmp_path / "b" / "scores.json")
    assert "[b]car[/b]" in text
    assert "the protocols differ" in text
    assert "paired bootstrap" in text
    assert f"{found[0].difference:+.2f}" in text
    lines = [line for line in text.splitlines() if "│" in line]
    assert len(lines) == 4
    assert lines[0].split("│")[1].strip() == "mIoU"
    assert "*" in lines[0]


def test_other_images_other_classes_and_broken_folders_are_refused(tmp_path):
    evaluated(tmp_path / "a")
    evaluated(tmp_path / "fewer", names=29)
    evaluated(tmp_path / "relabelled", seed=1)
    evaluated(tmp_path / "renamed", classes=["road", "lorry", "absent"])
    evaluated(tmp_path / "mixed")
    (tmp_path / "mixed" / "per_image.npz").write_bytes(
        (tmp_path / "fewer" / "per_image.npz").read_bytes()
    )
    evaluated(tmp_path / "half")
    (tmp_path / "half" / "scores.json").write_text('{"mIoU": 3')
    evaluated(tmp_path / "unlabelled")
    (tmp_path / "unlabelled" / "scores.json").write_text('{"data": "", "split": "test"}')
    for name, error, message in (
        ("fewer", ValueError, r"different images \(30 and 29, 1 of them in one only, first '29'\)"),
        ("relabelled", ValueError, "the same names, but different sizes or labels"),
        ("renamed", ValueError, r"3 classes and .* 3, first '\[b\]car\[/b\]' and 'lorry'"),
        ("mixed", ValueError, "are from different evaluations; evaluate again"),
        ("half", ValueError, r"scores\.json cannot be read .*; evaluate again"),
        ("unlabelled", ValueError, r"has no scores: the split 'test' has no labels"),
        ("nowhere", FileNotFoundError, r"There is no scores\.json in .*nowhere; --mode compare"),
    ):
        with pytest.raises(error, match=message):
            compare([tmp_path / "a", tmp_path / name], terminal=Terminal())


def test_the_table_has_a_row_for_each_class(tmp_path):
    a, _ = evaluated(tmp_path / "a")
    assert difference_table(differences(a, a, classes=CLASSES)).row_count == 4
