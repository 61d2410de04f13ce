import numpy as np

from hrnet_jax.visualize import colorize, draw_curves, overlay, panel

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
