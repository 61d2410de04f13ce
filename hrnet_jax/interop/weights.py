"""Weights of a file -> a network's arrays. Nothing may be missing, left over or guessed."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from flax import nnx
from flax.traverse_util import flatten_dict, unflatten_dict

from hrnet_jax import models
from hrnet_jax.interop.infer import (
    CLASSIFIER,
    check_classes,
    check_network,
    classes_of,
    num_classes_of,
    variant_of,
)
from hrnet_jax.interop.keys import (
    Path,
    from_torch_layout,
    to_torch_layout,
    torch_key,
    torch_state_dict,
)
from hrnet_jax.interop.read import Source

HeadPolicy = Literal["strict", "match", "new"]
HEAD_POLICIES: tuple[HeadPolicy, ...] = ("strict", "match", "new")

_HEAD = "decode_head."
_LISTED = 40  # problems of one kind in a message
_CONVERTED = ("float16", "bfloat16", "float64")  # to float32, if all tensors are of this type


@dataclasses.dataclass(frozen=True, kw_only=True)
class Loaded:
    """A network's arrays, and where they come from."""

    params: dict[str, Any]
    batch_stats: dict[str, Any]
    origin: str


def load(source: Source, *, variant: str | None = None, num_classes: int | None = None) -> Loaded:
    """Arrange the tensors of a whole file as a network's arrays.

    Raises:
        ValueError: that lists everything that does not fit.
    """
    check_network(source, variant=variant, num_classes=num_classes)
    count = num_classes_of(source)
    expected = template(variant_of(source), count or 1)
    if not source.has_head:
        expected = {key: entry for key, entry in expected.items() if not key.startswith(_HEAD)}
    tensors = _checked(source, {key: shape for key, (_, shape) in expected.items()})
    params, batch_stats = _trees({key: path for key, (path, _) in expected.items()}, tensors)
    return Loaded(
        params=params, batch_stats=batch_stats, origin=f"{len(tensors)} tensors from {source.path}"
    )


def start_from(
    source: Source,
    params: dict,
    batch_stats: dict,
    *,
    variant: str,
    classes: tuple[str, ...],
    head: HeadPolicy = "strict",
) -> Loaded:
    """Put what a file holds into a network with fresh weights.

    Args:
        source: a whole network or a backbone.
        params: fresh ones; they stay where the file has none or `head` refuses them.
        batch_stats: fresh ones.
        variant: of the network; the file's must be the same.
        classes: of the network, in order.
        head: what to do with the file's head. "strict": its classes must be the same; "match":
            use it, but only the classes of equal names of its classifier; "new": do not use it.

    Raises:
        ValueError: that lists everything that does not fit.
    """
    check_network(source, variant=variant)
    if source.has_head and head == "strict":
        check_classes(source, classes)
    fresh = torch_state_dict(params, batch_stats)
    paths = {torch_key(path): path for path in flatten_dict(params) | flatten_dict(batch_stats)}
    if source.has_head and head != "new":
        shapes = {key: fresh[key].shape for key in paths}
        tensors, note = _with_head(source, fresh, shapes=shapes, classes=classes, head=head)
    else:
        shapes = {key: fresh[key].shape for key in paths if not key.startswith(_HEAD)}
        tensors = _checked(_without_head(source), shapes)
        note = f"; the {len(paths) - len(tensors)} of the head are random"
    new_params, new_batch_stats = _trees(paths, fresh | tensors)
    backbone = sum(not key.startswith(_HEAD) for key in tensors)
    origin = f"{source.path.name} ({source.family}): {backbone} tensors of the backbone{note}"
    return Loaded(params=new_params, batch_stats=new_batch_stats, origin=origin)


def _with_head(
    source: Source,
    fresh: Mapping[str, np.ndarray],
    *,
    shapes: Mapping[str, tuple[int, ...]],
    classes: tuple[str, ...],
    head: HeadPolicy,
) -> tuple[dict[str, np.ndarray], str]:
    """All tensors of the file, matched if so asked; and what to say of the head."""
    if head == "match":
        count = num_classes_of(source) or 0
        theirs = {key: (count, *fresh[key].shape[1:]) for key in CLASSIFIER}
        tensors = _checked(source, {**shapes, **theirs})
        kept = _match(tensors, fresh, source=source, classes=classes)
        note = f" ({kept} of {len(classes)} classes by name)"
    else:
        tensors, note = _checked(source, shapes), ""
    return tensors, f", {sum(key.startswith(_HEAD) for key in tensors)} of the head{note}"


