"""The 25 published results: what was measured, where the weights are, and which of them are here.

    python -m hrnet_jax.zoo    # writes the tables of README.md, configs/ and docs/

Weights of a row are looked for in `weights/<name of the row>`, where its `fetch_command` puts them.
"""

import contextlib
import dataclasses
import difflib
import itertools
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from hrnet_jax.config import recipes
from hrnet_jax.config.defaults import from_dict, protocol_of
from hrnet_jax.evaluation.protocol import MULTI_SCALE, Protocol
from hrnet_jax.runs.checkpoint import FOLDER
from hrnet_jax.runs.paths import AnyPath, is_remote, to_path, write_text

HOST = "https://download.openmmlab.com"
WEIGHTS = Path("weights")  # folder of converted rows, below the current one
# The folder `convert` lies within the package in a wheel, and beside it in a clone.
CONVERT = "hrnet_jax.convert" if Path(__file__).with_name("convert").is_dir() else "convert"
TOLERANCE = 0.05  # of mIoU in percent: how near the same weights are expected to come
HARDWARE = (
    "mem: GB, the most that PyTorch held on one of 4 GPUs in training, with 2 (Cityscapes) or 4 "
    "images each. fps: images per second on one V100, one image at a time as evaluation sees it "
    "(1024x2048 for Cityscapes), network and label map without reading files; PyTorch 1.5."
)

BACKBONES = {"hr18s": "HRNetV2p-W18-Small", "hr18": "HRNetV2p-W18", "hr48": "HRNetV2p-W48"}
IMAGENET = {  # backbones that the published runs started from, for config.init_from
    "hr18s": f"{HOST}/pretrain/third_party/hrnetv2_w18_small-b5a04e21.pth",
    "hr18": f"{HOST}/pretrain/third_party/hrnetv2_w18-00eb2006.pth",
    "hr48": f"{HOST}/pretrain/third_party/hrnetv2_w48-d2186c55.pth",
}
DATASETS = {
    "cityscapes": "Cityscapes",
    "ade20k": "ADE20K",
    "voc12aug": "Pascal VOC 2012 + Aug",
    "pascal_context": "Pascal Context",
    "pascal_context_59": "Pascal Context 59",
}
_CROPS = {"cityscapes": "512x1024", "ade20k": "512x512", "voc12aug": "512x512"}


@dataclasses.dataclass(frozen=True)
class Upload:
    """One published file of weights, and what it was measured to reach."""

    mark: str  # the end of its name: when training started, the first digits of the SHA-256
    miou: float  # at one scale, in percent
    miou_ms_flip: float  # averaged over six scales and their mirror images

    @property
    def sha256(self) -> str:
        """The first eight digits."""
        return self.mark.partition("-")[2]


@dataclasses.dataclass(frozen=True)
class Row:
    """One published result: FCN on a backbone, a dataset and a schedule."""

    variant: str
    dataset: str
    schedule: str
    upload: Upload
    memory: float | None = None  # of training, GB per GPU; see HARDWARE
    fps: float | None = None  # of evaluation
    older: tuple[Upload, ...] = ()  # what `upload` took the place of, under the same name

    @property
    def name(self) -> str:
        """The published name: fcn_hr18_512x1024_160k_cityscapes."""
        crop = _CROPS.get(self.dataset, "480x480")
        return f"fcn_{self.variant}_{crop}_{self.schedule}_{self.dataset}"

    @property
    def config(self) -> str:
        """What --config takes."""
        return f"configs/{self.variant}_{self.dataset}.py:{self.schedule}"

    def file(self, upload: Upload | None = None) -> str:
        """Name of the published file."""
        return f"{self.name}_{(upload or self.upload).mark}.pth"

    @property
    def fetch_command(self) -> str:
        """The command that fetches and converts its weights."""
        return f"python -m {CONVERT}.from_pytorch --zoo {self.name}"

    @property
    def url(self) -> str:
        """Address of the published file."""
        return f"{self._folder}/{self.file()}"

    @property
    def log_url(self) -> str:
        """Address of the log of its training."""
        dash = "-" if self.dataset.startswith("pascal_context") else "_"
        started = self.upload.mark.partition("-")[0]
        return f"{self._folder}/{self.name}{dash}{started}.log.json"

    @property
    def _folder(self) -> str:
        return f"{HOST}/mmsegmentation/v0.5/hrnet/{self.name}"

    def recipe(self) -> dict[str, Any]:
        """The resolved config of `config`, as a dict."""
        if self.dataset.startswith("pascal_context"):
            return recipes.pascal_context(
                variant=self.variant,
                schedule=self.schedule,
                classes=59 if self.dataset.endswith("_59") else 60,
            ).to_dict()
        recipe = getattr(recipes, self.dataset)
        return recipe(variant=self.variant, schedule=self.schedule).to_dict()


