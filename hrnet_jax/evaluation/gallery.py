"""Small pictures of the worst, median and best images of an evaluation, for its report."""

import base64
import bisect
import io
from collections.abc import Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
from jaxtyping import Int64
from PIL import Image as PILImage

from hrnet_jax.data.dataset import Dataset
from hrnet_jax.data.types import Example, Image, Label
from hrnet_jax.evaluation.metrics import Scores
from hrnet_jax.evaluation.visualize import error_map, indexed


class Tile(NamedTuple):
    """One image of the gallery."""

    score: float  # mean IoU of the classes that occur in it, 0 to 1; NaN without labels
    id: str
    size: tuple[int, ...]
    worst: tuple[int, int, float] | None  # label, prediction, share of the labelled pixels
    pictures: dict[str, str]  # title -> data URI


class Gallery:
    """Keeps small pictures of the worst, median and best images of a stream.

    Its memory does not grow with the stream. It keeps images near the median so far, so the images
    shown are near the final median, but not exactly at it.
    """

    def __init__(self, dataset: Dataset, *, count: int = 4, side: int = 480):
        self._palette, self._count, self._side = dataset.palette, count, side
        self._scores: list[float] = []  # of all labelled images, sorted
        self._tiles: list[Tile] = []
        self._unlabelled: list[Tile] = []  # the first few

    def add(self, example: Example, predicted: Label, confusion: Int64[np.ndarray, "k k"]) -> None:
        """Add an image; draw it only if it may be shown."""
        if not confusion.sum():
            if len(self._unlabelled) < self._count:
                self._unlabelled.append(self._tile(example, predicted, confusion))
            return
        score = Scores(confusion).summary()["mIoU"] / 100
        bisect.insort(self._scores, score)
        keys = sorted([(tile.score, tile.id) for tile in self._tiles] + [(score, example["id"])])
        keys = [*keys[: self._count], *keys[-self._count :], *self._central(keys, 4 * self._count)]
        if (score, example["id"]) in keys:
            self._tiles.append(self._tile(example, predicted, confusion))
            self._tiles = [tile for tile in self._tiles if (tile.score, tile.id) in keys]

    def _central(self, keys: Sequence[tuple[float, str]], count: int) -> list[tuple[float, str]]:
        """Return the (score, id) pairs nearest to the median score of all images."""
        median = self._scores[len(self._scores) // 2]
        return sorted(keys, key=lambda key: abs(key[0] - median))[:count]

    def groups(self) -> dict[str, list[Tile]]:
        """Return the images to show, by the title of their group."""
        if not self._tiles:
            return {"images": self._unlabelled}
        tiles = sorted(self._tiles, key=lambda tile: (tile.score, tile.id))
        count = min(self._count, -(-len(tiles) // 3))
        worst, best = tiles[:count], tiles[count:][-count:]
        rest = [(tile.score, tile.id) for tile in tiles[count : -len(best) or None]]
        central = self._central(rest, count)
        middle = [tile for tile in tiles if (tile.score, tile.id) in central]
        return {"worst": worst, "median": middle, "best": best[::-1]}

    def _tile(self, example: Example, predicted: Label, confusion: np.ndarray) -> Tile:
        image, truth = example["image"], example["label"]
        pictures = {"image": self._small(image)}
        if confusion.sum():
            pictures["truth"] = self._small(truth, palette=self._palette)
        pictures["prediction"] = self._small(predicted, palette=self._palette)
        if confusion.sum():
            pictures["errors"] = self._small(error_map(image, truth=truth, predicted=predicted))
        wrong = confusion * (1 - np.eye(len(confusion), dtype=int))
        label, taken_for = map(int, np.unravel_index(wrong.argmax(), wrong.shape))
        share = wrong[label, taken_for] / max(confusion.sum(), 1)
        return Tile(
            score=Scores(confusion).summary()["mIoU"] / 100,
            id=example["id"],
            size=truth.shape,
            worst=(label, taken_for, float(share)) if share else None,
            pictures=pictures,
        )

    def _small(self, picture: Image | Label, palette: Sequence[Any] | None = None) -> str:
        height, width = picture.shape[:2]
        scale = min(1, self._side / max(height, width))
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        # Label maps cannot be averaged; in other pictures averaging keeps thin errors visible.
        interpolation = cv2.INTER_AREA if palette is None else cv2.INTER_NEAREST
        small = cv2.resize(picture, size, interpolation=interpolation)
        if palette is None:
            return _data_uri(PILImage.fromarray(small), "JPEG", quality=82, subsampling=0)
        return _data_uri(indexed(small, palette), "PNG", optimize=True)


def _data_uri(picture: PILImage.Image, form: str, **options: Any) -> str:
    file = io.BytesIO()
    picture.save(file, format=form, **options)
    return f"data:image/{form.lower()};base64,{base64.b64encode(file.getvalue()).decode()}"
