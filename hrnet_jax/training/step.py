"""The train step: a pure function of state and batch."""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh
from jax.typing import DTypeLike

from hrnet_jax.models.layers import at_least_float32, resize_bilinear
from hrnet_jax.ops.rows import rows_over
from hrnet_jax.parallel import compiling
from hrnet_jax.parallel.mesh import batch_sharding, replicated
from hrnet_jax.training.losses import cross_entropy


@dataclasses.dataclass(frozen=True)
class Layout:
    """Which tensors lie one after the other in a vector, and where they belong in a tree."""

    tree: jax.tree_util.PyTreeDef
    shapes: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, tree: Any) -> "Layout":
        """That of a tree of arrays."""
        leaves, structure = jax.tree.flatten(tree)
        return cls(structure, tuple(leaf.shape for leaf in leaves))

    def join(self, tree: Any) -> Any:
        """Put the tensors of a tree into one vector; of numpy if they are."""
        leaves = jax.tree.leaves(tree)
        kind = np if all(isinstance(leaf, np.ndarray) for leaf in leaves) else jnp
        return kind.concatenate([leaf.reshape(-1) for leaf in leaves])

    def part(self, vector: Any) -> dict[str, Any]:
        """The tensors of a vector, by the modules' names; views of it if it is of numpy."""
        ends = np.cumsum([math.prod(shape) for shape in self.shapes])[:-1].tolist()
        split: Callable = np.split if isinstance(vector, np.ndarray) else compiling.split_vector
        parts = split(vector, ends)
        tensors = [part.reshape(shape) for part, shape in zip(parts, self.shapes, strict=True)]
        return jax.tree.unflatten(self.tree, tensors)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class State:
    """All that training changes, as vectors.

    Hundreds of small tensors would mean thousands of small kernels, which took XLA longer to
    compile than the network; and a call took 10 us for each.
    """

    weights: Any  # [p], all parameters one after the other
    running: Any  # [s], mean and variance of every batch normalisation
    optimizer: optax.OptState
    layouts: tuple[Layout, Layout] = dataclasses.field(metadata={"static": True})

    @property
    def params(self) -> dict[str, Any]:
        """All parameters as numpy arrays, by the modules' names."""
        return self.layouts[0].part(jax.device_get(self.weights))

    @property
    def stats(self) -> dict[str, Any]:
        """All running statistics as numpy arrays, by the modules' names."""
        return self.layouts[1].part(jax.device_get(self.running))


def initial_state(params: dict, stats: dict, optimizer: optax.GradientTransformation) -> State:
    """The state before the first step."""
    layouts = Layout.of(params), Layout.of(stats)
    weights = layouts[0].join(params)
    return State(weights, layouts[1].join(stats), optimizer.init(weights), layouts)


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
    `parallel/mesh.py` say which sizes can.

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
    criterion = functools.partial(
        cross_entropy,
        ignore_label=ignore_label,
        class_weights=class_weights,
        reference=reference,
    )
    evaluated = _evaluated_by(structure, criterion, mesh=mesh, dtype=dtype, remat=remat)

    def train_step(state: State, batch: dict[str, jax.Array]) -> tuple[State, Metrics]:
        if accumulate > 1:
            found = _mean_over_micro_batches(evaluated, state, batch, count=accumulate)
        else:
            found = evaluated(state, state.running, batch)
        return _updated(state, found, optimizer)

    same = replicated(mesh)
    return jax.jit(
        train_step,
        in_shardings=(same, batch_sharding(mesh)),
        out_shardings=(same, same),
        donate_argnums=0,
        compiler_options=compiling.compiler_options(
            mesh.devices.flat[0].platform, saving_memory=accumulate > 1 or remat != "none"
        ),
    )


class _Evaluated(NamedTuple):
    """Loss and gradient of one batch at one point, and the statistics after it."""

    loss: jax.Array
    accuracy: jax.Array
    gradient: jax.Array  # [p]
    running: jax.Array  # [s], the statistics after it


def _evaluated_by(
    structure: nnx.GraphDef, criterion: Callable, *, mesh: Mesh, dtype: DTypeLike, remat: str
) -> Callable[[State, jax.Array, dict[str, jax.Array]], _Evaluated]:
    """Build (state, running statistics, batch) -> what one pass forwards and backwards finds."""

    def loss_fn(params: dict, stats: dict, batch: dict[str, jax.Array]):
        model = nnx.merge(structure, params, stats)
        model.train()
        model.set_attributes(remat=remat, raise_if_not_found=False)
        logits = at_least_float32(model(batch["image"].astype(dtype)))
        logits = resize_bilinear(logits, batch["label"].shape[1:])
        scores = criterion(logits, batch["label"])
        return scores.loss, (scores.accuracy, nnx.to_pure_dict(nnx.state(model, nnx.BatchStat)))

    def evaluated(state: State, running: jax.Array, batch: dict[str, jax.Array]) -> _Evaluated:
        of_weights, of_running = state.layouts
        params, stats = of_weights.part(state.weights), of_running.part(running)
        with rows_over(mesh):  # around the backward pass too, which is traced here
            (loss, (accuracy, stats)), grads = jax.value_and_grad(loss_fn, has_aux=True)(
                params, stats, batch
            )
        return _Evaluated(loss, accuracy, of_weights.join(grads), of_running.join(stats))

    return evaluated


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
        one = evaluated(state, sums.running, images)
        loss, accuracy, gradient = map(jnp.add, sums[:3], one[:3])
        return _Evaluated(loss, accuracy, gradient, one.running), None

    parts = {name: x.reshape(-1, count, *x.shape[1:]) for name, x in batch.items()}
    zero = jnp.zeros((), state.weights.dtype)
    start = _Evaluated(zero, zero, jnp.zeros_like(state.weights), state.running)
    sums, _ = jax.lax.scan(add, start, jnp.arange(count))
    loss, accuracy, gradient = (total / count for total in sums[:3])
    return _Evaluated(loss, accuracy, gradient, sums.running)


def _updated(
    state: State, found: _Evaluated, optimizer: optax.GradientTransformation
) -> tuple[State, Metrics]:
    """The state after a step, unless the step is not finite.

    Such a step changes nothing but the optimiser's count of steps.
    """
    grad_norm = optax.tree.norm(found.gradient)
    update, opt_state = optimizer.update(found.gradient, state.optimizer, state.weights)
    weights = state.weights + update
    # The statistics need no look of their own: one that is infinite makes the loss NaN.
    finite = jnp.isfinite(found.loss) & jnp.isfinite(grad_norm) & jnp.isfinite(weights).all()
    keep = functools.partial(_keep_unless, finite)
    new = State(
        keep(weights, state.weights),
        keep(found.running, state.running),
        jax.tree.map(keep, opt_state, state.optimizer),
        state.layouts,
    )
    return new, Metrics(found.loss, found.accuracy, grad_norm, finite)


def _keep_unless(finite: jax.Array, new: jax.Array, old: jax.Array) -> jax.Array:
    is_count = jnp.issubdtype(new.dtype, jnp.integer)
    return new if is_count else jnp.where(finite, new, old)