def _match(
    tensors: dict[str, np.ndarray],
    fresh: Mapping[str, np.ndarray],
    *,
    source: Source,
    classes: tuple[str, ...],
) -> int:
    """Replace the file's classifier by a fresh one with the file's rows of equal names."""
    theirs = classes_of(source)
    assert theirs is not None
    if source.classes is None and theirs.dataset == "custom":
        raise ValueError(
            f"{source.path} does not name its {len(theirs.names)} classes, so none can be "
            "matched; use the head policy new."
        )
    row = {name: index for index, name in enumerate(theirs.names)}
    pairs = [(index, row[name]) for index, name in enumerate(classes) if name in row]
    for key in CLASSIFIER:
        merged = fresh[key].copy()
        for here, there in pairs:
            merged[here] = tensors[key][there]
        tensors[key] = merged
    return len(pairs)


def _without_head(source: Source) -> Source:
    keep = {key: value for key, value in source.tensors.items() if not key.startswith(_HEAD)}
    counters = {key: value for key, value in source.counters.items() if not key.startswith(_HEAD)}
    return dataclasses.replace(source, tensors=keep, counters=counters)


def _checked(source: Source, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """The tensors as float32, if they are what `shapes` asks for; else one error for all."""
    kinds = {str(value.dtype) for value in source.tensors.values()}
    kind = kinds.pop() if len(kinds) == 1 else "float32"
    allowed = kind if kind in _CONVERTED else "float32"
    counters = {key.replace("running_var", "num_batches_tracked") for key in shapes
                if key.endswith("running_var")}  # fmt: skip
    problems: dict[str, list[str]] = {
        "missing": sorted(set(shapes) - set(source.tensors)),
        "not of this network": sorted(
            [*(set(source.tensors) - set(shapes)), *(set(source.counters) - counters)]
        ),
        "of another shape": [],
        "of another type": [],
        "not finite": [],
    }
    if source.counters:
        problems["missing"] += sorted(counters - set(source.counters))
    for key, value in source.counters.items():
        if value.shape != () or value.dtype.kind not in "iu":
            problems["of another type"].append(f"{key} is {value.dtype} {value.shape}, not a count")
    for key in sorted(set(shapes) & set(source.tensors)):
        value = source.tensors[key]
        if value.shape != shapes[key]:
            problems["of another shape"].append(f"{key} is {value.shape}, not {shapes[key]}")
        if str(value.dtype) != allowed:
            problems["of another type"].append(f"{key} is {value.dtype}, not {allowed}")
        elif broken := np.count_nonzero(~np.isfinite(_as_float32(value))):
            problems["not finite"].append(f"{key} has {broken} of {value.size}")
    _raise_if_any(source, problems)
    return {key: _as_float32(source.tensors[key]) for key in shapes}


def _as_float32(value: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):  # infinities are found by the caller
        return np.asarray(value, np.float32)


def _raise_if_any(source: Source, problems: Mapping[str, list[str]]) -> None:
    lines = []
    for kind, found in problems.items():
        if found:
            more = f"\n    ... and {len(found) - _LISTED} more" if len(found) > _LISTED else ""
            listed = "\n    ".join(found[:_LISTED])
            lines.append(f"\n  {len(found)} {kind}:\n    {listed}{more}")
    if lines:
        raise ValueError(
            f"{source.path} looks like {variant_of(source)}, but its tensors do not fit:"
            + "".join(lines)
        )


def _trees(paths: Mapping[str, Path], tensors: Mapping[str, np.ndarray]) -> tuple[dict, dict]:
    """Nested dicts of parameters and of statistics, in our layout."""
    arrays = {
        # Copies: a view would keep the whole file in memory.
        path: np.array(from_torch_layout(path, tensors[key]), order="C")
        for key, path in paths.items()
    }
    stats = {path for path in arrays if path[-1] in ("mean", "var")}
    return (
        unflatten_dict({path: arrays[path] for path in arrays if path not in stats}),
        unflatten_dict({path: arrays[path] for path in arrays if path in stats}),
    )


@functools.lru_cache(maxsize=4)
def template(variant: str, num_classes: int) -> dict[str, tuple[Path, tuple[int, ...]]]:
    """Every tensor of a network by its published key: our path, PyTorch's shape."""
    model = nnx.eval_shape(lambda: models.build(variant, num_classes=num_classes))
    leaves = flatten_dict(nnx.to_pure_dict(nnx.state(model)))
    return {
        torch_key(path): (path, to_torch_layout(path, np.broadcast_to(0.0, leaf.shape)).shape)
        for path, leaf in leaves.items()
    }
