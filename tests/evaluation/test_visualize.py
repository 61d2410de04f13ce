import numpy as np

from hrnet_jax.data.datasets import DATASETS
from hrnet_jax.evaluation.visualize import (
    Pictures,
    colorize,
    draw_curves,
    error_map,
    indexed,
    overlay,
    panel,
    sheet,
)

PALETTE = ((255, 0, 0), (0, 255, 0))


def test_colorize_paints_classes_and_leaves_the_rest_black():
    label = np.array([[0, 1, 255]], np.uint8)
    np.testing.assert_array_equal(colorize(label, PALETTE), [[[255, 0, 0], [0, 255, 0], [0, 0, 0]]])


def test_overlay_blends():
    image = np.full((1, 1, 3), 100, np.uint8)
    label = np.zeros((1, 1), np.uint8)
    np.testing.assert_array_equal(overlay(image, label, PALETTE, opacity=0.5), [[[178, 50, 50]]])


def test_panel_shows_three_tiles_and_a_legend_of_what_occurs():
    image = np.full((20, 40, 3), 200, np.uint8)
    truth, predicted = np.zeros((20, 40), np.uint8), np.ones((20, 40), np.uint8)
    picture = np.asarray(
        panel(image, truth=truth, predicted=predicted, classes=("a", "b"), palette=PALETTE)
    )
    reds = (picture == PALETTE[0]).all(-1).sum()
    greens = (picture == PALETTE[1]).all(-1).sum()
    assert reds > 320 * 640  # the truth's tile and its legend square
    assert greens > 320 * 640
    alone = np.asarray(
        panel(image, truth=None, predicted=truth, classes=("a", "b"), palette=PALETTE)
    )
    assert alone.shape[1] < picture.shape[1]
    assert not (alone == PALETTE[1]).all(-1).any()


def test_curves_are_drawn_from_metrics(tmp_path):
    entries = [{"step": 10, "loss": 2.0}, {"step": 20, "loss": None}, {"step": 20, "mIoU": 31.4}]
    draw_curves(entries, tmp_path / "new" / "curves.png", title="run")
    assert (tmp_path / "new" / "curves.png").stat().st_size > 10_000


def test_an_indexed_picture_holds_indices_and_shows_colours():
    label = np.array([[0, 1, 255]], np.uint8)
    picture = indexed(label, PALETTE)
    np.testing.assert_array_equal(np.asarray(picture), label)
    np.testing.assert_array_equal(np.asarray(picture.convert("RGB")), colorize(label, PALETTE))


def test_an_error_map_paints_what_is_wrong():
    image = np.full((1, 3, 3), 100, np.uint8)
    found = error_map(
        image, truth=np.array([[0, 1, 255]], np.uint8), predicted=np.array([[1, 1, 1]], np.uint8)
    )
    assert found[0, 0].tolist() == [220, 20, 30]
    assert len(set(found[0, 1].tolist())) == 1  # grey
    assert found[0, 2].tolist() == [255, 255, 255]


def test_a_sheet_shows_pictures_pixel_by_pixel_below_their_captions():
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 256, (30, 50, 3), dtype=np.uint8) for _ in range(3)]
    page = np.asarray(
        sheet(
            [
                ("a long caption of several words", pictures[0]),
                ("b", pictures[1]),
                ("", pictures[2]),
            ],
            columns=2,
            legend=[("road", (128, 64, 128))],
        )
    )
    assert page.shape[1] == 2 * 50 + 3 * 12
    tops = []
    for picture, left in zip(pictures, (12, 74, 12), strict=True):
        (top,) = (
            y for y in range(page.shape[0] - 30)
            if (page[y : y + 30, left : left + 50] == picture).all()
        )  # fmt: skip
        tops.append(top)
    assert tops[0] == tops[1] < tops[2]
    assert (page[: tops[0], :62] < 128).any(), "the caption is drawn"
    assert ((page == (128, 64, 128)).all(axis=-1)).sum() > 100, "and the legend"


def test_the_pictures_of_a_sheet_can_share_a_width():
    page = sheet([("a", np.zeros((10, 20, 3), np.uint8))] * 2, columns=1, width=100)
    assert page.width == 124


def test_pictures_are_spread_over_the_split(tmp_path):
    pictures = Pictures(tmp_path, DATASETS["cityscapes"], count=2, total=6)
    image, label = np.zeros((32, 64, 3), np.uint8), np.zeros((32, 64), np.uint8)
    for i in range(6):
        pictures({"id": f"city/{i}", "image": image, "label": label}, label)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["city_0.png", "city_3.png"]