ROWS = (
    Row("hr18s", "cityscapes", "40k", Upload("20200601_014216-93db27d0", 73.86, 75.91), 1.7, 23.74),
    Row("hr18", "cityscapes", "40k", Upload("20200601_014216-f196fb4e", 77.19, 78.92), 2.9, 12.97),
    Row("hr48", "cityscapes", "40k", Upload("20200601_014240-a989b146", 78.48, 79.69), 6.2, 6.42),
    Row("hr18s", "cityscapes", "80k", Upload("20200601_202700-1462b75d", 75.31, 77.48)),
    Row("hr18", "cityscapes", "80k", Upload("20200601_223255-4e7b345e", 78.65, 80.35)),
    Row("hr48", "cityscapes", "80k", Upload("20200601_202606-58ea95d6", 79.93, 80.72)),
    Row("hr18s", "cityscapes", "160k", Upload("20200602_190901-4a0797ea", 76.31, 78.31)),
    Row("hr18", "cityscapes", "160k", Upload("20200602_190822-221e4a4f", 78.80, 80.74)),
    Row("hr48", "cityscapes", "160k", Upload("20200602_190946-59b7973e", 80.65, 81.92)),
    Row("hr18s", "ade20k", "80k", Upload("20200614_144345-77fc814a", 31.38, 32.45), 3.8, 38.66),
    Row("hr18", "ade20k", "80k", Upload("20210827_114910-6c9382c0", 36.27, 37.28), 4.9, 22.57,
        (Upload("20200614_185145-66f20cb7", 35.51, 36.80),)),
    Row("hr48", "ade20k", "80k", Upload("20200614_193946-7ba5258d", 41.90, 43.27), 8.2, 21.23),
    Row("hr18s", "ade20k", "160k", Upload("20210829_174739-f1e7c2e7", 33.07, 34.56),
        older=(Upload("20200614_214413-870f65ac", 33.00, 34.55),)),
    Row("hr18", "ade20k", "160k", Upload("20200614_214426-ca961836", 36.79, 38.58)),
    Row("hr48", "ade20k", "160k", Upload("20200614_214407-a52fc02c", 42.02, 43.86)),
    Row("hr18s", "voc12aug", "20k", Upload("20210829_174910-0aceadb4", 65.50, 68.89), 1.8, 43.36,
        (Upload("20200617_224503-56e36088", 65.20, 68.55),)),
    Row("hr18", "voc12aug", "20k", Upload("20200617_224503-488d45f7", 72.30, 74.71), 2.9, 23.48),
    Row("hr48", "voc12aug", "20k", Upload("20200617_224419-89de05cd", 75.87, 78.58), 6.2, 22.05),
    Row("hr18s", "voc12aug", "40k", Upload("20200614_000648-4f8d6e7f", 66.61, 70.00)),
    Row("hr18", "voc12aug", "40k", Upload("20200613_224401-1b4b76cd", 72.90, 75.59)),
    Row("hr48", "voc12aug", "40k", Upload("20200613_222111-1b0f18bc", 76.24, 78.49)),
    Row("hr48", "pascal_context", "40k", Upload("20200911_164852-667d00b0", 45.14, 47.42),
        6.1, 8.86),
    Row("hr48", "pascal_context", "80k", Upload("20200911_155322-847a6711", 45.84, 47.84)),
    Row("hr48", "pascal_context_59", "40k", Upload("20210410_122738-b808b8b2", 50.33, 52.83)),
    Row("hr48", "pascal_context_59", "80k", Upload("20210411_003240-3ae7081e", 51.12, 53.56)),
)  # fmt: skip


