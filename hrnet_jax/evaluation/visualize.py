"""Pictures of label maps, predictions and training curves."""

from collections.abc import Sequence

import cv2
import numpy as np
from jaxtyping import UInt8
from PIL import Image as PILImage
from PIL import ImageDraw, ImageFont

from hrnet_jax.data.dataset import Dataset
from hrnet_jax.data.types import IGNORE_LABEL, Example, Image, Label
from hrnet_jax.runs.paths import AnyPath, atomic_write, make_folder

Color = tuple[int, int, int]  # RGB
Font = ImageFont.ImageFont | ImageFont.FreeTypeFont

_MARGIN = 12
_INK = (40, 40, 40)
_UNLABELLED = (0, 0, 0)


def write_png(path: AnyPath, picture: PILImage.Image) -> None:
    """Write a picture atomically; make its folder if it is missing."""
    make_folder(path.parent)
    with atomic_write(path) as file:
        picture.save(file, format="PNG")


def colorize(label: Label, palette: Sequence[Color]) -> Image:
    """Paint each pixel in the colour of its class, or black if it has none."""
    return _table(palette)[label]


def indexed(label: Label, palette: Sequence[Color]) -> PILImage.Image:
    """Return a palette picture whose pixel values are the class indices."""
    picture = PILImage.fromarray(label, mode="P")
    picture.putpalette(_table(palette).tobytes())
    return picture


def _table(palette: Sequence[Color]) -> UInt8[np.ndarray, "256 3"]:
    table = np.full((256, 3), _UNLABELLED, np.uint8)
    table[: len(palette)] = palette
    return table


def error_map(image: Image, *, truth: Label, predicted: Label) -> Image:
    """Paint wrong pixels red and unlabelled pixels white, over a pale image."""
    grey = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    canvas = cv2.addWeighted(grey, 0.4, np.full_like(grey, 255), 0.5, 0)
    is_labelled = truth != IGNORE_LABEL
    canvas[is_labelled & (truth != predicted)] = (220, 20, 30)
    canvas[~is_labelled] = 255
    return canvas


def overlay(image: Image, label: Label, palette: Sequence[Color], *, opacity: float = 0.5) -> Image:
    """Blend the class colours over the image."""
    return cv2.addWeighted(image, 1 - opacity, colorize(label, palette), opacity, 0)


def panel(
    image: Image,
    *,
    truth: Label | None,
    predicted: Label,
    classes: Sequence[str],
    palette: Sequence[Color],
    height: int = 320,
) -> PILImage.Image:
    """Show image, truth and prediction side by side, with a legend of the classes that occur."""
    labels = (
        {"prediction": predicted} if truth is None else {"truth": truth, "prediction": predicted}
    )
    size = (max(1, round(image.shape[1] * height / image.shape[0])), height)
    resized = PILImage.fromarray(image).resize(size, PILImage.Resampling.BILINEAR)
    tiles = [("image", np.asarray(resized))]
    for title, label in labels.items():
        nearest = PILImage.fromarray(label).resize(size, PILImage.Resampling.NEAREST)
        tiles.append((title, colorize(np.asarray(nearest), palette)))
    present = np.unique(np.concatenate([label.ravel() for label in labels.values()]))
    legend = [(classes[c], tuple(palette[c])) for c in present if c < len(classes)]
    return sheet(tiles, columns=len(tiles), legend=legend)


