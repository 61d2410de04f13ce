"""An evaluation as one page of HTML: numbers, confusions, pictures. It needs no network.

Every name in it is escaped, and its own policy forbids it to load anything.
"""

import base64
import bisect
import html
import io
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
from jaxtyping import Int64
from PIL import Image as PILImage

from hrnet_jax.data.dataset import Dataset
from hrnet_jax.data.types import Example, Image, Label
from hrnet_jax.evaluation.metrics import Scores
from hrnet_jax.evaluation.per_image import PerImage
from hrnet_jax.evaluation.visualize import error_map, indexed
from hrnet_jax.runs.paths import AnyPath, write_text

_PAIRS = 20  # most confused ones that are listed


class Tile(NamedTuple):
    """One image of the gallery."""

    score: float  # mean IoU of the classes that occur in it, 0 to 1; NaN without labels
    id: str
    size: tuple[int, ...]
    worst: tuple[int, int, float] | None  # label, prediction, share of the labelled pixels
    pictures: dict[str, str]  # title -> data URI


class Gallery:
    """Keeps small pictures of the worst, the median and the best images of a stream.

    Its memory does not grow with the stream: of the middle, only images near the median so far
    are kept, so the ones shown are near the final median, not exactly at it.
    """

    def __init__(self, dataset: Dataset, *, count: int = 4, side: int = 480):
        self._palette, self._count, self._side = dataset.palette, count, side
        self._scores: list[float] = []  # of all labelled images, sorted
        self._tiles: list[Tile] = []
        self._unlabelled: list[Tile] = []  # the first few

    def add(self, example: Example, predicted: Label, confusion: Int64[np.ndarray, "k k"]) -> None:
        """See one image; draw it only if it may be shown."""
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
        """Those of (score, id) that are nearest to the median of all images."""
        median = self._scores[len(self._scores) // 2]
        return sorted(keys, key=lambda key: abs(key[0] - median))[:count]

    def groups(self) -> dict[str, list[Tile]]:
        """Return what is shown, each image once."""
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
        # Label maps cannot be averaged; of the others, averaging keeps thin errors visible.
        way = cv2.INTER_AREA if palette is None else cv2.INTER_NEAREST
        small = cv2.resize(picture, size, interpolation=way)
        if palette is None:
            return _data_uri(PILImage.fromarray(small), "JPEG", quality=82, subsampling=0)
        return _data_uri(indexed(small, palette), "PNG", optimize=True)


def _data_uri(picture: PILImage.Image, form: str, **options: Any) -> str:
    file = io.BytesIO()
    picture.save(file, format=form, **options)
    return f"data:image/{form.lower()};base64,{base64.b64encode(file.getvalue()).decode()}"


def write_report(
    path: AnyPath,
    *,
    receipt: Mapping[str, Any],
    dataset: Dataset,
    per_image: PerImage,
    gallery: Mapping[str, Sequence[Tile]],
) -> None:
    """Write the page, in one piece. `receipt` is what `scores.json` holds."""
    write_text(path, render(receipt, dataset=dataset, per_image=per_image, gallery=gallery))


def render(
    receipt: Mapping[str, Any],
    *,
    dataset: Dataset,
    per_image: PerImage,
    gallery: Mapping[str, Sequence[Tile]],
) -> str:
    """Return the page."""
    title = f"{dataset.name} {receipt['split']}"
    body = [
        f"<h1>{_text(title)}</h1>",
        _headline(receipt),
        f"<p class=protocol>{_text(receipt['protocol'])}</p>",
    ]
    if "published" in receipt:
        body.append(f"<p>mIoU: {_text(receipt['published']['text'])}</p>")
    if "confusion" in receipt:
        scores = Scores(np.array(receipt["confusion"], np.int64))
        body += [
            _class_table(scores, dataset, per_image),
            _pairs(scores, dataset.classes),
            _heat_map(scores, dataset.classes),
        ]
    body += [_gallery(gallery, dataset), _provenance(receipt)]
    return _PAGE.format(title=_text(title), style=_STYLE, script=_SCRIPT, body="\n".join(body))


def _text(value: object) -> str:
    return html.escape(str(value))


def _headline(receipt: Mapping[str, Any]) -> str:
    if "mIoU" not in receipt:
        return "<p>No pixel of this split has a label, so there are no scores.</p>"
    cards = "".join(
        f"<div><b>{receipt[name]:.2f}</b><span>{name} %<br>{_text(meaning)}</span></div>"
        for name, meaning in (
            ("mIoU", "mean IoU of the classes"),
            ("mAcc", "mean accuracy of the classes"),
            ("aAcc", "of all pixels"),
        )
    )
    return f"<div class=cards>{cards}</div>"


def _percent(value: float) -> str:
    return "-" if math.isnan(value) else f"{100 * value:.2f}"


def _cell(value: float, text: str) -> str:
    return f'<td data-v="{"" if math.isnan(value) else f"{value:.6g}"}">{text}</td>'


def _swatch(color: Sequence[int]) -> str:
    return f'<i class=swatch style="background:rgb({color[0]},{color[1]},{color[2]})"></i>'


def _class_table(scores: Scores, dataset: Dataset, per_image: PerImage) -> str:
    labelled, predicted = scores.confusion.sum(1), scores.confusion.sum(0)
    images = (per_image.labelled > 0).sum(0)
    rows = []
    for n, name in enumerate(dataset.classes):
        iou, accuracy = float(scores.iou[n]), float(scores.accuracy[n])
        right = scores.confusion[n, n]
        precision = float(right / predicted[n]) if predicted[n] else math.nan
        share = float(labelled[n] / max(labelled.sum(), 1))
        bar = "" if math.isnan(iou) else f'<i style="width:{100 * iou:.1f}%"></i>'
        rows.append(
            f"<tr><th scope=row>{_swatch(dataset.palette[n])}{_text(name)}</th>"
            f"{_cell(iou, f'<div class=bar>{bar}<span>{_percent(iou)}</span></div>')}"
            f"{_cell(accuracy, _percent(accuracy))}{_cell(precision, _percent(precision))}"
            f"{_cell(share, _percent(share))}{_cell(float(images[n]), f'{images[n]:,}')}</tr>"
        )
    headings = ("class", "IoU", "accuracy", "precision", "of all pixels", "images")
    return (
        "<h2>Classes</h2>"
        + _table("classes", headings, rows)
        + "<p class=note>In percent. “-”: no such pixel to divide by (IoU: neither labelled nor "
        "predicted, accuracy: not labelled, precision: not predicted), and not part of the means; "
        "a class that is predicted but never labelled counts with IoU 0. “images”: in which the "
        "class is labelled. A click on a heading sorts.</p>"
    )


def _table(name: str, headings: Sequence[str], rows: Sequence[str]) -> str:
    head = "".join(f"<th scope=col><button>{_text(text)}</button></th>" for text in headings)
    return (
        f'<div class=scroll><table id="{name}" class=sortable><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def confused_pairs(scores: Scores) -> list[tuple[int, int, int]]:
    """List (label, prediction, pixels) of the largest confusions, largest first."""
    wrong = scores.confusion * (1 - np.eye(len(scores.confusion), dtype=np.int64))
    order = np.argsort(-wrong.ravel(), kind="stable")[:_PAIRS]
    pairs = [(*map(int, divmod(int(place), len(wrong))), int(wrong.flat[place])) for place in order]
    return [(label, taken_for, pixels) for label, taken_for, pixels in pairs if pixels]


def _pairs(scores: Scores, classes: Sequence[str]) -> str:
    pairs = confused_pairs(scores)
    if not pairs:
        return "<h2>Most confused</h2><p>Nothing was confused.</p>"
    labelled, total = scores.confusion.sum(1), scores.confusion.sum()
    rows = [
        f"<tr><th scope=row>{_text(classes[a])}</th><th scope=row>{_text(classes[b])}</th>"
        f"{_cell(float(pixels / total), _percent(pixels / total))}"
        f"{_cell(float(pixels / labelled[a]), _percent(pixels / labelled[a]))}</tr>"
        for a, b, pixels in pairs
    ]
    headings = ("is", "was taken for", "% of all pixels", "% of its class")
    return "<h2>Most confused</h2>" + _table("pairs", headings, rows)


def _heat_map(scores: Scores, classes: Sequence[str]) -> str:
    """Draw a cell for each confusion that shows; the script tells its number on a touch."""
    count = len(classes)
    share = scores.confusion / np.maximum(scores.confusion.sum(1, keepdims=True), 1)
    cells = []
    for y, x in np.argwhere(share >= 0.001):
        # The root lets rare confusions show beside the diagonal.
        kind = " class=d" if y == x else ""
        cells.append(f'<rect{kind} x="{x}" y="{y}" fill-opacity="{share[y, x] ** 0.5:.2f}"/>')
    margin = 0.42 * max(map(len, classes)) + 0.6
    names = "".join(
        f'<text x="-.3" y="{n + 0.75}" text-anchor="end">{_text(name)}</text>'
        f'<text transform="translate({n + 0.75} -.3) rotate(-90)">{_text(name)}</text>'
        for n, name in enumerate(classes)
    )
    side = count + margin + 0.5
    pixels = side * min(28, max(9, 900 / side))
    data = {"classes": list(classes), "confusion": scores.confusion.tolist()}
    embedded = json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")
    return (
        "<h2>Confusion matrix</h2><p class=note>Rows: the label. Columns: what was predicted. "
        "Darker: a larger share of the row, from 0.1 %. Blue: right, red: wrong.</p>"
        "<p id=hover>Point at a cell.</p>"
        f'<div class=scroll><svg id=heat style="width:{pixels:.0f}px" '
        f'viewBox="{-margin} {-margin} {side} {side}" role=img aria-label="Confusion matrix">'
        f'<path class=grid d="M0 0H{count}V{count}H0Z"/>{"".join(cells)}{names}</svg></div>'
        f'<script type="application/json" id=data>{embedded}</script>'
    )


def _gallery(gallery: Mapping[str, Sequence[Tile]], dataset: Dataset) -> str:
    parts = ["<h2>Images</h2><p class=note>By the mean IoU of the classes that occur in an image. "
             "In “errors”, red is wrong and white has no label. A click enlarges.</p>"]  # fmt: skip
    for kind, tiles in gallery.items():
        if tiles:
            parts.append(f"<h3>{_text(kind.capitalize())}</h3>")
        for tile in tiles:
            facts = [f"{tile.size[0]} x {tile.size[1]}"]
            if not math.isnan(tile.score):
                facts.insert(0, f"mIoU {_percent(tile.score)} %")
            if tile.worst:
                label, taken_for, share = tile.worst
                facts.append(
                    f"{_percent(share)} % of the pixels are {dataset.classes[label]}, taken for "
                    f"{dataset.classes[taken_for]}"
                )
            figures = "".join(
                f'<figure><img alt="{_text(f"{title} of {tile.id}")}" src="{uri}">'
                f"<figcaption>{_text(title)}</figcaption></figure>"
                for title, uri in tile.pictures.items()
            )
            parts.append(
                f"<section><p><b>{_text(tile.id)}</b><br>{_text(', '.join(facts))}</p>"
                f"<div class=row>{figures}</div></section>"
            )
    return "\n".join(parts)


def _provenance(receipt: Mapping[str, Any]) -> str:
    devices = ", ".join(f"{count} x {kind}" for kind, count in receipt["devices"].items())
    facts = {
        "checkpoint": f"{receipt['checkpoint']} (step {receipt['step']})",
        "weights (SHA-256)": receipt["weights"],
        "data (SHA-256)": receipt["data"],
        "images": f"{receipt['images']:,} of {receipt['dataset']} {receipt['split']}",
        "computed in": receipt["dtype"],
        "devices": devices,
        "time": f"{receipt['seconds']:.1f} s, {receipt['images_per_second']:.2f} images/s, "
        "compilation included",
        "versions": ", ".join(f"{name} {number}" for name, number in receipt["versions"].items()),
    }
    listed = "".join(f"<dt>{_text(name)}<dd>{_text(value)}" for name, value in facts.items())
    return (
        f"<h2>Provenance</h2><dl>{listed}</dl><p class=note>“data” is a hash over the names, sizes "
        "and labelled pixels of the images. The same facts, for programs: scores.json.</p>"
    )


_STYLE = """
:root{color-scheme:light;--ink:#1d2733;--soft:#5c6875;--line:#dfe5ea;--blue:#2463ab;--red:#cf3030}
body{font:16px/1.5 system-ui,sans-serif;color:var(--ink);background:#fff;margin:0 auto;padding:1rem;
max-width:64rem}
h1{font-size:1.6rem;margin:.5rem 0}h2{font-size:1.25rem;margin:2.2rem 0 .6rem}
h3{font-size:1.05rem;margin:1.5rem 0 .3rem}
.note,.protocol,figcaption,.cards span,dt{color:var(--soft);font-size:.87rem}
.cards{display:flex;flex-wrap:wrap;gap:.7rem}
.cards div{flex:1 1 9rem;border:1px solid var(--line);border-radius:.5rem;padding:.6rem .9rem}
.cards b{display:block;font-size:1.9rem;line-height:1.2}
.scroll{overflow-x:auto}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
td,th{padding:.25rem .5rem;border-bottom:1px solid var(--line);text-align:right;font-weight:400}
tbody th,thead th:first-child,#pairs thead th:nth-child(2){text-align:left}
tbody th{white-space:nowrap}
thead button{font:inherit;font-size:.87rem;color:var(--soft);border:0;background:none;padding:0;
cursor:pointer}
th[aria-sort=descending] button::after{content:" ▾"}
th[aria-sort=ascending] button::after{content:" ▴"}
.swatch{display:inline-block;width:.8em;height:.8em;margin-right:.5em;border-radius:2px;
border:1px solid #0003}
.bar{position:relative;min-width:8rem;background:#f0f3f6;border-radius:3px;overflow:hidden}
.bar i{position:absolute;inset:0 auto 0 0;background:#a9cbee}
.bar span{position:relative;padding:0 .4rem}
#heat{display:block;max-width:none;font-size:.7px;touch-action:manipulation}
#heat rect{width:1px;height:1px;fill:var(--red)}#heat .d{fill:var(--blue)}
#heat .grid{fill:#fafbfc;stroke:var(--line);stroke-width:.05}
#hover{position:sticky;top:0;background:#fffffff0;margin:0;padding:.3rem 0;min-height:1.5em}
section{margin:.8rem 0 1.4rem}section p{margin:.2rem 0;overflow-wrap:anywhere}
.row{display:grid;grid-template-columns:repeat(auto-fit,minmax(150px,1fr));gap:.5rem}
figure{margin:0;cursor:zoom-in}figure.large{grid-column:1/-1;cursor:zoom-out}
img{width:100%;display:block;border-radius:3px;background:#f0f3f6}
.large img{image-rendering:pixelated}
dl{display:grid;grid-template-columns:max-content 1fr;gap:.3rem 1rem;margin:0}
dd{margin:0;overflow-wrap:anywhere}
@media(max-width:34rem){dl{grid-template-columns:1fr;gap:0}dd{margin-bottom:.5rem}
body{padding:.7rem}.row{grid-template-columns:1fr 1fr}td,th{padding:.25rem .3rem}}
"""

_SCRIPT = """
"use strict";
const valueOf = (row, column) => {
  const cell = row.cells[column];
  if (cell.dataset.v === undefined) return cell.textContent;
  return cell.dataset.v === "" ? -1 : Number(cell.dataset.v);
};
document.querySelectorAll("table.sortable").forEach(table => {
  const heads = [...table.tHead.rows[0].cells], body = table.tBodies[0];
  heads.forEach((head, column) => head.addEventListener("click", () => {
    const rows = [...body.rows], isText = typeof valueOf(rows[0], column) === "string";
    const old = head.getAttribute("aria-sort");
    const order = old ? (old === "ascending" ? "descending" : "ascending")
      : (isText ? "ascending" : "descending");
    heads.forEach(other => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", order);
    const sign = order === "ascending" ? 1 : -1;
    rows.sort((a, b) => {
      const x = valueOf(a, column), y = valueOf(b, column);
      return sign * (isText ? x.localeCompare(y) : x - y);
    });
    body.append(...rows);
  }));
});
document.querySelectorAll("figure").forEach(figure =>
  figure.addEventListener("click", () => figure.classList.toggle("large")));
const heat = document.getElementById("heat");
if (heat) {
  const {classes, confusion} = JSON.parse(document.getElementById("data").textContent);
  const tell = event => {
    const at = new DOMPoint(event.clientX, event.clientY).matrixTransform(
      heat.getScreenCTM().inverse());
    const y = Math.floor(at.y), x = Math.floor(at.x);
    if (!(confusion[y] && x in confusion[y])) return;
    const total = confusion[y].reduce((a, b) => a + b, 0), pixels = confusion[y][x];
    const share = total ? (100 * pixels / total).toFixed(2) : "0.00";
    document.getElementById("hover").textContent = `${classes[y]} → ${classes[x]}: ${share} % of ` +
      `${classes[y]} (${pixels.toLocaleString("en")} pixels)`;
  };
  heat.addEventListener("pointermove", tell);
  heat.addEventListener("click", tell);
}
"""

_PAGE = """<!doctype html>
<html lang=en>
<head>
<meta charset=utf-8>
<meta name=viewport content="width=device-width,initial-scale=1">
<meta http-equiv=Content-Security-Policy
 content="default-src 'none';img-src data:;style-src 'unsafe-inline';script-src 'unsafe-inline'">
<link rel=icon href="data:,">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
{body}
<script>{script}</script>
</body>
</html>
"""
