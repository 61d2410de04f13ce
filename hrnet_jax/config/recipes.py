"""One training recipe per dataset: the settings of its published runs."""

import difflib
import re
from collections.abc import Sequence
from pathlib import Path

from ml_collections import ConfigDict

from hrnet_jax import zoo
from hrnet_jax.config.defaults import default
from hrnet_jax.data.dataset import Dataset
from hrnet_jax.data.datasets import DATASETS
from hrnet_jax.runs.paths import to_local_path

# Inverse square roots of each class's share of the pixels, scaled to a mean of 1 over pixels, and
# doubled for poles, which are thinnest. Without them, so few steps would not learn rare classes.
_MINICITY_WEIGHTS = (
    0.52, 1.3, 0.66, 2.08, 2.7, 3.6, 3.03, 2.76, 0.8, 1.67, 0.92, 2.85, 2.02, 1.43, 1.25, 1.15,
    1.21, 2.55, 2.69,
)  # fmt: skip


def cityscapes(*, variant: str, schedule: str) -> ConfigDict:
    """512x1024 crops, 8 images per step, whole-image evaluation at 1024x2048."""
    return _published("cityscapes", variant, schedule, allowed=("40k", "80k", "160k"))


def ade20k(*, variant: str, schedule: str) -> ConfigDict:
    """512x512 crops of images with a short side of 512, 16 images per step."""
    config = _published("ade20k", variant, schedule, allowed=("80k", "160k"))
    config.train.batch_size = 16
    config.train.image_size = config.eval.image_size = (512, 2048)
    config.train.crop_size = (512, 512)
    return config


def voc12aug(*, variant: str, schedule: str) -> ConfigDict:
    """512x512 crops of images with a short side of 512, 16 images per step."""
    config = _published("voc12aug", variant, schedule, allowed=("20k", "40k"))
    config.train.batch_size = 16
    config.train.image_size = config.eval.image_size = (512, 2048)
    config.train.crop_size = (512, 512)
    return config


def pascal_context(*, variant: str, schedule: str, classes: int = 60) -> ConfigDict:
    """480x480 crops and windows of images with a long side of 520, 16 images per step, a low rate.

    `classes` is 60 with background, or 59 without.
    """
    if classes not in (59, 60):
        raise ValueError(f"Pascal Context has 60 classes, or 59 without background; not {classes}.")
    dataset = "pascal_context" if classes == 60 else "pascal_context_59"
    config = _published(dataset, variant, schedule, allowed=("40k", "80k"))
    config.train.batch_size = 16
    config.train.image_size = config.eval.image_size = (520, 520)
    config.train.crop_size = (480, 480)
    config.eval.mode = "slide"  # windows of 480x480 every 320x320
    config.optim.lr = 0.004
    config.optim.weight_decay = 1e-4
    return config


def minicity(*, variant: str) -> ConfigDict:
    """Small crops and a high learning rate: trains from random weights in minutes on two cores."""
    config = default(name=f"{variant}_minicity", dataset="minicity", variant=variant)
    config.train.steps = 220
    config.train.batch_size = 2
    config.train.image_size = config.eval.image_size = (128, 256)  # half the size of the files
    config.train.ratio_range = (0.75, 1.5)
    config.train.crop_size = (128, 256)
    config.train.class_weights = _MINICITY_WEIGHTS
    config.optim.lr = 0.03
    config.eval.every_steps = config.checkpoint.every_steps = 55
    config.log.every_steps = 10
    return config


def custom(*, variant: str, dataset: Dataset | None = None) -> ConfigDict:
    """Your own data: crops of 512x512 from images with a short side of 512.

    Args:
        variant: of the network.
        dataset: is added to `data.datasets.DATASETS`; None if the fields of `config.data`
            describe the data.

    Raises:
        ValueError: the name of the dataset is taken.
    """
    name = "custom" if dataset is None else dataset.name
    if dataset is not None and (name == "custom" or DATASETS.setdefault(name, dataset) != dataset):
        raise ValueError(f"The name {name!r} is taken; give Dataset(name=...) another one.")
    config = default(name=f"{variant}_{name}", dataset=name, variant=variant)
    config.train.image_size = config.eval.image_size = (512, 2048)
    config.train.crop_size = (512, 512)
    return config


def of_row(row: zoo.Row) -> ConfigDict:
    """Return the recipe of a published result, as `row.config` names it."""
    if row.dataset.startswith("pascal_context"):
        classes = 59 if row.dataset.endswith("_59") else 60
        return pascal_context(variant=row.variant, schedule=row.schedule, classes=classes)
    recipe = {"cityscapes": cityscapes, "ade20k": ade20k, "voc12aug": voc12aug}[row.dataset]
    return recipe(variant=row.variant, schedule=row.schedule)


def resolve_config(argv: Sequence[str]) -> list[str]:
    """Replace the name of a recipe after --config by the path that ml_collections needs.

    Raises:
        FileNotFoundError, ValueError: see `locate`.
    """
    text = "\0".join(argv)  # no argument can contain it
    if match := re.search(r"(?:^|\0)--?config[=\0]([^:\0]*)", text):
        text = f"{text[: match.start(1)]}{locate(match[1])}{text[match.end(1) :]}"
    return text.split("\0")


def locate(name: str) -> Path:
    """Return the file of a recipe: this file, or else the one in the installed package.

    A wheel contains the folder `configs`, so that configs/hr18_cityscapes.py means the same there
    as in a clone.

    Raises:
        FileNotFoundError: neither exists; names the files that were probably meant.
        ValueError: it is not a Python file.
    """
    package = Path(__file__).parents[1]
    for path in (to_local_path(name), package / name):
        if path.is_file() and path.suffix == ".py":
            return path
        if path.is_file():
            raise ValueError(
                f"{path} is not a recipe, a Python file such as those in configs/. A checkpoint "
                "holds the config of its run: omit --config, and give --checkpoint."
            )
    here = Path("configs")
    folder = here if here.is_dir() else package / "configs"
    known = sorted(file.name for file in folder.glob("*.py"))
    close = difflib.get_close_matches(f"{Path(name).stem}.py", known, n=3, cutoff=0.5)
    listed = ", ".join(f"configs/{name}" for name in close or known)
    if not listed:
        advice = f"{Path.cwd()} has no folder configs/; run in a clone, or give a full path."
    else:
        advice = f"did you mean {listed}?" if close else f"choose from {listed}."
    raise FileNotFoundError(f"there is no file {name} for --config; {advice}")


def _published(
    dataset: str, variant: str, schedule: str, *, allowed: tuple[str, ...]
) -> ConfigDict:
    if schedule not in allowed:
        raise ValueError(
            f"There is no schedule {schedule!r} for this recipe; use one of {', '.join(allowed)}, "
            f"as in --config path/to/config.py:{allowed[0]}."
        )
    config = default(name=f"{variant}_{dataset}_{schedule}", dataset=dataset, variant=variant)
    config.train.steps = 1000 * int(schedule.removesuffix("k"))
    config.eval.every_steps = config.checkpoint.every_steps = config.train.steps // 10
    return config
