import json

import numpy as np
import pytest
from PIL import Image

from hrnet_jax.data.context_labels import (
    ANNOTATIONS,
    CATEGORIES,
    Annotations,
    decode_runs,
    write_labels,
)
from hrnet_jax.data.datasets.pascal_context import DATASET
from hrnet_jax.data.sources.open import open_source

# Masks encoded by pycocotools 2.0.11: runs, then the mask's bits, row after row.
GOLDEN = [
    ((3, 4), "312000O0", "7010"),
    ((5, 7), "0270M08OI", "b120000440"),
    ((4, 4), "`0", "0000"),
    ((4, 4), "0`0", "ffff"),
]


@pytest.mark.parametrize(("size", "runs", "bits"), GOLDEN)
def test_masks_equal_pycocotools(size, runs, bits):
    height, width = size
    flat = np.unpackbits(np.frombuffer(bytes.fromhex(bits), np.uint8))[: height * width]
    mask = decode_runs({"size": [height, width], "counts": runs})
    np.testing.assert_array_equal(mask, flat.reshape(size).astype(bool))


def test_a_large_mask_equals_pycocotools():
    runs = "Q17Q1000000000000000000000c?2Y@4M2N2N2N2O0O2O0000000000000001N101N2N2N2N3Lf>"
    y, x = np.mgrid[:40, :60]
    expected = ((y - 16) ** 2 + (x - 36) ** 2 < 144) | ((y > 32) & (x < 12))
    np.testing.assert_array_equal(decode_runs({"size": [40, 60], "counts": runs}), expected)


def test_runs_may_be_plain_numbers_and_go_column_by_column():
    mask = decode_runs({"size": [2, 3], "counts": [1, 2, 3]})
    assert mask.tolist() == [[False, True, False], [True, False, False]]


@pytest.mark.parametrize("counts", [[1, 2], [7, -1], "312000O0"])
def test_runs_that_do_not_fill_the_mask_are_refused(counts):
    with pytest.raises(ValueError, match=r"not to 2 x 3; the file is damaged"):
        decode_runs({"size": [2, 3], "counts": counts})


def image(number, phase):
    name = f"2008_00000{number}.jpg"
    return {"image_id": number, "file_name": name, "height": 2, "width": 3, "phase": phase}


def drawn(number, category, counts):
    mask = {"size": [2, 3], "counts": counts}
    return {"id": 0, "image_id": number, "category_id": category, "segmentation": mask}


@pytest.fixture
def root(tmp_path):
    content = {
        "images": [image(2, "train"), image(1, "train"), image(3, "val"), image(4, "test")],
        "annos_segmentation": [
            drawn(1, 458, [0, 6]),  # wood everywhere, then
            drawn(1, 2, [0, 2, 4]),  # an aeroplane before it
            drawn(3, 454, [5, 1]),
        ],
    }
    (tmp_path / ANNOTATIONS).write_text(json.dumps(content))
    (tmp_path / "JPEGImages").mkdir()
    for number in (1, 2, 3, 4):
        (tmp_path / f"JPEGImages/2008_00000{number}.jpg").write_bytes(b"x")
    return tmp_path


def test_labels_and_lists_are_written_where_the_dataset_looks(root):
    write_labels(root, Annotations(root / ANNOTATIONS))
    train, val = (open_source(root, DATASET, split) for split in ("train", "val"))
    assert [r.id for r in train] == ["2008_000001", "2008_000002"]
    assert [r.id for r in val] == ["2008_000003"]

    def label(number):
        return np.array(Image.open(root / f"SegmentationClassContext/2008_00000{number}.png"))

    assert label(1).tolist() == [[1, 59, 59], [1, 59, 59]]
    assert label(2).tolist() == [[0, 0, 0], [0, 0, 0]]
    assert label(3).tolist() == [[0, 0, 0], [0, 0, 58]]
    assert label(1).dtype == np.uint8


def test_after_an_interruption_the_next_run_succeeds(root):
    annotations = Annotations(root / ANNOTATIONS)

    def interrupt(images):
        yield next(iter(images))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_labels(root, annotations, track=interrupt)
    assert {path.name for path in root.iterdir()} == {ANNOTATIONS, "JPEGImages"}
    write_labels(root, annotations)
    assert len(list((root / "SegmentationClassContext").iterdir())) == 3


def test_another_file_is_refused(root):
    for content in (b"{", b"[]", b'{"images": [{}]}', b"\xff"):
        (root / ANNOTATIONS).write_bytes(content)
        with pytest.raises(ValueError, match=r"is not the file of PASCAL in Detail.*again"):
            Annotations(root / ANNOTATIONS)


def test_an_unknown_category_and_a_wrong_size_are_refused(root):
    for change, message in [
        (drawn(1, 3, [0, 6]), "a mask of category 3, which Pascal Context does not have"),
        (
            {**drawn(1, 2, [0, 6]), "segmentation": {"size": [3, 2], "counts": [6]}},
            "one of its masks",
        ),
    ]:
        content = {"images": [image(1, "train")], "annos_segmentation": [change]}
        (root / ANNOTATIONS).write_text(json.dumps(content))
        annotations = Annotations(root / ANNOTATIONS)
        with pytest.raises(ValueError, match=message):
            annotations.label(annotations.images[0])


def test_the_categories_are_the_published_sixty():
    assert len(CATEGORIES) == len(set(CATEGORIES)) == 60
    assert list(CATEGORIES) == sorted(CATEGORIES)
    names = dict(zip(CATEGORIES, DATASET.classes, strict=True))
    # Some of them in the order in which the annotations' own reader lists 59 classes.
    for category, name in [(2, "aeroplane"), (23, "bicycle"), (284, "person"), (427, "tvmonitor"),
                           (9, "bag"), (18, "bed"), (458, "wood")]:  # fmt: skip
        assert names[category] == name
