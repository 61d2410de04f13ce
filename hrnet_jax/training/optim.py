"""Optimisers and learning-rate schedules. The zoo uses SGD with polynomial decay."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax


def poly_schedule(
    *, lr: float, min_lr: float, power: float, steps: int, reference: Literal["v0", "v1"]
) -> optax.Schedule:
    """Decay from `lr` to `min_lr` by (1 - step / N) ** power.

    N is `steps` in v0, where the last step is still above `min_lr`, and steps - 1 in v1, where it
    reaches `min_lr`.
    """
    denominator = steps if reference == "v0" else max(steps - 1, 1)

    def schedule(step: jax.typing.ArrayLike) -> jax.Array:
        # XLA compiles the quotient to a product with the reciprocal, which may exceed 1 at the last
        # step; optax's polynomial schedule would then take a power of a negative number, which is
        # NaN. The cast is needed since int32 / float is float32 even if float64 is enabled.
        left = jnp.maximum(1 - jnp.asarray(step, float) / denominator, 0)
        return (lr - min_lr) * left**power + min_lr

    return schedule


def sgd(
    schedule: optax.Schedule, *, momentum: float, weight_decay: float
) -> optax.GradientTransformation:
    """PyTorch's SGD: weight decay is added to the gradient before momentum.

    It applies to every parameter, batch-norm scales and biases included, as in the original.
    """
    return optax.chain(optax.add_decayed_weights(weight_decay), optax.sgd(schedule, momentum))


def adamw(
    schedule: optax.Schedule, *, momentum: float, weight_decay: float
) -> optax.GradientTransformation:
    """AdamW with b1 = `momentum`; weight decay applies to kernels, not to scales and biases."""

    def kernels(params: Any) -> Any:
        return jax.tree.map(lambda leaf: leaf.ndim > 1, params)

    return optax.adamw(schedule, b1=momentum, weight_decay=weight_decay, mask=kernels)


# (schedule, momentum=, weight_decay=) -> optax transformation
OPTIMIZERS: dict[str, Callable[..., optax.GradientTransformation]] = {
    "sgd": sgd,
    "adamw": adamw,
}


def partitioned(
    backbone: optax.GradientTransformation,
    *,
    head: optax.GradientTransformation | None = None,
    freeze: Sequence[str] = (),
) -> optax.GradientTransformation:
    """Train the head with its own optimiser, and frozen modules not at all.

    Args:
        backbone: optimiser of all parameters outside the head.
        head: optimiser of the parameters below `decode_head`; None: the same one.
        freeze: dotted names of modules, such as "backbone" or "backbone.stage2".

    Raises:
        ValueError: from `init` or `update`, if a frozen module does not exist, or all are frozen.
    """
    if head is None and not freeze:
        return backbone

    def labels(params: Any) -> Any:
        names = [dotted(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
        for module in freeze:
            if not any(is_within(name, [module]) for name in names):
                raise ValueError(
                    f"config.optim.freeze={module!r} is no module of this network; its modules are "
                    f"{', '.join(params)}, and the modules in these, such as backbone.stage2."
                )
        if all(is_within(name, freeze) for name in names):
            raise ValueError(
                f"config.optim.freeze={tuple(freeze)} leaves nothing to learn; name fewer modules."
            )
        return jax.tree_util.tree_map_with_path(lambda path, _: label_of(dotted(path)), params)

    def label_of(name: str) -> str:
        if is_within(name, freeze):
            return "frozen"
        has_own = head is not None and is_within(name, ["decode_head"])
        return "head" if has_own else "backbone"

    return optax.partition(
        {"backbone": backbone, "head": head or backbone, "frozen": optax.set_to_zero()}, labels
    )


def dotted(path: Any) -> str:
    """The name of a leaf of a tree: "backbone.conv1.kernel"."""
    return jax.tree_util.keystr(path, simple=True, separator=".")


def is_within(name: str, modules: Iterable[str]) -> bool:
    """Whether a dotted name is one of the modules, or lies in one."""
    return any(f"{name}.".startswith(f"{module}.") for module in modules)
