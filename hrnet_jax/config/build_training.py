"""Builds training from a config: network, initial weights, optimiser, training step."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import Mesh
from jax.typing import DTypeLike
from ml_collections import ConfigDict

from hrnet_jax import models, zoo
from hrnet_jax.config.checks import validate
from hrnet_jax.config.custom_data import dataset_of
from hrnet_jax.data.types import IGNORE_LABEL
from hrnet_jax.interop.read import read_source
from hrnet_jax.interop.weights import Loaded, start_from
from hrnet_jax.parallel.compiling import set_precision
from hrnet_jax.parallel.mesh import check_batch_size, check_height, make_mesh, replicate
from hrnet_jax.runs.terminal import Terminal
from hrnet_jax.training.losses import LOSSES, Loss
from hrnet_jax.training.optim import OPTIMIZERS, partitioned, poly_schedule
from hrnet_jax.training.state import TrainState, initial_state
from hrnet_jax.training.step import make_train_step


@dataclasses.dataclass(frozen=True, kw_only=True)
class Training:
    """The network, the optimiser and the step of a training run."""

    structure: nnx.GraphDef  # the network without its arrays
    random: Loaded  # random weights of the config's seed
    dtype: DTypeLike  # of forward and backward pass
    optimizer: optax.GradientTransformation
    schedule: optax.Schedule  # of the learning rate
    mesh: Mesh
    step: jax.stages.Wrapped  # (state, batch) -> (state, metrics); donates the state
    batch_shape: dict[str, jax.ShapeDtypeStruct]  # of a global batch
    meta: dict[str, Any]  # of checkpoints

    @property
    def parameters(self) -> int:
        """Number of trained parameters."""
        return sum(leaf.size for leaf in jax.tree.leaves(self.random.params))

    def state(self, weights: Loaded) -> TrainState:
        """Build the state before the first step, on every device.

        Weights are float64 if the computation is, else float32.
        """
        return replicate(self._state(weights.params, weights.batch_stats), mesh=self.mesh)

    @property
    def state_shape(self) -> TrainState:
        """The shapes of a state, without its arrays."""
        return jax.eval_shape(self._state, self.random.params, self.random.batch_stats)

    def _state(self, params: dict, batch_stats: dict) -> TrainState:
        precise = jnp.promote_types(self.dtype, jnp.float32)
        params, batch_stats = jax.tree.map(lambda leaf: leaf.astype(precise), (params, batch_stats))
        return initial_state(params, batch_stats, optimizer=self.optimizer)


def build_training(config: ConfigDict, *, mesh: Mesh | None = None) -> Training:
    """Build the network, the optimiser and the training step; nothing is compiled or read.

    Args:
        config: all fields.
        mesh: None for all devices.

    Raises:
        ValueError: the config cannot work, or the mesh cannot split the batch or the crop equally.
    """
    validate(config)
    set_precision(config.model.dtype)
    train = config.train
    mesh = mesh or make_mesh(height=config.mesh.height)
    check_batch_size(
        train.batch_size, field="config.train.batch_size", mesh=mesh, accumulate=train.accumulate
    )
    check_height(train.crop_size[0], field="config.train.crop_size", mesh=mesh)
    structure, params, batch_stats = build_network(config)
    schedule = build_schedule(config, lr=config.optim.lr)
    optimizer = build_optimizer(config, schedule=schedule)
    optimizer.init(jax.eval_shape(lambda: params))  # refuses unknown modules to freeze
    dtype = jnp.dtype(config.model.dtype)
    size = (train.batch_size, *train.crop_size)
    return Training(
        structure=structure,
        random=Loaded(
            params=params, batch_stats=batch_stats, origin=f"random weights, seed {config.seed}"
        ),
        dtype=dtype,
        optimizer=optimizer,
        schedule=schedule,
        mesh=mesh,
        step=make_train_step(
            structure,
            optimizer,
            loss=build_loss(config),
            mesh=mesh,
            dtype=dtype,
            accumulate=train.accumulate,
            remat=train.remat,
            freeze=config.optim.freeze,
        ),
        batch_shape={
            "image": jax.ShapeDtypeStruct((*size, 3), jnp.float32),
            "label": jax.ShapeDtypeStruct(size, jnp.uint8),
        },
        meta=checkpoint_meta(config),
    )


def build_loss(config: ConfigDict) -> Loss:
    """Build the loss: (logits, labels) -> loss."""
    return functools.partial(
        LOSSES[config.train.loss],
        ignore_label=IGNORE_LABEL,
        class_weights=config.train.class_weights,
        reference=config.reference,
    )


def build_optimizer(
    config: ConfigDict, *, schedule: optax.Schedule
) -> optax.GradientTransformation:
    """Build the optimiser, with separate rates for backbone and head and with frozen modules."""
    optim = config.optim
    make = functools.partial(
        OPTIMIZERS[optim.name], momentum=optim.momentum, weight_decay=optim.weight_decay
    )
    head = None if optim.head_lr is None else make(build_schedule(config, lr=optim.head_lr))
    return partitioned(make(schedule), head=head, freeze=optim.freeze)


def build_schedule(config: ConfigDict, *, lr: float) -> optax.Schedule:
    """Build the schedule: step -> learning rate, starting at `lr`."""
    return poly_schedule(
        lr=lr,
        min_lr=config.optim.min_lr,
        power=config.optim.power,
        steps=config.train.steps,
        reference=config.reference,
    )


def build_network(config: ConfigDict) -> tuple[nnx.GraphDef, dict, dict]:
    """Build the network with random weights; return structure, parameters, batch statistics."""
    model = models.build(
        config.model.variant,
        num_classes=dataset_of(config).num_classes,
        head=config.model.head,
        seed=config.seed,
    )
    return models.split(model)


def first_weights(config: ConfigDict, *, random: Loaded, terminal: Terminal) -> Loaded:
    """Return the weights of a new run: those of `config.init_from`, else `random`.

    Raises:
        FileNotFoundError: the file or folder does not exist.
        ValueError: it does not fit the network.
    """
    if config.init_from:
        path = zoo.locate(config.init_from)
        with terminal.announced_if_remote(path):
            source = read_source(path)
        return start_from(
            source,
            random.params,
            random.batch_stats,
            variant=config.model.variant,
            classes=dataset_of(config).classes,
            head=config.init_head,
        )
    if config.data.name in zoo.DATASETS:
        terminal.warn(
            "training starts from random weights, but the published run started from the "
            f"ImageNet backbone {zoo.IMAGENET.get(config.model.variant, 'of this variant')}: "
            "expect a far lower mIoU, or give the file with --config.init_from=FILE."
        )
    return random


def checkpoint_meta(config: ConfigDict) -> dict[str, Any]:
    """Return what a checkpoint must hold so that prediction needs no config."""
    dataset = dataset_of(config)
    return {
        "variant": config.model.variant,
        "head": config.model.head,
        "dataset": dataset.name,
        "classes": dataset.classes,
        "palette": dataset.palette,
        "mean": config.data.mean,
        "std": config.data.std,
        "config": config.to_dict(),
    }
