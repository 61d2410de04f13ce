"""What CONTRIBUTING promises: each addition is one definition and one line in a visible dict."""

import dataclasses

import grain
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from hrnet_jax.config.build_data import build_data
from hrnet_jax.config.build_training import build_training
from hrnet_jax.data.datasets import DATASETS
from hrnet_jax.data.transforms import AUGMENTATIONS
from hrnet_jax.models import HEADS, VARIANTS
from hrnet_jax.models.layers import Conv
from hrnet_jax.parallel.mesh import to_global
from hrnet_jax.runs.terminal import Terminal
from hrnet_jax.training.losses import LOSSES, PixelLoss
from hrnet_jax.training.optim import OPTIMIZERS
from tests.tiny_config import get_config


class LinearHead(nnx.Module):
    """A head of one convolution on the finest feature."""

    def __init__(self, channels, *, num_classes, rng):
        self.linear = Conv(channels[0], num_classes, kernel=1, bias=True, rng=rng)

    def __call__(self, features):
        return self.linear(features[0])


def squared_logits(logits, label, *, ignore_label, class_weights, reference):
    """A loss that pulls logits to zero."""
    return PixelLoss((logits**2).mean(), jnp.zeros(()))


def sign(schedule, *, momentum, weight_decay):
    """An optimiser that knows the sign of a gradient only."""
    return optax.chain(optax.sign_sgd(schedule), optax.add_decayed_weights(0.0))


@dataclasses.dataclass(frozen=True, kw_only=True)
class RandomInvert(grain.transforms.RandomMap):
    """Invert the colours of every second image."""

    def draw(self, rng):
        return rng.random() < 0.5

    def random_map(self, example, rng):
        image = 255 - example["image"] if self.draw(rng) else example["image"]
        return {**example, "image": image}


@pytest.fixture
def config(tiny_city):
    config = get_config()
    config.data.root = str(tiny_city)
    return config


def one_step(config):
    training = build_training(config)
    state = training.state(training.random)
    before = jax.device_get(state.params)
    shapes = training.batch_shape
    rng = np.random.default_rng(0)
    batch = {
        "image": rng.standard_normal(shapes["image"].shape, np.float32),
        "label": rng.integers(0, 19, shapes["label"].shape, np.uint8),
    }
    state, metrics = training.step(state, to_global(batch, mesh=training.mesh))
    return before, jax.device_get(state.params), metrics


def test_a_head_is_a_module_and_a_line(config, monkeypatch):
    monkeypatch.setitem(HEADS, "linear", LinearHead)
    config.model.head = "linear"
    before, after, metrics = one_step(config)
    assert set(after["decode_head"]) == {"linear"}
    kernel = after["decode_head"]["linear"]["kernel"]
    assert not np.array_equal(before["decode_head"]["linear"]["kernel"], kernel)
    assert bool(metrics.finite)


def test_a_loss_is_a_function_and_a_line(config, monkeypatch):
    monkeypatch.setitem(LOSSES, "squared", squared_logits)
    config.train.loss = "squared"
    before, after, metrics = one_step(config)
    assert 0 < float(metrics.loss) < 1
    assert float(metrics.accuracy) == 0
    bias = ("decode_head", "conv_seg", "kernel")
    one, other = (tree[bias[0]][bias[1]][bias[2]] for tree in (before, after))
    assert np.linalg.norm(other) < np.linalg.norm(one)


def test_an_optimiser_is_a_function_and_a_line(config, monkeypatch):
    monkeypatch.setitem(OPTIMIZERS, "sign", sign)
    config.optim.name, config.optim.lr = "sign", 0.25
    before, after, _ = one_step(config)
    moved = np.abs(after["decode_head"]["conv_seg"]["kernel"]
                   - before["decode_head"]["conv_seg"]["kernel"])  # fmt: skip
    np.testing.assert_allclose(moved, 0.25, rtol=1e-5)


def test_a_variant_is_a_line(config, monkeypatch):
    monkeypatch.setitem(VARIANTS, "wide", dataclasses.replace(VARIANTS["tiny"], width=6))
    config.model.variant = "wide"
    training = build_training(config)
    assert training.random.params["decode_head"]["conv_seg"]["kernel"].shape == (1, 1, 90, 19)


def test_an_augmentation_is_a_dataclass_and_a_line(config, monkeypatch, tmp_path):
    monkeypatch.setitem(AUGMENTATIONS, "invert", RandomInvert())
    plain = next(build_data(config, terminal=Terminal()).batches(0, workdir=tmp_path))
    config.train.augmentations = ("invert",)
    changed = next(build_data(config, terminal=Terminal()).batches(0, workdir=tmp_path))
    same = [np.array_equal(a, b) for a, b in zip(plain["image"], changed["image"], strict=True)]
    assert not all(same)
    np.testing.assert_array_equal(plain["id"], changed["id"])


def test_a_dataset_is_a_definition_and_a_line(config, monkeypatch):
    mine = dataclasses.replace(DATASETS["minicity"], name="mine")
    monkeypatch.setitem(DATASETS, "mine", mine)
    config.data.name = "mine"
    assert build_data(config, terminal=Terminal()).dataset == mine


def test_an_unknown_augmentation_is_named(config):
    config.train.augmentations = ("invert",)
    with pytest.raises(ValueError, match=r"no 'invert' in data.transforms.AUGMENTATIONS"):
        build_data(config, terminal=Terminal())


@pytest.mark.parametrize("field", ["model.head", "train.loss", "optim.name", "model.variant"])
def test_an_unknown_name_lists_the_known_ones(config, field):
    config.update_from_flattened_dict({field: "nothing"})
    with pytest.raises(ValueError, match=rf"config\.{field}='nothing' must be one of "):
        build_training(config)
