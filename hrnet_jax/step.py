"""The train step: a pure function of state and batch."""

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.flatten_util import ravel_pytree
from jax.sharding import Mesh
from jax.typing import DTypeLike

from hrnet_jax.compiling import compiler_options
from hrnet_jax.losses import cross_entropy
from hrnet_jax.models.layers import at_least_float32, resize_bilinear
from hrnet_jax.models.rows import rows_over
from hrnet_jax.sharding import batch_sharding, replicated


class State(NamedTuple):
    """All that training changes: plain nested dicts of arrays, by the modules' names."""

    params: dict[str, Any]
    stats: dict[str, Any]  # running mean and variance of every batch normalisation
    optimizer: optax.OptState  # of all parameters as one vector


def initial_state(params: dict, stats: dict, optimizer: optax.GradientTransformation) -> State:
    """The state before the first step."""
    flat = jax.eval_shape(lambda params: ravel_pytree(params)[0], params)
    return State(params, stats, optimizer.init(jnp.zeros(flat.shape, flat.dtype)))


class Metrics(NamedTuple):
    """Of one step, as scalars on the device."""

    loss: jax.Array
    accuracy: jax.Array
    grad_norm: jax.Array
    finite: jax.Array  # whether the step changed anything


def split(model: nnx.Module) -> tuple[nnx.GraphDef, dict, dict]:
    """A model's structure, its parameters and its batch statistics."""
    # mypy cannot follow the overload of nnx.split that returns one state per filter.
    structure, params, stats = nnx.split(model, nnx.Param, nnx.BatchStat)  # type: ignore[misc]
    return structure, nnx.to_pure_dict(params), nnx.to_pure_dict(stats)


def make_train_step(
    structure: nnx.GraphDef,
    optimizer: optax.GradientTransformation,
    *,
    mesh: Mesh,
    dtype: DTypeLike,
    ignore_label: int,
    class_weights: Sequence[float] = (),
    reference: Literal["v0", "v1"] = "v0",
    accumulate: int = 1,
    remat: Literal["none", "block", "stage"] = "none",
) -> jax.stages.Wrapped:
    """Build (state, batch) -> (state, metrics), the batch split over the mesh, the state donated.

    The batch lies on the mesh by `batch_sharding`; `check_batch_size` and `check_height` in
    `sharding.py` say which sizes can.

    Args:
        structure: of the model, from `split`.
        optimizer: what turns gradients into updates.
        mesh: the devices that share each batch.
        dtype: of the forward and backward pass; parameters keep theirs.
        ignore_label: of pixels that have no class.
        class_weights: of the loss, one per class; empty: all 1.
        reference: whose accuracy is logged, see `cross_entropy`.
        accumulate: micro-batches, one after the other, whose gradients are averaged.
        remat: what is computed again for the backward pass instead of being kept.
    """

    def loss_fn(params: dict, stats: dict, batch: dict[str, jax.Array]):
        model = nnx.merge(structure, params, stats)
        model.train()
        model.set_attributes(remat=remat, raise_if_not_found=False)
        logits = at_least_float32(model(batch["image"].astype(dtype)))
        logits = resize_bilinear(logits, batch["label"].shape[1:])
        scores = cross_entropy(
            logits,
            batch["label"],
            ignore_label=ignore_label,
            class_weights=class_weights,
            reference=reference,
        )
        return scores.loss, (scores.accuracy, nnx.to_pure_dict(nnx.state(model, nnx.BatchStat)))

    def evaluated(params: dict, stats: dict, batch: dict[str, jax.Array]) -> _Evaluated:
        with rows_over(mesh):  # around the backward pass too, which is traced here
            (loss, (accuracy, stats)), grads = jax.value_and_grad(loss_fn, has_aux=True)(
                params, stats, batch
            )
        # As one vector: hundreds of small tensors would mean thousands of small kernels, which
        # took XLA longer to compile than the network.
        return _Evaluated(loss, accuracy, ravel_pytree(grads)[0], stats)

    def train_step(state: State, batch: dict[str, jax.Array]) -> tuple[State, Metrics]:
        if accumulate > 1:
            loss, accuracy, gradient, stats = _mean_over_micro_batches(
                evaluated, state, batch, count=accumulate
            )
        else:
            loss, accuracy, gradient, stats = evaluated(state.params, state.stats, batch)
        grad_norm = optax.tree.norm(gradient)
        weights, unravel = ravel_pytree(state.params)
        update, opt_state = optimizer.update(gradient, state.optimizer, weights)
        # The statistics need no look of their own: one that is infinite makes the loss NaN.
        finite = jnp.isfinite(loss) & jnp.isfinite(grad_norm) & jnp.isfinite(weights + update).all()
        # A step that is not finite adds -0.0, which changes no bit of any number.
        params = optax.apply_updates(state.params, unravel(jnp.where(finite, update, -0.0)))
        new = State(
            params,
            _keep_unless(finite, new=stats, old=state.stats),
            _keep_unless(finite, new=opt_state, old=state.optimizer),
        )
        return new, Metrics(loss, accuracy, grad_norm, finite)

    same = replicated(mesh)
    return jax.jit(
        train_step,
        in_shardings=(same, batch_sharding(mesh)),
        out_shardings=(same, same),
        donate_argnums=0,
        compiler_options=compiler_options(
            mesh.devices.flat[0].platform, saving_memory=accumulate > 1 or remat != "none"
        ),
    )


class _Evaluated(NamedTuple):
    """Loss and gradient of one batch at one point, and the statistics after it."""

    loss: jax.Array
    accuracy: jax.Array
    gradient: jax.Array  # of all parameters as one vector
    stats: dict[str, Any]


def _mean_over_micro_batches(
    evaluated: Callable[..., _Evaluated], state: State, batch: dict[str, jax.Array], *, count: int
) -> _Evaluated:
    """Average loss and gradient over `count` parts of a batch; statistics pass through them all.

    A part is every `count`-th image, so that each device finds its share among its own images,
    and the parts are the same on every mesh.
    """

    def add(sums: _Evaluated, part: jax.Array) -> tuple[_Evaluated, None]:
        images = {
            name: jax.lax.dynamic_index_in_dim(x, part, axis=1, keepdims=False)
            for name, x in parts.items()
        }
        one = evaluated(state.params, sums.stats, images)
        loss, accuracy, gradient = map(jnp.add, sums[:3], one[:3])
        return _Evaluated(loss, accuracy, gradient, one.stats), None

    parts = {name: x.reshape(-1, count, *x.shape[1:]) for name, x in batch.items()}
    weights, _ = ravel_pytree(state.params)
    zero = jnp.zeros((), weights.dtype)
    start = _Evaluated(zero, zero, jnp.zeros_like(weights), state.stats)
    sums, _ = jax.lax.scan(add, start, jnp.arange(count))
    loss, accuracy, gradient = (total / count for total in sums[:3])
    return _Evaluated(loss, accuracy, gradient, sums.stats)


def _keep_unless(finite: jax.Array, *, new: Any, old: Any) -> Any:
    """A step that is not finite changes nothing but the optimiser's count of steps."""

    def choose(fresh: jax.Array, kept: jax.Array) -> jax.Array:
        is_count = jnp.issubdtype(fresh.dtype, jnp.integer)
        return fresh if is_count else jnp.where(finite, fresh, kept)

    return jax.tree.map(choose, new, old)
