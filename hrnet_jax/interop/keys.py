"""Map our module paths to the keys of published PyTorch checkpoints.

Export applies `torch_key`, and import inverts it over the model's own paths, so both directions
agree by construction.
"""

import numpy as np
from flax.traverse_util import flatten_dict

Path = tuple[str | int, ...]

_LEAF = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}
_POSITION = {"conv": "0", "bn": "1"}  # torch.nn.Sequential(conv, bn) names its members by position


def torch_key(path: Path) -> str:
    """Return the published key: (..., 'conv', 'kernel') -> '...0.weight'."""
    *modules, leaf = map(str, path)
    if modules[0] == "backbone":  # the head's ConvModule keeps the names conv and bn
        modules[-1] = _POSITION.get(modules[-1], modules[-1])
    return ".".join([*modules, _LEAF[leaf]])


def torch_state_dict(params: dict, batch_stats: dict) -> dict[str, np.ndarray]:
    """Return our weights under their published keys and layouts; batch counters are 0."""
    state = {}
    for path, leaf in (flatten_dict(params) | flatten_dict(batch_stats)).items():
        key = torch_key(path)
        state[key] = np.ascontiguousarray(to_torch_layout(path, np.asarray(leaf)))
        if path[-1] == "var":
            state[key.replace("running_var", "num_batches_tracked")] = np.zeros((), np.int64)
    return state


def to_torch_layout(path: Path, value: np.ndarray) -> np.ndarray:
    """Transpose kernels from HWIO to OIHW; return other arrays unchanged."""
    return value.transpose(3, 2, 0, 1) if path[-1] == "kernel" else value


def from_torch_layout(path: Path, value: np.ndarray) -> np.ndarray:
    """Transpose kernels from OIHW to HWIO; return other arrays unchanged."""
    return value.transpose(2, 3, 1, 0) if path[-1] == "kernel" else value
