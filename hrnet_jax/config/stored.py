"""Configs as a run stores them: reading them back, and what differs between two of them."""

import json
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from hrnet_jax.config.defaults import default

# Fields that may change between two starts in one workdir; all others decide the result.
_OPERATIONAL = (
    "log.", "eval.every_steps", "eval.batch_size", "checkpoint.", "data.root", "data.workers",
    "data.on_error", "train.max_bad_steps", "mesh.", "train.remat",
)  # fmt: skip

# Fields of older versions. No trained network depends on them: they are left out.
_REMOVED = (
    "mesh.data", "data.threads", "train.on_bad_step", "checkpoint.keep", "eval.limit", "eval.split",
    "eval.submission", "eval.save_predictions",
)  # fmt: skip


def from_json(text: str) -> ConfigDict:
    """Read back a config's `to_dict()`, as the config.json of a run holds it."""
    return from_dict(json.loads(text))


def from_dict(stored: Mapping[str, Any]) -> ConfigDict:
    """Make a config of the nested dict that JSON gives; its lists become tuples again.

    Fields that are newer than the dict have their defaults.

    Raises:
        ValueError: for a field that no version had.
    """
    given = {name: value for name, value in _flat(stored).items() if name not in _REMOVED}
    if _flat(stored).get("train.on_bad_step") == "stop":
        given["train.max_bad_steps"] = 1
    config = default(name="", dataset="", variant="")
    if unknown := sorted(set(given) - set(fields(config))):
        raise ValueError(
            f"config.{unknown[0]} is no field of this version of hrnet_jax; read the config with "
            "the version that wrote it."
        )
    with config.ignore_type():  # 1 where 1.0 is the default
        config.update_from_flattened_dict(given)
    return config


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """List the fields that differ: those that decide a run's result, and the others.

    Each as "train.steps: 40000 -> 80000".

    Args:
        old: a config as a dict, maybe from JSON, maybe of an older version.
        new: likewise.

    Raises:
        ValueError: for a field that no version had.
    """
    before, after = (_flat(from_dict(config).to_dict()) for config in (old, new))
    decisive: list[str] = []
    operational: list[str] = []
    for field in sorted(before):
        if before[field] != after[field]:
            kind = operational if field.startswith(_OPERATIONAL) else decisive
            kind.append(f"{field}: {before[field]} -> {after[field]}")
    return decisive, operational


def fields(config: ConfigDict) -> list[str]:
    """List the dotted names of all fields: "reference", "model.variant", ..."""
    return list(_flat(config.to_dict()))


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = _tuples(value)
    return flat


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list | tuple) else value
