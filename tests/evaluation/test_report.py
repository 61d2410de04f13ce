import re

import numpy as np
import pytest

from hrnet_jax.data.dataset import folder_dataset
from hrnet_jax.evaluation.gallery import Gallery
from hrnet_jax.evaluation.metrics import Scores
from hrnet_jax.evaluation.per_image import ImageCounts, confusion_of
from hrnet_jax.evaluation.report import confused_pairs, render, write_report

HOSTILE = "<b>x</b>"
CLASSES = (HOSTILE, 'a" onload="alert(1)', "</script>", "../../etc", "absent", "never labelled")
DATASET = folder_dataset(classes=CLASSES)


def scenes(count=12, *, classes=6, size=(40, 60), labelled=True):
    """Blocks of classes, predicted worse and worse from scene to scene; class 4 is absent."""
    rng = np.random.default_rng(0)
    for number in range(count):
        blocks = rng.choice([c for c in range(classes) if c not in (4, 5)], (4, 6))
        label = np.kron(blocks, np.ones((10, 10), int)).astype(np.uint8)[: size[0], : size[1]]
        predicted = label.copy()
        predicted[:, : 2 * number] = (label[:, : 2 * number] + 1) % 4
        predicted[0, 0] = 5 % classes
        label[:2, -5:] = 255
        image = rng.integers(0, 256, (*label.shape, 3), np.uint8)
        if not labelled:
            label[:] = 255
        yield {"id": f"<i>{number:03}</i>", "image": image, "label": label}, predicted


def report_of(dataset=DATASET, **options):
    """What `render` needs, as an evaluation of `scenes` gives it."""
    count = dataset.num_classes
    gallery, counts, total = Gallery(dataset), ImageCounts(count), np.zeros((count, count), int)
    for example, predicted in scenes(classes=count, **options):
        confusion = confusion_of(example["label"], predicted, num_classes=count)
        gallery.add(example, predicted, confusion)
        counts.add(example["id"], example["label"].shape, confusion)
        total += confusion
    per_image, scores = counts.result(), Scores(total)
    receipt = {
        "checkpoint": "/runs/<u>x</u>/checkpoints/3", "step": 3, "weights": "ab" * 32,
        "dataset": dataset.name, "split": "val", "images": len(per_image.ids),
        "data": per_image.fingerprint(), "protocol": "whole images, one scale", "dtype": "float32",
        "seconds": 2.5, "images_per_second": 4.8, "devices": {"cpu": 8},
        "versions": {"python": "3.11", "jax": "0.10"},
    }  # fmt: skip
    if total.any():
        receipt |= {**scores.summary(), "confusion": total.tolist()}
    return {
        "receipt": receipt, "dataset": dataset, "per_image": per_image, "gallery": gallery.groups()
    }  # fmt: skip


@pytest.fixture(scope="module")
def page():
    return render(**report_of())


def test_all_that_makes_a_number_is_on_the_page(page):
    receipt = report_of()["receipt"]
    for text in (
        f"{receipt['mIoU']:.2f}", "whole images, one scale", "ab" * 32, receipt["data"], "8 x cpu",
        "python 3.11", "12 of custom val", "computed in", "images/s",
    ):  # fmt: skip
        assert text in page, text


def test_names_with_html_stay_text(page):
    assert page.count("&lt;b&gt;x&lt;/b&gt;") > 4  # table, pairs, heat map, gallery
    outside = re.sub(r'<script type="application/json".*?</script>', "", page, flags=re.DOTALL)
    for name in (HOSTILE, 'a" onload', "<i>000</i>", "<u>x</u>"):
        assert name not in outside, name
    assert page.count("</script>") == 2  # the data's and the script's own ends
    assert "\\u003cb\\u003ex\\u003c/b\\u003e" in page


def test_the_page_asks_for_nothing(page):
    assert "default-src 'none'" in page
    assert not re.search(r"https?:|url\(|@import|<link(?! rel=icon href=\"data:,\")", page)
    assert set(re.findall(r'src="(\w+):', page)) == {"data"}


def test_absent_and_wrong_classes_follow_the_written_rule(page):
    table = page.split('id="classes"')[1].split("</table>")[0]
    rows = re.findall(r"<tr>(.*?)</tr>", table, re.DOTALL)
    cells = [re.findall(r'data-v="([^"]*)"', row) for row in rows]
    assert len(cells) == 1 + len(CLASSES)  # with the head
    absent, never = cells[1 + 4], cells[1 + 5]
    assert absent[0] == absent[1] == ""  # in no mean
    assert (float(never[0]), never[1]) == (0, "")  # IoU 0, no accuracy
    assert (
        "(IoU: neither labelled nor predicted, accuracy: not labelled, precision: not"
        in " ".join(page.split())
    )


def test_the_most_confused_pairs_are_the_largest_wrong_counts():
    scores = Scores(np.array([[90, 7, 0], [9, 50, 1], [0, 0, 5]]))
    assert confused_pairs(scores) == [(1, 0, 9), (0, 1, 7), (1, 2, 1)]


def test_nothing_confused_is_said():
    receipt = report_of()["receipt"] | {"confusion": np.diag([5] * 6).tolist()}
    assert "Nothing was confused" in render(**(report_of() | {"receipt": receipt}))


def test_150_classes_are_a_page_of_reasonable_size():
    dataset = folder_dataset(classes=tuple(f"class number {i}" for i in range(150)))
    text = render(**report_of(dataset))
    rng = np.random.default_rng(0)
    full = report_of(dataset)
    full["receipt"]["confusion"] = rng.integers(0, 10**6, (150, 150)).tolist()
    assert len(render(**full)) - len(text) < 2_000_000
    assert len(text) < 1_500_000
    assert text.count("<text") == 300


def test_images_without_labels_are_shown_without_scores():
    page = render(**report_of(labelled=False))
    assert "No pixel of this split has a label" in page
    assert "Confusion matrix" not in page
    assert page.count("<figcaption>prediction") == 4
    assert "<figcaption>truth" not in page


def test_a_kill_while_writing_leaves_the_old_page(tmp_path, monkeypatch):
    path = tmp_path / "report.html"
    path.write_text("old")

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("os.fsync", killed)
    with pytest.raises(KeyboardInterrupt):
        write_report(path, **report_of())
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
