"""The report of an evaluation as one HTML page: scores, confusions, pictures.

The template is `report.html.jinja`. It escapes every name, and its content security policy forbids
it to load anything.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np

from hrnet_jax.data.dataset import Dataset
from hrnet_jax.evaluation.gallery import Tile
from hrnet_jax.evaluation.metrics import Scores, percent
from hrnet_jax.evaluation.per_image import PerImage
from hrnet_jax.runs.paths import AnyPath, write_text

_PAIRS = 20  # length of the list of confusions


def write_report(
    path: AnyPath,
    *,
    receipt: Mapping[str, Any],
    dataset: Dataset,
    per_image: PerImage,
    gallery: Mapping[str, Sequence[Tile]],
) -> None:
    """Write the page atomically; `receipt` holds the contents of `scores.json`."""
    write_text(path, render(receipt, dataset=dataset, per_image=per_image, gallery=gallery))


def render(
    receipt: Mapping[str, Any],
    *,
    dataset: Dataset,
    per_image: PerImage,
    gallery: Mapping[str, Sequence[Tile]],
) -> str:
    """Return the page as HTML."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": percent, "sort_key": _sort_key}
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":")}
    page: dict[str, Any] = {
        "title": f"{dataset.name} {receipt['split']}",
        "protocol": receipt["protocol"],
        "published": receipt.get("published", {}).get("text"),
        "cards": _cards(receipt),
        "scored": "confusion" in receipt,
        "images": _images(gallery, dataset.classes),
        "provenance": _provenance(receipt),
    }
    if page["scored"]:
        scores = Scores(np.array(receipt["confusion"], np.int64))
        page |= {
            "classes": _class_rows(scores, dataset, per_image),
            "pairs": _pair_rows(scores, dataset.classes),
            "heat": _heat_map(scores, dataset.classes),
            "data": {"classes": list(dataset.classes), "confusion": receipt["confusion"]},
        }
    return environment.get_template("report.html.jinja").render(page)


def _sort_key(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.6g}"


def _cards(receipt: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    meanings = {
        "mIoU": "mean IoU of the classes",
        "mAcc": "mean accuracy of the classes",
        "aAcc": "of all pixels",
    }
    return [
        (name, f"{receipt[name]:.2f}", text) for name, text in meanings.items() if name in receipt
    ]


def _class_rows(scores: Scores, dataset: Dataset, per_image: PerImage) -> list[dict[str, Any]]:
    labelled, predicted = scores.confusion.sum(1), scores.confusion.sum(0)
    right = scores.confusion.diagonal()
    images = (per_image.labelled > 0).sum(0)
    return [
        {
            "name": name,
            "color": dataset.palette[n],
            "iou": float(scores.iou[n]),
            "accuracy": float(scores.accuracy[n]),
            "precision": float(right[n] / predicted[n]) if predicted[n] else math.nan,
            "share": float(labelled[n] / max(labelled.sum(), 1)),
            "images": float(images[n]),
        }
        for n, name in enumerate(dataset.classes)
    ]


def confused_pairs(scores: Scores) -> list[tuple[int, int, int]]:
    """List the largest confusions as (label, prediction, pixels), largest first."""
    wrong = scores.confusion * (1 - np.eye(len(scores.confusion), dtype=np.int64))
    order = np.argsort(-wrong.ravel(), kind="stable")[:_PAIRS]
    pairs = [(*map(int, divmod(int(index), len(wrong))), int(wrong.flat[index])) for index in order]
    return [(label, taken_for, pixels) for label, taken_for, pixels in pairs if pixels]


def _pair_rows(scores: Scores, classes: Sequence[str]) -> list[dict[str, Any]]:
    labelled, total = scores.confusion.sum(1), scores.confusion.sum()
    return [
        {
            "label": classes[label],
            "taken_for": classes[taken_for],
            "of_all": float(pixels / total),
            "of_class": float(pixels / labelled[label]),
        }
        for label, taken_for, pixels in confused_pairs(scores)
    ]


def _heat_map(scores: Scores, classes: Sequence[str]) -> dict[str, Any]:
    """Lay out the confusion matrix: its visible cells with their opacity, and its size."""
    share = scores.confusion / np.maximum(scores.confusion.sum(1, keepdims=True), 1)
    # The square root makes rare confusions visible next to the diagonal.
    cells = [(int(x), int(y), f"{share[y, x] ** 0.5:.2f}") for y, x in np.argwhere(share >= 0.001)]
    margin = 0.42 * max(map(len, classes)) + 0.6
    side = len(classes) + margin + 0.5
    return {
        "cells": cells,
        "view_box": f"{-margin} {-margin} {side} {side}",
        "width": f"{side * min(28, max(9, 900 / side)):.0f}px",
    }


def _images(
    gallery: Mapping[str, Sequence[Tile]], classes: Sequence[str]
) -> dict[str, list[tuple[Tile, str]]]:
    return {
        kind.capitalize(): [(tile, ", ".join(_facts(tile, classes))) for tile in tiles]
        for kind, tiles in gallery.items()
        if tiles
    }


def _facts(tile: Tile, classes: Sequence[str]) -> list[str]:
    facts = [] if math.isnan(tile.score) else [f"mIoU {percent(tile.score)} %"]
    facts.append(f"{tile.size[0]} x {tile.size[1]}")
    if tile.worst:
        label, taken_for, share = tile.worst
        facts.append(
            f"{percent(share)} % of the pixels are {classes[label]}, taken for {classes[taken_for]}"
        )
    return facts


def _provenance(receipt: Mapping[str, Any]) -> dict[str, str]:
    return {
        "checkpoint": f"{receipt['checkpoint']} (step {receipt['step']})",
        "weights (SHA-256)": receipt["weights"],
        "data (SHA-256)": receipt["data"],
        "images": f"{receipt['images']:,} of {receipt['dataset']} {receipt['split']}",
        "computed in": receipt["dtype"],
        "devices": ", ".join(f"{count} x {kind}" for kind, count in receipt["devices"].items()),
        "time": f"{receipt['seconds']:.1f} s, {receipt['images_per_second']:.2f} images/s, "
        "compilation included",
        "versions": ", ".join(f"{name} {number}" for name, number in receipt["versions"].items()),
    }
