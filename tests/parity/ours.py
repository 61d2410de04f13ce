"""The same computations as in `worker.py`, with this package."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from hrnet_jax import models, ops
from hrnet_jax.interop.keys import torch_state_dict
from hrnet_jax.models import split
from hrnet_jax.parallel.compiling import inference_options
from hrnet_jax.parallel.mesh import make_mesh
from hrnet_jax.training.losses import cross_entropy
from hrnet_jax.training.optim import poly_schedule, sgd
from hrnet_jax.training.state import initial_state
from hrnet_jax.training.step import make_train_step

Arrays = dict[str, np.ndarray]
TRAINING = (64, 96)  # crops
BACKWARD = (128, 192)
BATCH = 2


def nhwc(image: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(np.moveaxis(image, -3, -1))


def one_device() -> jax.sharding.Mesh:
    return make_mesh(devices=jax.devices()[:1])


def cast(tree: Any, dtype: str) -> Any:
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), tree)


def logits(weights: Any, image: np.ndarray, dtype: str) -> np.ndarray:
    """Stride-4 logits [1 k h w] of an image [1 3 h w]."""
    structure, _, _ = split(
        models.build(weights.meta["variant"], num_classes=len(weights.meta["classes"]))
    )

    @jax.jit
    def forward(params, batch_stats, image):
        with ops.use(ops.CPU):
            return nnx.merge(structure, params, batch_stats)(image)

    with jax.enable_x64(True):
        arguments = cast((weights.params, weights.batch_stats, nhwc(image)), dtype)
        program = forward.lower(*arguments).compile(inference_options(image.shape[2:]))
        return np.moveaxis(np.asarray(program(*arguments)), -1, 1)


def logits_in_two_programs(weights: list, image: np.ndarray, dtype: str) -> list[np.ndarray]:
    """The same for networks that share a backbone, which is compiled once, with several heads."""
    results: list[np.ndarray] = []
    with jax.enable_x64(True):
        features = None
        for each in weights:
            structure, _, _ = split(
                models.build(each.meta["variant"], num_classes=len(each.meta["classes"]))
            )
            params, batch_stats = cast((each.params, each.batch_stats), dtype)
            model = nnx.merge(structure, params, batch_stats)
            if features is None:
                graph, state = nnx.split(model.backbone)

                def run(state: nnx.State, x: jax.Array, graph: Any = graph) -> list[jax.Array]:
                    with ops.use(ops.CPU):
                        return nnx.merge(graph, state)(x)

                pixels = jnp.asarray(nhwc(image), dtype)
                options = inference_options(pixels.shape[1:3])
                features = jax.jit(run, compiler_options=options)(state, pixels)
            results.append(np.moveaxis(np.asarray(model.decode_head(features)), -1, 1))
    return results


def backward(weights: Any, dtype: str) -> Callable[[Arrays], Arrays]:
    """Compile the train step as a function from a batch to its loss and gradients by key."""

    def keep_gradient() -> optax.GradientTransformation:
        """An optimiser that changes nothing and keeps the gradient as its state."""
        return optax.GradientTransformation(
            optax.tree.zeros_like,
            lambda gradient, state, params=None: (optax.tree.zeros_like(gradient), gradient),
        )

    with jax.enable_x64(True):
        step, first = train_step(weights, keep_gradient(), dtype, crop=BACKWARD)

    def of(batch: Arrays) -> Arrays:
        with jax.enable_x64(True):
            state, metrics = step(jax.tree.map(jnp.copy, first), device_batch(batch))
            named = torch_state_dict(jax.device_get(state.opt_state), {})
            return {"loss": np.asarray(metrics.loss), **named}

    return of


def train(weights: Any, batches: Arrays, *, total: int, snapshots: list[int]) -> Arrays:
    """As the worker's `train`."""
    schedule = poly_schedule(lr=0.01, min_lr=1e-4, power=0.9, steps=total, reference="v1")
    results: dict[str, Any] = {"loss": [], "accuracy": [], "lr": []}
    with jax.enable_x64(True):
        optimizer = sgd(schedule, momentum=0.9, weight_decay=5e-4)
        step, state = train_step(weights, optimizer, "float64", crop=TRAINING)
        for index in range(max(snapshots)):
            batch = {name: batches[name][index] for name in ("image", "label")}
            results["lr"].append(float(schedule(index)))
            state, metrics = step(state, device_batch(batch))
            results["loss"].append(float(metrics.loss))
            results["accuracy"].append(float(metrics.accuracy))
            if index + 1 in snapshots:
                named = torch_state_dict(*jax.device_get((state.params, state.batch_stats)))
                results |= {f"{index + 1} {key}": value for key, value in named.items()}
    return {name: np.asarray(value) for name, value in results.items()}


def train_step(
    weights: Any, optimizer: optax.GradientTransformation, dtype: str, *, crop: tuple[int, int]
):
    """The compiled training step, and the state it starts from."""
    model = models.build(weights.meta["variant"], num_classes=len(weights.meta["classes"]))
    program = make_train_step(
        split(model)[0],
        optimizer,
        mesh=one_device(),
        dtype=jnp.dtype(dtype),
        loss=functools.partial(cross_entropy, ignore_label=255, reference="v1"),
    )
    params, batch_stats = cast((weights.params, weights.batch_stats), dtype)
    state = initial_state(params, batch_stats, optimizer=optimizer)
    shapes = {
        "image": jax.ShapeDtypeStruct((BATCH, *crop, 3), jnp.float32),
        "label": jax.ShapeDtypeStruct((BATCH, *crop), jnp.uint8),
    }
    return program.lower(state, shapes).compile(), state


def device_batch(batch: Arrays) -> dict[str, jax.Array]:
    return {"image": jnp.asarray(nhwc(batch["image"])), "label": jnp.asarray(batch["label"])}
