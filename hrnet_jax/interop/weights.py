"""Load the weights of a file into a network. No tensor may be missing, left over or guessed."""

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
_CONVERTED = ("float16", "bfloat16", "float64")  # to float32, if all tensors have this type


@dataclasses.dataclass(frozen=True, kw_only=True)
class Loaded:
    """A network's arrays, and their origin."""

    params: dict[str, Any]
    batch_stats: dict[str, Any]
    origin: str


def load(source: Source, *, variant: str | None = None, num_classes: int | None = None) -> Loaded:
    """Arrange all tensors of a file as a network's arrays.

    Raises:
        ValueError: the tensors do not fit; the message lists all problems.
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
    """Initialise a network from a file.

    Args:
        source: a whole network or a backbone.
        params: fresh parameters, kept where the file has none or `head` excludes them.
        batch_stats: fresh statistics.
        variant: of the network; the file must have the same.
        classes: of the network, in order.
        head: the policy for the file's head. "strict": its classes must be the same; "match": use
            it, but of its classifier only the classes of equal names; "new": ignore it.

    Raises:
        ValueError: the tensors do not fit; the message lists all problems.
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
    name = source.path.name if source.sha256 else source.path  # a checkpoint's name is its step
    origin = f"{name} ({source.family}): {backbone} tensors of the backbone{note}"
    return Loaded(params=new_params, batch_stats=new_batch_stats, origin=origin)


def _with_head(
    source: Source,
    fresh: Mapping[str, np.ndarray],
    *,
    shapes: Mapping[str, tuple[int, ...]],
    classes: tuple[str, ...],
    head: HeadPolicy,
) -> tuple[dict[str, np.ndarray], str]:
    """Return all tensors of the file, with a matched classifier if requested, and a note."""
    note = ""
    if head == "match":
        count = num_classes_of(source) or 0
        theirs = {key: (count, *fresh[key].shape[1:]) for key in CLASSIFIER}
        tensors = _checked(source, {**shapes, **theirs})
        rows = _matching_rows(source, classes)
        for key in CLASSIFIER:
            matched = fresh[key].copy()
            matched[[*rows]] = tensors[key][[*rows.values()]]
            tensors[key] = matched
        note = f" ({len(rows)} of {len(classes)} classes by name)"
    else:
        tensors = _checked(source, shapes)
    return tensors, f", {sum(key.startswith(_HEAD) for key in tensors)} of the head{note}"


def _matching_rows(source: Source, classes: tuple[str, ...]) -> dict[int, int]:
    """Return for our class indices the file's index of the class of equal name."""
    theirs = classes_of(source)
    assert theirs is not None
    if source.classes is None and theirs.dataset == "custom":
        raise ValueError(
            f"{source.path} does not name its {len(theirs.names)} classes, so none can be "
            "matched; use the head policy new."
        )
    index_of = {name: index for index, name in enumerate(theirs.names)}
    return {index: index_of[name] for index, name in enumerate(classes) if name in index_of}


def _without_head(source: Source) -> Source:
    tensors, counters = (
        {key: value for key, value in entries.items() if not key.startswith(_HEAD)}
        for entries in (source.tensors, source.counters)
    )
    return dataclasses.replace(source, tensors=tensors, counters=counters)


def _checked(source: Source, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """Return the tensors as float32 if they match `shapes`, else raise one error for all."""
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
    for kind, texts in problems.items():
        if texts:
            more = f"\n    ... and {len(texts) - _LISTED} more" if len(texts) > _LISTED else ""
            listed = "\n    ".join(texts[:_LISTED])
            lines.append(f"\n  {len(texts)} {kind}:\n    {listed}{more}")
    if lines:
        raise ValueError(
            f"{source.path} looks like {variant_of(source)}, but its tensors do not fit:"
            + "".join(lines)
        )


def _trees(paths: Mapping[str, Path], tensors: Mapping[str, np.ndarray]) -> tuple[dict, dict]:
    """Return nested dicts of parameters and of statistics, in our layout."""
    arrays = {
        # Copied, because a view would keep the whole file in memory.
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
    """Return our path and PyTorch's shape of every tensor, by its published key."""
    model = nnx.eval_shape(lambda: models.build(variant, num_classes=num_classes))
    leaves = flatten_dict(nnx.to_pure_dict(nnx.state(model)))
    return {
        torch_key(path): (path, to_torch_layout(path, np.broadcast_to(0.0, leaf.shape)).shape)
        for path, leaf in leaves.items()
    }
