"""Checks that the type of a field cannot make: choices, ranges, and fields that must agree."""

import difflib
from collections.abc import Collection
from typing import Any

from ml_collections import ConfigDict

from hrnet_jax.config.custom_data import dataset_of
from hrnet_jax.data.datasets import DATASETS
from hrnet_jax.data.transforms import AUGMENTATIONS
from hrnet_jax.interop.weights import HEAD_POLICIES
from hrnet_jax.models import HEADS, VARIANTS
from hrnet_jax.training.losses import LOSSES
from hrnet_jax.training.optim import OPTIMIZERS

_CHOICES: dict[str, Collection[str]] = {
    "reference": ("v0", "v1"), "init_head": HEAD_POLICIES,
    "model.variant": VARIANTS, "model.head": HEADS,
    "model.dtype": ("float32", "bfloat16", "float64"),
    "eval.mode": ("whole", "slide"), "train.loss": LOSSES, "optim.name": OPTIMIZERS,
    "train.remat": ("none", "block", "stage"), "data.on_error": ("stop", "quarantine"),
}  # fmt: skip
_SIZES = (
    "train.image_size", "train.crop_size", "eval.image_size", "eval.crop_size", "eval.stride",
)  # fmt: skip
_POSITIVE = (
    "train.steps", "train.batch_size", "train.max_bad_steps", "train.accumulate",
    "eval.batch_size", "eval.every_steps", "checkpoint.every_steps", "log.every_steps",
    "mesh.height", "mesh.timeout",
)  # fmt: skip
_RANGES = {  # values outside are mistakes
    "optim.lr": (1e-12, 1e3), "optim.head_lr": (1e-12, 1e3), "optim.min_lr": (0, 1e3),
    "optim.power": (0, 100),
    "optim.momentum": (0, 0.9999), "optim.weight_decay": (0, 100),
    "train.ratio_range": (0.01, 100), "train.class_weights": (0, 1e6), "eval.ratios": (0.01, 100),
    "data.mean": (0, 255), "data.std": (0.01, 1e4),
}  # fmt: skip

_OWN = "What a recipe adds is known only if --config names that recipe."
_EXTENSIBLE = ("model.variant", "model.head", "train.loss", "optim.name")


def validate(config: ConfigDict) -> None:
    """Refuse values that cannot work, naming the field and the allowed values.

    Raises:
        ValueError: for the first such field.
    """
    for field, allowed in _CHOICES.items():
        _check_choice(config, field, allowed, advice=_OWN if field in _EXTENSIBLE else "")
    _check_choice(config, "data.name", (*DATASETS, "custom"), advice=_OWN)
    for name in config.train.augmentations:
        if name not in AUGMENTATIONS:
            raise ValueError(
                f"config.train.augmentations: there is no {name!r} in data.transforms."
                f"AUGMENTATIONS, which holds {', '.join(AUGMENTATIONS) or 'none'}. {_OWN}"
            )
    _check_numbers(config)
    _check_evaluation(config)
    _check_data(config)
    _check_training(config)


def _check_choice(
    config: ConfigDict, field: str, allowed: Collection[str], *, advice: str = ""
) -> None:
    value = get(config, field)
    if value not in allowed:
        close = difflib.get_close_matches(str(value), allowed, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else f" {advice}".rstrip()
        raise ValueError(f"config.{field}={value!r} must be one of {', '.join(allowed)}.{hint}")


def _check_numbers(config: ConfigDict) -> None:
    for field in _SIZES:
        size = get(config, field)
        if len(size) != 2 or not all(isinstance(side, int) and side > 0 for side in size):
            raise ValueError(
                f"config.{field}={size} is not a size; give (height, width) in pixels, "
                f"for example --config.{field}='(512, 1024)'."
            )
    for field in _POSITIVE:
        if get(config, field) < 1:
            raise ValueError(f"config.{field}={get(config, field)} must be at least 1.")
    for field in ("seed", "data.workers", "log.pictures"):
        if get(config, field) < 0:
            raise ValueError(f"config.{field}={get(config, field)} must not be negative.")
    for field, (low, high) in _RANGES.items():
        value = get(config, field)
        for number in value if isinstance(value, tuple) else (value,):
            # None stands for an unset field. Comparisons with NaN are false.
            is_valid = isinstance(number, int | float) and low <= number <= high
            if value is not None and not is_valid:
                raise ValueError(
                    f"config.{field}={value}: {number!r} is not a number from {low:g} to {high:g}."
                )


def _check_evaluation(config: ConfigDict) -> None:
    if config.eval.every_steps % config.checkpoint.every_steps:
        raise ValueError(
            f"config.eval.every_steps={config.eval.every_steps} must be a multiple of "
            f"config.checkpoint.every_steps={config.checkpoint.every_steps}: only a checkpoint can "
            "be kept as the best."
        )
    if any(a > b for a, b in zip(config.eval.stride, config.eval.crop_size, strict=True)):
        raise ValueError(
            f"config.eval.stride={config.eval.stride} must not exceed config.eval.crop_size="
            f"{config.eval.crop_size}: pixels between the windows would get no label."
        )
    if not config.eval.ratios:
        raise ValueError("config.eval.ratios is empty; give scales, such as '(1.0,)'.")


def _check_data(config: ConfigDict) -> None:
    for field in ("data.mean", "data.std"):
        if len(get(config, field)) != 3:
            raise ValueError(f"config.{field}={get(config, field)} must be three numbers.")
    for field in ("data.images", "data.labels"):
        # A list file can separate the splits too.
        if "{split}" not in get(config, field) + config.data.list_file:
            raise ValueError(
                f"config.{field}={get(config, field)!r} must contain {{split}}, which stands for "
                "train and val. If all files are in one folder, separate them with lists: "
                "--config.data.list_file={split}.txt."
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


def get(config: ConfigDict, field: str) -> Any:
    """Look up a dotted field: get(config, "train.steps")."""
    for name in field.split("."):
        config = config[name]
    return config