def get(name: str) -> Row:
    """Return the row of a published name.

    Raises:
        ValueError: that names the rows which come nearest.
    """
    for row in ROWS:
        if row.name == name:
            return row
    close = difflib.get_close_matches(name, [row.name for row in ROWS], n=2)
    hint = f"did you mean {' or '.join(close)}?" if close else "--mode zoo lists all."
    raise ValueError(f"The zoo has no row {name!r}; {hint}")


def select(words: Sequence[str]) -> list[Row]:
    """Return the rows that every word fits: a variant, dataset, schedule, or a part of the name.

    Raises:
        ValueError: that lists the words to choose from, if no row fits.
    """
    rows = [row for row in ROWS if {word.lower() for word in words} <= _words(row)]
    if not rows:
        known = ", ".join(
            dict.fromkeys(w for r in ROWS for w in (r.variant, r.dataset, r.schedule))
        )
        raise ValueError(f"No row of the zoo is {' '.join(words)!r}; choose from {known}.")
    return rows


def _words(row: Row) -> set[str]:
    return {row.name, row.variant, row.dataset, row.schedule, *row.name.split("_")}


def find(*, file: str, sha256: str = "") -> tuple[Row, Upload] | None:
    """Recognise a published file by its contents, else by its name."""
    uploads = [(row, upload) for row in ROWS for upload in (row.upload, *row.older)]
    for row, upload in uploads:
        if sha256.startswith(upload.sha256):
            return row, upload
    return next(((row, upload) for row, upload in uploads if row.file(upload) == file), None)


def locate(name: str | AnyPath) -> AnyPath:
    """Return the folder of a row's weights for its name; any other path as it is.

    Raises:
        FileNotFoundError: for a row that was not converted yet; says how to get it.
    """
    path = to_path(name)
    row = next((row for row in ROWS if row.name == str(name)), None)
    if is_remote(path) or path.exists() or row is None:
        return path
    folder = WEIGHTS / path
    if not (folder / FOLDER).is_dir():
        raise FileNotFoundError(
            f"{name} is not in {WEIGHTS.absolute()} yet; get it with: {row.fetch_command}"
        )
    return folder


@dataclasses.dataclass(frozen=True, kw_only=True)
class Comparison:
    """A measured mIoU beside the published one of the same weights and protocol, in percent."""

    file: str  # that was published
    protocol: str  # whole, slide or ms+flip
    published: float
    measured: float

    def describe(self) -> str:
        """Say it in one line: "78.80 published (whole), 78.79 measured, within 0.05"."""
        gap = round(round(self.measured, 2) - self.published, 2)
        verdict = f"within {TOLERANCE}"
        if abs(gap) > TOLERANCE:
            verdict = f"{abs(gap):.2f} {'above' if gap > 0 else 'below'} it"
        return (
            f"{self.published:.2f} published ({self.protocol}), {self.measured:.2f} measured, "
            f"{verdict}"
        )


def compare(row: Row, upload: Upload, *, protocol: Protocol, measured: float) -> Comparison | None:
    """Compare an mIoU (percent) of published weights on the full validation split.

    Returns None where no number was published for `protocol`.
    """
    plain = protocol_of(from_dict(row.recipe()))
    if not protocol.averages:  # at one scale 0.x and 1.x are the same
        protocol = dataclasses.replace(protocol, reference=plain.reference)
    several = dataclasses.replace(plain, ratios=MULTI_SCALE, flip=True)
    for kind, name, value in (
        (plain, plain.mode, upload.miou),
        (several, "ms+flip", upload.miou_ms_flip),
    ):
        if protocol.describe() == kind.describe():
            return Comparison(
                file=row.file(upload), protocol=name, published=value, measured=measured
            )
    return None


def here(row: Row, *, folder: AnyPath) -> str:
    """Say what `folder` has of a row: nothing, "converted", or the mIoU that was measured."""
    weights = folder / row.name
    if not (weights / FOLDER).is_dir():
        return ""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        result = json.loads((weights / "eval" / "scores.json").read_text())["published"]
        return f"{result['measured']:.2f} ({result['protocol']})"
    return "converted"


def table(rows: Iterable[Row], *, folder: AnyPath) -> Table:
    """Lay out rows for a terminal; the last column is what `folder` has of them."""
    layout = Table(caption=HARDWARE, caption_justify="left")
    layout.add_column("name", overflow="fold")
    for column in ("mIoU", "ms+flip", "mem", "fps"):
        layout.add_column(column, justify="right")
    layout.add_column(f"in {folder}")
    for row in rows:
        layout.add_row(row.name, *_figures(row), here(row, folder=folder))
    return layout


