"""The 25 published results: their figures and the addresses of their weights.

The converted weights of a row are in `weights/<name of the row>`; its `fetch_command` puts them
there.
"""

import dataclasses
import difflib
from collections.abc import Sequence
from pathlib import Path

from hrnet_jax.runs.paths import AnyPath, is_remote, to_path
from hrnet_jax.runs.stored_weights import FOLDER

HOST = "https://download.openmmlab.com"
WEIGHTS = Path("weights")  # folder of converted rows
# The folder `convert` is part of the package in a wheel, and next to it in a clone.
CONVERT = "hrnet_jax.convert" if Path(__file__).with_name("convert").is_dir() else "convert"
HARDWARE = (
    "mem: peak memory of PyTorch in training, GB, on each of 4 GPUs with 2 (Cityscapes) or 4 "
    "images. fps: images per second on one V100, one image at a time at the size of evaluation "
    "(1024x2048 for Cityscapes), network and label map without reading files; PyTorch 1.5."
)

BACKBONES = {"hr18s": "HRNetV2p-W18-Small", "hr18": "HRNetV2p-W18", "hr48": "HRNetV2p-W48"}
IMAGENET = {  # pretrained backbones of the published runs, for config.init_from
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
    """One published weight file, with its measured mIoU in percent."""

    mark: str  # end of its name: start of training, first digits of the SHA-256
    miou: float  # at one scale
    miou_ms_flip: float  # averaged over six scales and mirror images

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
    older: tuple[Upload, ...] = ()  # files that `upload` replaced, under the same name

    @property
    def name(self) -> str:
        """The published name: fcn_hr18_512x1024_160k_cityscapes."""
        crop = _CROPS.get(self.dataset, "480x480")
        return f"fcn_{self.variant}_{crop}_{self.schedule}_{self.dataset}"

    @property
    def config(self) -> str:
        """The value of --config."""
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
        ValueError: there is none; names the closest rows.
    """
    for row in ROWS:
        if row.name == name:
            return row
    close = difflib.get_close_matches(name, [row.name for row in ROWS], n=2)
    hint = f"did you mean {' or '.join(close)}?" if close else "--mode zoo lists all."
    raise ValueError(f"The zoo has no row {name!r}; {hint}")


def select(words: Sequence[str]) -> list[Row]:
    """Return the rows that match every word: a variant, dataset, schedule, or part of the name.

    Raises:
        ValueError: no row matches; lists the words to choose from.
    """
    wanted = {word.lower() for word in words}
    rows = [row for row in ROWS if wanted <= {row.name, row.dataset, *row.name.split("_")}]
    if not rows:
        known = dict.fromkeys(w for r in ROWS for w in (r.variant, r.dataset, r.schedule))
        raise ValueError(
            f"No row of the zoo matches {' '.join(words)!r}; choose from {', '.join(known)}."
        )
    return rows


def find(*, file: str, sha256: str = "") -> tuple[Row, Upload] | None:
    """Recognise a published file by its contents, else by its name."""
    uploads = [(row, upload) for row in ROWS for upload in (row.upload, *row.older)]
    for row, upload in uploads:
        if sha256.startswith(upload.sha256):
            return row, upload
    return next(((row, upload) for row, upload in uploads if row.file(upload) == file), None)


def locate(name: str | AnyPath) -> AnyPath:
    """Return the folder of a row's weights if `name` is that of a row, else `name` as a path.

    Raises:
        FileNotFoundError: the row is not converted yet; says how to get it.
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
