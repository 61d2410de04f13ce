"""Stored configs: reads them back, and lists the differences between two."""

from collections.abc import Mapping
from typing import Any

from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict

from hrnet_jax.config.defaults import default

# Fields that may change between two starts in one workdir; all others affect the result.
_OPERATIONAL = (
    "log.", "eval.every_steps", "eval.batch_size", "checkpoint.", "data.root", "data.workers",
    "data.on_error", "train.max_bad_steps", "mesh.", "train.remat",
)  # fmt: skip

# Fields of older versions. No result depends on them, so they are ignored.
_REMOVED = (
    "mesh.data", "data.threads", "train.on_bad_step", "checkpoint.keep", "eval.limit", "eval.split",
    "eval.submission", "eval.save_predictions",
)  # fmt: skip


def from_dict(stored: Mapping[str, Any]) -> ConfigDict:
    """Restore a config from its `to_dict()`, also after JSON has turned tuples into lists.

    Fields that are newer than the stored config get their defaults.

    Raises:
        ValueError: no version had such a field.
    """
    given = _flat(stored)
    if given.get("train.on_bad_step") == "stop":
        given["train.max_bad_steps"] = 1
    for name in _REMOVED:
        given.pop(name, None)
    config = default(name="", dataset="", variant="")
    if unknown := sorted(set(given) - set(fields(config))):
        raise ValueError(
            f"config.{unknown[0]} is not a field of this version of hrnet_jax; use the version "
            "that wrote the config."
        )
    with config.ignore_type():  # 1 where 1.0 is the default
        config.update_from_flattened_dict(given)
    return config


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """List the fields that differ: those that affect the result of a run, and the others.

    Each is listed as "train.steps: 40000 -> 80000". Both configs may be from JSON, and may be of an
    older version.

    Raises:
        ValueError: no version had such a field.
    """
    before, after = (_flat(from_dict(config).to_dict()) for config in (old, new))
    decisive: list[str] = []
    operational: list[str] = []
    for field in sorted(before):
        if before[field] != after[field]:
            changes = operational if field.startswith(_OPERATIONAL) else decisive
            changes.append(f"{field}: {before[field]} -> {after[field]}")
    return decisive, operational


def fields(config: ConfigDict) -> list[str]:
    """List the dotted names of all fields: "reference", "model.variant", ..."""
    return list(_flat(config.to_dict()))


def _flat(tree: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _tuples(value) for name, value in flatten_dict(tree, sep=".").items()}


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list | tuple) else value