def describe(row: Row) -> str:
    """Say of one row where its files are and how to get and score it."""
    lines = [
        row.name,
        f"  weights  {row.url}",
        f"  log      {row.log_url}",
        f"  get      {row.fetch_command}",
        f"  score    python -m hrnet_jax.main --mode eval --checkpoint {row.name}",
        f"  train    python -m hrnet_jax.main --config {row.config}",
    ]
    for old in row.older:
        lines.append(
            f"  older    {row.file(old)}: mIoU {old.miou:.2f}, ms+flip {old.miou_ms_flip:.2f}"
        )
    return "\n".join(lines)


def _figures(row: Row) -> tuple[str, str, str, str]:
    return (
        f"{row.upload.miou:.2f}",
        f"{row.upload.miou_ms_flip:.2f}",
        "" if row.memory is None else f"{row.memory:.1f}",
        "" if row.fps is None else f"{row.fps:.2f}",
    )


def overview() -> str:
    """All mIoU in one small table: the README's."""
    lines = [
        "| published mIoU (ms+flip), by steps | W18-Small | W18 | W48 |",
        "|---|--:|--:|--:|",
    ]
    groups = itertools.groupby(ROWS, key=lambda row: (row.dataset, row.schedule))
    for (dataset, schedule), group in groups:
        cells = {
            row.variant: f"{row.upload.miou:.2f} ({row.upload.miou_ms_flip:.2f})" for row in group
        }
        values = " | ".join(cells.get(variant, "") for variant in BACKBONES)
        lines.append(f"| {DATASETS[dataset]}, {schedule} | {values} |")
    return "\n".join(lines)


def markdown() -> str:
    """All rows with their files: the table of configs/README.md."""
    lines = []
    for dataset, group in itertools.groupby(ROWS, key=lambda row: row.dataset):
        lines += [
            f"## {DATASETS[dataset]}",
            "",
            "| backbone | `--config` | mIoU | ms+flip | mem | fps | `--zoo` | files |",
            "|---|---|--:|--:|--:|--:|---|---|",
        ]
        for row in group:
            lines.append(
                f"| {BACKBONES[row.variant]} | `{row.config}` | {' | '.join(_figures(row))} "
                f"| `{row.name}` | [model]({row.url}) [log]({row.log_url}) |"
            )
        lines.append("")
    lines += [
        HARDWARE,
        "",
        "Uploaded again in August 2021, under the same name with other figures:",
        "",
    ]
    for row in ROWS:
        for old in row.older:
            lines.append(
                f"- `{row.file(old)}` had {old.miou:.2f} ({old.miou_ms_flip:.2f}),\n"
                f"  `{row.file()}` has {row.upload.miou:.2f} ({row.upload.miou_ms_flip:.2f})."
            )
    return "\n".join(lines)


def commands() -> str:
    """Every run with what it should reach: the table of docs/reproduce.md."""
    lines = [
        "| published mIoU (ms+flip) | recipe | `--config.init_from=` | steps of images |",
        "|--:|---|---|--:|",
    ]
    for row in ROWS:
        train = row.recipe()["train"]
        backbone = IMAGENET[row.variant].rpartition("/")[2]
        lines.append(
            f"| {row.upload.miou:.2f} ({row.upload.miou_ms_flip:.2f}) | `--config {row.config}` "
            f"| `{backbone}` | {train['steps']:,} of {train['batch_size']} |"
        )
    return "\n".join(lines)


def with_table(text: str, content: str, *, mark: str = "zoo") -> str:
    """Put `content` between the marks of a document: <!-- zoo --> and <!-- /zoo -->."""
    begin, end = f"<!-- {mark} -->", f"<!-- /{mark} -->"
    head, _, rest = text.partition(begin)
    _, found, tail = rest.partition(end)
    if not found:
        raise ValueError(f"The document has no marks {begin} and {end}.")
    return f"{head}{begin}\n{content}\n{end}{tail}"


DOCUMENTS = {
    "README.md": overview,
    "configs/README.md": markdown,
    "docs/reproduce.md": commands,
}


if __name__ == "__main__":
    for name, make in DOCUMENTS.items():
        write_text(name, with_table(Path(name).read_text(), make()))
