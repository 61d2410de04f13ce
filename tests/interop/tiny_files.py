"""Weight files of the tiny network in the forms of different programs."""

import functools
from pathlib import Path

import numpy as np

from hrnet_jax.interop.keys import torch_state_dict
from hrnet_jax.interop.pth_write import write_pth
from hrnet_jax.models import split
from tests import tiny  # noqa: F401 -- adds the variant "tiny"
from tests.published import published_model

State = dict[str, np.ndarray]
NAMES = ("road", "sky", "car")


def mmseg_state(num_classes: int = 3) -> State:
    """A state dict of mmsegmentation, with counters of batches."""
    return dict(_mmseg_state(num_classes))


@functools.cache
def _mmseg_state(num_classes: int) -> State:
    _, params, batch_stats = split(published_model("tiny", num_classes=num_classes))
    state = torch_state_dict(params, batch_stats)
    counters = {key for key in state if key.endswith("num_batches_tracked")}
    return state | dict.fromkeys(counters, np.asarray(40_000, np.int64))


def backbone_state() -> State:
    """An ImageNet network: no prefix, and 126 tensors of a classifier."""
    state = {
        key.removeprefix("backbone."): value
        for key, value in mmseg_state().items()
        if key.startswith("backbone.")
    }
    number = np.zeros(1, np.float32)
    bn = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    for branch in range(4):
        for unit in (
            ("conv1", "bn1"),
            ("conv2", "bn2"),
            ("conv3", "bn3"),
            ("downsample.0", "downsample.1"),
        ):
            prefix = f"incre_modules.{branch}.0."
            state |= {f"{prefix}{unit[0]}.weight": number}
            state |= {f"{prefix}{unit[1]}.{name}": number for name in bn}
    for prefix in ("downsamp_modules.0", "downsamp_modules.1", "downsamp_modules.2", "final_layer"):
        state |= {f"{prefix}.0.weight": number, f"{prefix}.0.bias": number}
        state |= {f"{prefix}.1.{name}": number for name in bn}
    return state | {"classifier.weight": number, "classifier.bias": number}


def official_state(bias: float = 0.25) -> State:
    """The official segmentation network: another head, with a bias before its normalisation."""
    state = {}
    for key, value in mmseg_state().items():
        for theirs, ours in (("last_layer.0.", "decode_head.convs.0.conv."),
                             ("last_layer.1.", "decode_head.convs.0.bn."),
                             ("last_layer.3.", "decode_head.conv_seg.")):  # fmt: skip
            key = key.replace(ours, theirs)
        state["model." + key.removeprefix("backbone.")] = value
    mean = state["model.last_layer.1.running_mean"]
    state["model.last_layer.0.bias"] = np.full_like(mean, bias)
    state["model.last_layer.1.running_mean"] = mean + np.float32(bias)
    return state | {"loss.criterion.weight": np.ones(3, np.float32)}


def write(path: Path, state: State, **meta) -> Path:
    """Write a file as mmsegmentation does."""
    write_pth(path, {"meta": {"CLASSES": NAMES, **meta}, "state_dict": state})
    return path