def sheet(
    tiles: Sequence[tuple[str, Image]],  # caption and picture
    *,
    columns: int,
    legend: Sequence[tuple[str, Color]] = (),
    width: int | None = None,  # of every picture; None: as it is
) -> PILImage.Image:
    """Arrange pictures in rows, each below its caption, with a legend at the bottom."""
    font = ImageFont.load_default(14)
    pictures = [PILImage.fromarray(picture) for _, picture in tiles]
    if width is not None:
        pictures = [p.resize((width, max(1, round(p.height * width / p.width)))) for p in pictures]
    cell = max(picture.width for picture in pictures)
    captions = ["\n".join(_wrapped(caption, cell, font)) for caption, _ in tiles]
    line_height = 18
    positions, y = [], _MARGIN
    for first in range(0, len(tiles), columns):
        lines = max(caption.count("\n") + 1 for caption in captions[first : first + columns])
        top = y + lines * line_height + 4
        for column in range(min(columns, len(tiles) - first)):
            positions.append((_MARGIN + column * (cell + _MARGIN), y, top))
        y = top + max(p.height for p in pictures[first : first + columns]) + _MARGIN
    total = min(columns, len(tiles)) * (cell + _MARGIN) - _MARGIN
    key = _legend(list(legend), width=total, font=font) if legend else None
    size = (total + 2 * _MARGIN, y + (key.height + _MARGIN if key else 0))
    canvas = PILImage.new("RGB", size, "white")
    draw = ImageDraw.Draw(canvas)
    for (left, above, top), caption, picture in zip(positions, captions, pictures, strict=True):
        draw.text((left, above), caption, fill=_INK, font=font, spacing=4)
        canvas.paste(picture, (left, top))
    if key:
        canvas.paste(key, (_MARGIN, y))
    return canvas


def _wrapped(text: str, width: int, font: Font) -> list[str]:
    """Break a text into lines of at most `width` pixels, between words."""
    lines: list[str] = []
    for paragraph in text.split("\n"):
        lines.append("")
        for word in paragraph.split(" "):
            longer = f"{lines[-1]} {word}".strip()
            if lines[-1] and font.getlength(longer) > width:
                lines.append(word)
            else:
                lines[-1] = longer
    return lines


def _legend(entries: list[tuple[str, Color]], *, width: int, font: Font) -> PILImage.Image:
    """Draw coloured squares with names, in as many rows as they need."""
    square, row = 14, 22
    positions, x, y = [], 0, 0
    for name, color in entries:
        size = square + 6 + round(font.getlength(name)) + 18
        if x and x + size > width:
            x, y = 0, y + row
        positions.append((x, y, name, color))
        x += size
    canvas = PILImage.new("RGB", (width, y + row), "white")
    draw = ImageDraw.Draw(canvas)
    for x, y, name, color in positions:
        draw.rectangle((x, y + 3, x + square, y + 3 + square), fill=color, outline=_INK)
        draw.text((x + square + 6, y + 2), name, fill=_INK, font=font)
    return canvas


def draw_curves(entries: Sequence[dict], path: AnyPath, *, title: str) -> None:
    """Plot loss and mIoU against the step, from the entries of `metrics.jsonl`, as a PNG."""
    # Imported here, because it takes a second.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    for axis, name, label in zip(
        figure.subplots(1, 2),
        ("loss", "mIoU"),
        ("training loss", "validation mIoU (%)"),
        strict=True,
    ):
        points = [(e["step"], e[name]) for e in entries if e.get(name) is not None]
        axis.plot(
            [step for step, _ in points],
            [value for _, value in points],
            marker="o" if name == "mIoU" else None,
            color="tab:blue" if name == "loss" else "tab:green",
        )
        if name == "mIoU":
            for step, value in points:
                axis.annotate(
                    f"{value:.1f}", (step, value), xytext=(0, 6), textcoords="offset points",
                    ha="center", fontsize=8,
                )  # fmt: skip
        axis.set(xlabel="step", ylabel=label)
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    figure.suptitle(title)
    make_folder(path.parent)
    with atomic_write(path) as file:
        figure.savefig(file, format="png")


class Pictures:
    """Draws every n-th example with its truth and prediction into a folder."""

    def __init__(
        self,
        folder: AnyPath,
        dataset: Dataset,
        *,
        count: int,  # pictures in all
        total: int,  # examples in all
    ):
        self._folder, self._dataset = folder, dataset
        self._every = max(1, total // count) if count else 0
        self._left, self._seen = count, 0

    def __call__(self, example: Example, predicted: Label) -> None:
        """Draw the example if it is one of those to draw."""
        self._seen += 1
        if not self._left or (self._seen - 1) % self._every:
            return
        self._left -= 1
        picture = panel(
            example["image"],
            truth=example["label"],
            predicted=predicted,
            classes=self._dataset.classes,
            palette=self._dataset.palette,
        )
        path = self._folder / f"{example['id'].replace('/', '_')}.png"
        write_png(path, picture)
