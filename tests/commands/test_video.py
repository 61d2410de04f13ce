import re

import cv2
import numpy as np
import pytest
from rich.console import Console

from hrnet_jax.commands.video import label_video
from hrnet_jax.runs.terminal import Terminal

QUIET = Terminal(Console(quiet=True))


PALETTE = ((255, 0, 0), (0, 0, 255))


def halves(image):
    """Class 0 in the left half, class 1 in the right one."""
    label = np.zeros(image.shape[:2], np.uint8)
    label[:, image.shape[1] // 2 :] = 1
    return label


def test_the_colours_of_the_classes_lie_over_every_frame(tmp_path):
    writer = cv2.VideoWriter(str(tmp_path / "x.mp4"), cv2.VideoWriter.fourcc(*"mp4v"), 10, (64, 32))
    for _ in range(3):
        writer.write(np.full((32, 64, 3), 100, np.uint8))
    writer.release()
    target = tmp_path / "out" / "x.mp4"
    label_video(tmp_path / "x.mp4", target, label=halves, palette=PALETTE, terminal=QUIET)
    film = cv2.VideoCapture(str(target))
    assert film.get(cv2.CAP_PROP_FRAME_COUNT) == 3
    _, frame = film.read()
    (blue, _, red), (other_blue, _, other_red) = frame[16, 8].astype(int), frame[16, 56].astype(int)
    assert red > blue + 60  # BGR
    assert other_blue > other_red + 60
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["x.mp4"]


def test_a_video_that_cannot_be_read_is_named(home):
    with pytest.raises(ValueError, match=re.escape(f"Cannot read the video {home / 'x.mp4'}")):
        label_video("~/x.mp4", "~/y.mp4", label=halves, palette=PALETTE, terminal=QUIET)
