"""The training step: a pure function of state and batch."""

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.flatten_util import ravel_pytree
from jax.sharding import Mesh
from jax.typing import DTypeLike

from hrnet_jax import ops
from hrnet_jax.parallel.compiling import compiler_options
from hrnet_jax.parallel.mesh import batch_sharding, replicated
from hrnet_jax.training.losses import Loss
from hrnet_jax.training.optim import dotted, is_within
from hrnet_jax.training.state import TrainState

Images = dict[str, jax.Array]  # {"image": [b h w 3], "label": [b h w]}


class Metrics(NamedTuple):
    """Scalars of one step, on the device."""

    loss: jax.Array
    accuracy: jax.Array
    grad_norm: jax.Array
    finite: jax.Array  # False: the update was skipped


class LossAndGrads(NamedTuple):
    """Result of one forward and backward pass."""

    loss: jax.Array
    accuracy: jax.Array
    grads: dict[str, Any]
    batch_stats: dict[str, Any]  # with the updated running averages


def make_train_step(
    structure: nnx.GraphDef,
    optimizer: optax.GradientTransformation,
    *,
    loss: Loss,
    mesh: Mesh,
    dtype: DTypeLike,
    accumulate: int = 1,
    remat: Literal["none", "block", "stage"] = "none",
    freeze: Sequence[str] = (),
) -> jax.stages.Wrapped:
    """Build the jitted function (state, batch) -> (state, metrics). It donates the state.

    The batch is sharded by `batch_sharding`; `check_batch_size` and `check_height` in
    `parallel/mesh.py` check that its size allows that.

    Args:
        structure: structure of the model, from `models.split`.
        optimizer: optax transformation from gradients to updates.
        loss: function of logits and labels.
        mesh: devices that share each batch.
        dtype: dtype of the forward and backward pass; parameters keep their own.
        accumulate: number of micro-batches whose gradients are averaged, one after the other.
        remat: which activations are recomputed in the backward pass; see `HRNet`.
        freeze: modules without gradients, whose batch statistics do not change either; see
            `optim.partitioned`.
    """
    loss_and_grads = _loss_and_grads(
        structure, loss, mesh=mesh, dtype=dtype, remat=remat, freeze=freeze
    )

    def train_step(state: TrainState, batch: Images) -> tuple[TrainState, Metrics]:
        if accumulate > 1:
            result = _mean_over_micro_batches(loss_and_grads, state, batch, count=accumulate)
        else:
            result = loss_and_grads(state.params, state.batch_stats, batch)
        return _update(state, result, optimizer)

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


def _loss_and_grads(
    structure: nnx.GraphDef,
    loss: Loss,
    *,
    mesh: Mesh,
    dtype: DTypeLike,
    remat: str,
    freeze: Sequence[str],
) -> Callable[[dict, dict, Images], LossAndGrads]:
    """Build (params, batch_stats, batch) -> LossAndGrads."""
    form = ops.form_on(mesh)

    def loss_of(params: dict, batch_stats: dict, batch: Images):
        model = nnx.merge(structure, _without_gradient(params, freeze), batch_stats)
        _set_train_mode(model, freeze)
        model.set_attributes(remat=remat, raise_if_not_found=False)
        with ops.use(form):
            logits = ops.at_least_float32(model(batch["image"].astype(dtype)))
            logits = ops.resize(logits, batch["label"].shape[1:])
        result = loss(logits, batch["label"])
        new_batch_stats = nnx.to_pure_dict(nnx.state(model, nnx.BatchStat))
        return result.loss, (result.accuracy, new_batch_stats)

    def loss_and_grads(params: dict, batch_stats: dict, batch: Images) -> LossAndGrads:
        (value, (accuracy, new_batch_stats)), grads = jax.value_and_grad(loss_of, has_aux=True)(
            params, batch_stats, batch
        )
        return LossAndGrads(value, accuracy, grads, new_batch_stats)

    return loss_and_grads


def _without_gradient(params: dict, freeze: Sequence[str]) -> dict:
    """Let frozen parameters have gradient 0, for which nothing is kept or computed."""

    def stop(path: Any, leaf: jax.Array) -> jax.Array:
        return jax.lax.stop_gradient(leaf) if is_within(dotted(path), freeze) else leaf

    return jax.tree_util.tree_map_with_path(stop, params)


def _set_train_mode(model: nnx.Module, freeze: Sequence[str]) -> None:
    """Normalise by batch statistics, but in frozen modules by running statistics."""
    model.train()
    for path, module in nnx.iter_modules(model):
        if is_within(".".join(map(str, path)), freeze):
            module.eval()


def _mean_over_micro_batches(
    loss_and_grads: Callable[..., LossAndGrads], state: TrainState, batch: Images, *, count: int
) -> LossAndGrads:
    """Average loss and gradients over `count` micro-batches; each updates the running statistics.

    A micro-batch is every `count`-th image, so each device reads its own images only, and the
    micro-batches are the same on every mesh.
    """

    def add(sums: LossAndGrads, part: jax.Array) -> tuple[LossAndGrads, None]:
        images = {
            name: jax.lax.dynamic_index_in_dim(x, part, axis=1, keepdims=False)
            for name, x in parts.items()
        }
        result = loss_and_grads(state.params, sums.batch_stats, images)
        loss, accuracy, grads = jax.tree.map(jnp.add, sums[:3], result[:3])
        return LossAndGrads(loss, accuracy, grads, result.batch_stats), None

    parts = {name: x.reshape(-1, count, *x.shape[1:]) for name, x in batch.items()}
    first = jax.tree.leaves(state.params)[0]
    zero = jnp.zeros((), first.dtype)
    zeros = jax.tree.map(jnp.zeros_like, state.params)
    sums, _ = jax.lax.scan(
        add, LossAndGrads(zero, zero, zeros, state.batch_stats), jnp.arange(count)
    )
    loss, accuracy, grads = jax.tree.map(lambda total: total / count, sums[:3])
    return LossAndGrads(loss, accuracy, grads, sums.batch_stats)


def _update(
    state: TrainState, result: LossAndGrads, optimizer: optax.GradientTransformation
) -> tuple[TrainState, Metrics]:
    """Apply a step; if anything in it is not finite, advance only the integer counters."""
    # As one vector each, because hundreds of small sums take longer to compile than the network.
    grads, _ = ravel_pytree(result.grads)
    batch_stats, _ = ravel_pytree(result.batch_stats)
    grad_norm = jnp.linalg.norm(grads)
    finite = jnp.isfinite(result.loss) & jnp.isfinite(grad_norm) & jnp.isfinite(batch_stats).all()

    def keep(new: jax.Array, old: jax.Array) -> jax.Array:
        is_counter = jnp.issubdtype(new.dtype, jnp.integer)
        return new if is_counter else jnp.where(finite, new, old)

    updates, opt_state = optimizer.update(result.grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    new = TrainState(
        step=state.step + 1,
        params=jax.tree.map(keep, params, state.params),
        batch_stats=jax.tree.map(keep, result.batch_stats, state.batch_stats),
        opt_state=jax.tree.map(keep, opt_state, state.opt_state),
    )
    return new, Metrics(result.loss, result.accuracy, grad_norm, finite)
