"""Read weight files of every origin as tensors under mmsegmentation's names."""

import dataclasses
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from hrnet_jax.data.dataset import Color
from hrnet_jax.data.sources.bucket_cache import local_file
from hrnet_jax.interop.class_names import names_in
from hrnet_jax.interop.filename_hash import check_hash
from hrnet_jax.interop.keys import torch_state_dict
from hrnet_jax.interop.pickle_names import Placeholder
from hrnet_jax.interop.pth import read_pth
from hrnet_jax.interop.safetensors import read_safetensors
from hrnet_jax.interop.untrusted import (
    RESAVE,
    CorruptFileError,
    UnsafeFileError,
    brief,
    errors_about,
)
from hrnet_jax.runs.paths import AnyPath, is_remote, to_path
from hrnet_jax.runs.stored_weights import load_weights

META_KEY = "hrnet_jax"  # the metadata of our own exports, in JSON

_COUNTER = ".num_batches_tracked"
_DROPPED = {  # tensors that a segmentation network does not have -> description
    r"(incre_modules|downsamp_modules|final_layer|classifier)\.": "ImageNet classifier",
    r"loss\.": "class weights of the official loss",
    r"ema_": "moving averages of an EMA hook",
}
_OFFICIAL_HEAD = {
    "last_layer.0.": "decode_head.convs.0.conv.",
    "last_layer.1.": "decode_head.convs.0.bn.",
    "last_layer.3.": "decode_head.conv_seg.",
}
_OFFICIAL_NOTE = (
    "Official HRNet-Semantic-Segmentation weights: the official code resizes once, this package in "
    "two steps like mmsegmentation, and the official HRNet-OCR branch aligns corners by default. "
    "Here align_corners is False, so scores may differ from the official ones. With the official "
    "Pascal Context weights, mmsegmentation measured 51.7 here and 52.3 there."
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Source:
    """The weights of one file, under mmsegmentation's names and in PyTorch's layout."""

    path: AnyPath
    sha256: str  # of the file; empty for a checkpoint folder
    size: int  # of the file, in bytes
    format: str
    family: str  # the code that wrote it
    tensors: dict[str, np.ndarray]
    counters: dict[str, np.ndarray]  # num_batches_tracked
    classes: tuple[str, ...] | None = None  # the names in the file
    palette: tuple[Color, ...] | None = None
    dropped: dict[str, str] = dataclasses.field(default_factory=dict)  # entry -> reason
    notes: tuple[str, ...] = ()

    @property
    def has_head(self) -> bool:
        """Whether the file holds more than a backbone."""
        return any(key.startswith("decode_head.") for key in self.tensors)


def read_source(path: str | AnyPath, *, any_hash: bool = False) -> Source:
    """Read a .pth or .safetensors file, or one of our own checkpoints.

    Args:
        path: of the file, of a workdir or of one checkpoint in it.
        any_hash: accept a file whose SHA-256 differs from the one in its name.

    Raises:
        ValueError: the file is unsafe, damaged or of another network; the message says which.
        OSError: there is no such file.
    """
    path = to_path(path)
    if not path.exists():
        raise FileNotFoundError(f"There is no weight file or checkpoint {path}.")
    if path.is_dir():
        return _from_checkpoint(path)
    if is_remote(path):
        with local_file(path) as file:
            try:
                return dataclasses.replace(read_source(file, any_hash=any_hash), path=path)
            except ValueError as error:
                raise ValueError(str(error).replace(str(file), str(path))) from None
    return _read_file(path, any_hash=any_hash)


def _read_file(path: Path, *, any_hash: bool) -> Source:
    dropped: dict[str, str] = {}
    if path.suffix == ".safetensors":
        tensor_file = read_safetensors(path)
        content, meta = tensor_file.tensors, _own_meta(tensor_file.metadata)
        sha256, kind = tensor_file.sha256, "safetensors"
    else:
        pth = read_pth(path)
        with errors_about(path):
            content, meta, dropped = _unwrap(pth.content, path)
        sha256, kind = pth.sha256, f"PyTorch {pth.format}"
    note = check_hash(path.name, sha256, any_hash=any_hash)
    tensors, family, more = _renamed(content, path)
    classes, palette = names_in(meta)
    notes = (note, _OFFICIAL_NOTE if "official" in family else "", _precision(tensors))
    return Source(
        path=path,
        sha256=sha256,
        size=path.stat().st_size,
        format=kind,
        family=family,
        tensors={key: value for key, value in tensors.items() if not key.endswith(_COUNTER)},
        counters={key: value for key, value in tensors.items() if key.endswith(_COUNTER)},
        classes=classes,
        palette=palette,
        dropped=dropped | more,
        notes=tuple(filter(None, notes)),
    )


def _precision(tensors: Mapping[str, np.ndarray]) -> str:
    """Return a note about weights that are not float32."""
    kinds = {str(value.dtype) for value in tensors.values() if value.dtype.kind not in "iu"}
    return "" if len(kinds) != 1 or kinds == {"float32"} else f"{kinds.pop()}, read as float32."


def _own_meta(metadata: Mapping[str, str]) -> Any:
    try:
        return {"dataset_meta": json.loads(metadata.get(META_KEY, "{}"))}
    except (ValueError, RecursionError):
        return {}


def _from_checkpoint(path: AnyPath) -> Source:
    weights = load_weights(path)
    state = torch_state_dict(weights.params, weights.batch_stats)
    return Source(
        path=weights.path,
        sha256="",
        size=sum(value.nbytes for value in state.values()),
        format="Orbax",
        family="hrnet_jax checkpoint",
        tensors={key: value for key, value in state.items() if not key.endswith(_COUNTER)},
        counters={},
        classes=tuple(weights.meta["classes"]) or None,
        palette=tuple(tuple(color) for color in weights.meta["palette"]) or None,
    )


def _unwrap(content: Any, path: Path) -> tuple[dict[str, np.ndarray], Any, dict[str, str]]:
    """Return the state dict in a file of torch.save, its `meta`, and notes on the rest."""
    if not isinstance(content, dict):
        raise ValueError(
            f"{path} holds {brief(content)}, not a state dict; save model.state_dict() instead."
        )
    inner = content.get("state_dict")
    if not isinstance(inner, dict):
        return tensors_of(content), {}, {}
    rest = [str(key)[:40] for key in content if key not in ("state_dict", "meta")]
    return tensors_of(inner), content.get("meta"), dict.fromkeys(rest, "training state")


def tensors_of(mapping: Mapping[Any, Any]) -> dict[str, np.ndarray]:
    """Check that a state dict holds only named tensors, and return them."""
    for key, value in mapping.items():
        if isinstance(value, Placeholder):
            raise UnsafeFileError(
                f"The state dict's {brief(key)} is a {value.name}, which is not read. {RESAVE}"
            )
        if not isinstance(key, str) or not isinstance(value, np.ndarray):
            raise CorruptFileError(
                f"The state dict's {brief(key)} is a {type(value).__name__}, not a named tensor. "
                + RESAVE
            )
    return dict(mapping)


def _renamed(
    tensors: dict[str, np.ndarray], path: Path
) -> tuple[dict[str, np.ndarray], str, dict[str, str]]:
    """Return the tensors by mmsegmentation's keys, the file's origin, and the dropped tensors."""
    keys = [key.removeprefix("module.") for key in tensors]
    official = any(re.match(r"(model\.)?last_layer\.", key) for key in keys)
    if official or all(key.startswith(("model.", "loss.")) for key in keys):
        keys = [key.removeprefix("model.") for key in keys]
    _refuse_other_networks(keys, path)
    has_prefix = any(key.startswith(("backbone.", "decode_head.")) for key in keys)
    backbone = not official and not has_prefix
    renamed: dict[str, np.ndarray] = {}
    groups: dict[str, list[str]] = {}
    for key, value in zip(keys, tensors.values(), strict=True):
        reason = next((text for rule, text in _DROPPED.items() if re.match(rule, key)), None)
        if reason and (backbone or official or not reason.startswith("ImageNet")):
            groups.setdefault(key.split(".")[0] if "." in key else "ema_*", []).append(reason)
            continue
        if official or backbone:
            key = _from_official(key)
        if key in renamed:
            raise ValueError(f"{path} has two tensors for {key}, with and without a prefix.")
        renamed[key] = value
    dropped = {
        group: f"{len(reasons)} tensors: {reasons[0]}" for group, reasons in sorted(groups.items())
    }
    if official:
        return _without_head_bias(renamed), "official HRNet segmentation", dropped
    return renamed, "ImageNet backbone" if backbone else "mmsegmentation", dropped


def _from_official(key: str) -> str:
    for prefix, ours in _OFFICIAL_HEAD.items():
        if key.startswith(prefix):
            return ours + key.removeprefix(prefix)
    return f"backbone.{key}"


def _refuse_other_networks(keys: list[str], path: Path) -> None:
    ocr = ("decode_head.1.", "ocr_distri_head.", "conv3x3_ocr.", "aux_head.")
    if any(key.startswith(ocr) for key in keys):
        raise ValueError(
            f"{path} is an OCRNet (it has an object-context head); this package has the FCN head. "
            "Only files named fcn_hr... or the official plain HRNet fit."
        )
    if not any(re.match(r"(backbone\.)?(stage[234]|layer1)\.", key) for key in keys):
        first = ", ".join(repr(key[:60]) for key in keys[:3]) or "nothing"
        raise ValueError(f"{path} is not an HRNet: it has no stages. Its first tensors: {first}.")


def _without_head_bias(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Fold the bias of the official head's first convolution into the next running mean.

    Batch normalisation subtracts its running mean, so subtracting the bias there is equivalent.
    """
    bias = tensors.pop("decode_head.convs.0.conv.bias", None)
    mean = tensors.get(name := "decode_head.convs.0.bn.running_mean")
    if bias is None or mean is None or bias.shape != mean.shape:
        return tensors if bias is None else tensors | {"decode_head.convs.0.conv.bias": bias}
    return tensors | {name: (mean.astype(np.float64) - bias).astype(mean.dtype)}
