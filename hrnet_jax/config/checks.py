"""What the type of a field cannot check: choices, ranges, and fields that depend on each other."""

import difflib
from typing import Any

from ml_collections import ConfigDict

from hrnet_jax.config.custom_data import dataset_of
from hrnet_jax.data.datasets import DATASETS
from hrnet_jax.data.transforms import AUGMENTATIONS
from hrnet_jax.models import HEADS, VARIANTS
from hrnet_jax.training.losses import LOSSES
from hrnet_jax.training.optim import OPTIMIZERS

# Least and largest value of a field; anything beyond is a slip, or not finite.
_RANGES = {
    "optim.lr": (1e-12, 1e3), "optim.head_lr": (1e-12, 1e3), "optim.min_lr": (0, 1e3),
    "optim.power": (0, 100),
    "optim.momentum": (0, 0.9999), "optim.weight_decay": (0, 100),
    "train.ratio_range": (0.01, 100), "train.class_weights": (0, 1e6), "eval.ratios": (0.01, 100),
    "data.mean": (0, 255), "data.std": (0.01, 1e4),
}  # fmt: skip

_OWN = "One that a recipe adds is known where --config names that recipe."


def validate(config: ConfigDict) -> None:
    """Refuse values that no type can refuse, naming the field and what is allowed.

    Raises:
        ValueError: for the first field that cannot work.
    """
    _check_choices(config)
    _check_numbers(config)
    _check_evaluation(config)
    _check_data(config)
    _check_training(config)


def _check_choices(config: ConfigDict) -> None:
    _one_of(config, "reference", ("v0", "v1"))
    _one_of(config, "init_head", ("strict", "match", "new"))
    _one_of(config, "model.variant", tuple(VARIANTS))
    _one_of(config, "model.head", tuple(HEADS), advice=_OWN)
    _one_of(config, "model.dtype", ("float32", "bfloat16", "float64"))
    _one_of(
        config, "data.name", (*DATASETS, "custom"),
        advice="A dataset that a recipe defines is known where --config names that recipe.",
    )  # fmt: skip
    _one_of(config, "eval.mode", ("whole", "slide"))
    _one_of(config, "train.loss", tuple(LOSSES), advice=_OWN)
    _one_of(config, "optim.name", tuple(OPTIMIZERS), advice=_OWN)
    for name in config.train.augmentations:
        if name not in AUGMENTATIONS:
            raise ValueError(
                f"config.train.augmentations: there is no {name!r} in data.transforms."
                f"AUGMENTATIONS, which holds {', '.join(AUGMENTATIONS) or 'none'}; CONTRIBUTING.md "
                "tells how to add one."
            )
    _one_of(config, "train.remat", ("none", "block", "stage"))
    _one_of(config, "data.on_error", ("stop", "quarantine"))


def _check_numbers(config: ConfigDict) -> None:
    """Sizes, counts and ranges: each field alone."""
    for field in (
        "train.image_size", "train.crop_size", "eval.image_size", "eval.crop_size", "eval.stride",
    ):  # fmt: skip
        size = get(config, field)
        if len(size) != 2 or not all(isinstance(side, int) and side > 0 for side in size):
            raise ValueError(
                f"config.{field}={size} is not a size; give (height, width) in pixels, "
                f"for example --config.{field}='(512, 1024)'."
            )
    for field in (
        "train.steps", "train.batch_size", "train.max_bad_steps", "eval.batch_size",
        "eval.every_steps", "checkpoint.every_steps", "log.every_steps", "mesh.height",
        "mesh.timeout", "train.accumulate",
    ):  # fmt: skip
        if get(config, field) < 1:
            raise ValueError(f"config.{field}={get(config, field)} must be at least 1.")
    for field in ("seed", "data.workers", "log.pictures"):
        if get(config, field) < 0:
            raise ValueError(f"config.{field}={get(config, field)} must not be negative.")
    for field in _RANGES:
        _in_range(config, field)


def _check_evaluation(config: ConfigDict) -> None:
    if config.eval.every_steps % config.checkpoint.every_steps:
        raise ValueError(
            f"config.eval.every_steps={config.eval.every_steps} must be a multiple of "
            f"config.checkpoint.every_steps={config.checkpoint.every_steps}: otherwise the network "
            "with the best evaluation would not be saved."
        )
    if any(a > b for a, b in zip(config.eval.stride, config.eval.crop_size, strict=True)):
        raise ValueError(
            f"config.eval.stride={config.eval.stride} must not exceed config.eval.crop_size="
            f"{config.eval.crop_size}: pixels between the windows would not be seen."
        )
    if not config.eval.ratios:
        raise ValueError("config.eval.ratios is empty; give scales, such as '(1.0,)'.")


def _check_data(config: ConfigDict) -> None:
    for field in ("data.mean", "data.std"):
        if len(get(config, field)) != 3:
            raise ValueError(f"config.{field}={get(config, field)} must be three numbers.")
    for field in ("data.images", "data.labels"):
        # A list file can tell the splits apart too.
        if "{split}" not in get(config, field) + config.data.list_file:
            raise ValueError(
                f"config.{field}={get(config, field)!r} must contain {{split}}, which stands for "
                "train and val: training images must not be scored. If all lie in one folder, name "
                "lists with --config.data.list_file={split}.txt."
            )


def _check_training(config: ConfigDict) -> None:
    ratios = config.train.ratio_range
    if len(ratios) != 2 or ratios[0] > ratios[1]:
        raise ValueError(
            f"config.train.ratio_range={ratios} must be two numbers, the lower one first, for "
            "example '(0.5, 2.0)'."
        )
    weights, num_classes = config.train.class_weights, dataset_of(config).num_classes
    if weights and (len(weights) != num_classes or not any(weights)):
        raise ValueError(
            f"config.train.class_weights={weights} has {len(weights)} values; give {num_classes}, "
            "one per class and not all 0, or ()."
        )


def _in_range(config: ConfigDict, field: str) -> None:
    """Refuse a number outside the field's range, alone or in a tuple."""
    value, (low, high) = get(config, field), _RANGES[field]
    if value is None:  # a field that may be left open
        return
    for number in value if isinstance(value, tuple) else (value,):
        # No comparison with nan is true.
        if not isinstance(number, int | float) or not low <= number <= high:
            raise ValueError(
                f"config.{field}={value}: {number!r} is no finite number from {low:g} to {high:g}."
            )


def _one_of(config: ConfigDict, field: str, allowed: tuple[str, ...], *, advice: str = "") -> None:
    value = get(config, field)
    if value not in allowed:
        guess = difflib.get_close_matches(str(value), allowed, n=1)
        hint = f" Did you mean {guess[0]!r}?" if guess else f" {advice}".rstrip()
        raise ValueError(f"config.{field}={value!r} must be one of {', '.join(allowed)}.{hint}")


def get(config: ConfigDict, field: str) -> Any:
    """Look up a dotted field: get(config, "train.steps")."""
    for name in field.split("."):
        config = config[name]
    return config
