"""Weights made from the published keys: the parity fixture that needs no checkpoint.

Each tensor is drawn from numpy's legacy generator seeded with the CRC-32 of its published name,
so any implementation in any framework can build the same network. The expected logits were
computed by mmsegmentation 1.2.2 in float64.
"""

import zlib

import numpy as np
from flax import nnx
from flax.traverse_util import flatten_dict, unflatten_dict

from hrnet_jax import models
from hrnet_jax.interop.keys import from_torch_layout, to_torch_layout, torch_key


def published_tensor(key: str, shape: tuple[int, ...]) -> np.ndarray:
    """Draw the tensor that this key and shape (of PyTorch) stand for."""
    random = np.random.RandomState(zlib.crc32(key.encode()))
    if len(shape) == 4:
        fan_out = shape[0] * shape[2] * shape[3]
        value = random.standard_normal(shape) * np.sqrt(2 / fan_out)
    elif key.endswith("running_var"):
        value = random.uniform(0.5, 1.5, shape)
    elif key.endswith(("running_mean", ".bias")):
        value = 0.1 * random.standard_normal(shape)
    else:
        value = 0.3 + 0.1 * random.standard_normal(shape)
    return value.astype(np.float32)


def published_model(variant: str, *, num_classes: int = 19) -> models.Segmentor:
    """A network whose every tensor follows from its published name."""
    model = models.build(variant, num_classes=num_classes)
    leaves = flatten_dict(nnx.to_pure_dict(nnx.state(model)))
    for path, leaf in leaves.items():
        torch_shape = to_torch_layout(path, np.asarray(leaf)).shape
        value = from_torch_layout(path, published_tensor(torch_key(path), torch_shape))
        leaves[path] = np.ascontiguousarray(value)
    nnx.update(model, unflatten_dict(leaves))
    return model


def published_image(height: int, width: int) -> np.ndarray:
    """The fixture's input, [1 h w 3]."""
    image = np.random.RandomState(0).standard_normal((1, 3, height, width))
    return image.astype(np.float32).transpose(0, 2, 3, 1)
