"""Labels a video: the colours of the classes over every frame."""

import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import cv2

from hrnet_jax.data.types import Image, Label
from hrnet_jax.evaluation.visualize import Color, overlay
from hrnet_jax.runs.paths import (
    AnyPath,
    atomic_write,
    is_remote,
    make_folder,
    to_local_path,
    to_path,
)
from hrnet_jax.runs.terminal import Terminal

VIDEO_SUFFIXES = (".mp4", ".avi", ".mov", ".mkv", ".webm")


def label_video(
    source: str | Path,
    target: str | AnyPath,
    *,
    label: Callable[[Image], Label],  # of a frame, RGB
    palette: Sequence[Color],
    terminal: Terminal,
) -> None:
    """Write a video with the colours of the classes over every frame.

    Raises:
        ValueError: it cannot be read to its end. The frames before that are written to
            `<target>_partial`, so that a later run tries the video again.
    """
    source, target = to_local_path(source), to_path(target)
    film = _open(source)
    total = int(film.get(cv2.CAP_PROP_FRAME_COUNT))
    make_folder(target.parent)
    # OpenCV writes to local disks only.
    parent = None if is_remote(target) else target.parent
    with tempfile.TemporaryDirectory(prefix=".", dir=parent) as folder:
        written = Path(folder) / target.name  # its suffix tells OpenCV the format
        # Streamed recordings do not declare a number of frames.
        frames = terminal.track(_frames(film), source.name, total=max(total, 1))
        blended = (overlay(frame, label(frame), palette) for frame in frames)
        count = _write_frames(blended, written, film=film)
        # Some containers declare only a duration, which may round up to one frame too many.
        is_cut = count < max(total - 1, 1)
        if is_cut:
            target = target.with_name(f"{target.stem}_partial{target.suffix}")
        if count:
            with open(written, "rb") as complete, atomic_write(target) as file:
                shutil.copyfileobj(complete, file)
    if is_cut:
        raise ValueError(
            f"The video {source} declares {total} frames, but {count} can be read; is it cut "
            f"off?{f' They are in {target}.' if count else ''}"
        )


def _open(source: Path) -> cv2.VideoCapture:
    film = cv2.VideoCapture(str(source))
    if not film.isOpened() or min(_size(film)) < 1:
        raise ValueError(f"Cannot read the video {source}; is it damaged, or in another format?")
    return film


def _write_frames(frames: Iterator[Image], path: Path, *, film: cv2.VideoCapture) -> int:
    """Write frames at the rate and size of their source; return how many."""
    rate = film.get(cv2.CAP_PROP_FPS) or 25
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), rate, _size(film))
    count = 0
    try:
        for image in frames:
            writer.write(cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
            count += 1
    finally:
        film.release()
        writer.release()
    return count


def _size(film: cv2.VideoCapture) -> tuple[int, int]:
    """Width and height."""
    return int(film.get(cv2.CAP_PROP_FRAME_WIDTH)), int(film.get(cv2.CAP_PROP_FRAME_HEIGHT))


def _frames(film: cv2.VideoCapture) -> Iterator[Image]:
    while (frame := film.read()[1]) is not None:
        yield cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
