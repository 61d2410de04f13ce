"""Optimisers and their learning rates; the zoo uses SGD under a polynomial decay."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax


def poly_schedule(
    *, lr: float, min_lr: float, power: float, steps: int, reference: Literal["v0", "v1"]
) -> optax.Schedule:
    """Decay from `lr` by (1 - step / N) ** power towards `min_lr`.

    N is `steps` in v0, so that the last step is still above `min_lr`; v1 divides by steps - 1
    and reaches it.
    """
    denominator = steps if reference == "v0" else max(steps - 1, 1)

    def schedule(step: jax.typing.ArrayLike) -> jax.Array:
        # Compiled, the quotient is a product with the reciprocal, which may exceed 1 at the last
        # step; optax's own polynomial then takes a power of a negative number, which is NaN.
        # And an int32 divided by a number is float32, even where float64 is enabled.
        left = jnp.maximum(1 - jnp.asarray(step, float) / denominator, 0)
        return (lr - min_lr) * left**power + min_lr

    return schedule


def sgd(
    schedule: optax.Schedule, *, momentum: float, weight_decay: float
) -> optax.GradientTransformation:
    """PyTorch's SGD: the decay joins the gradient before momentum, on every parameter.

    That includes batch-norm scales and shifts and the classifier's bias, as in the original.
    """
    return optax.chain(optax.add_decayed_weights(weight_decay), optax.sgd(schedule, momentum))


def adamw(
    schedule: optax.Schedule, *, momentum: float, weight_decay: float
) -> optax.GradientTransformation:
    """AdamW, whose first moment decays by `momentum`; kernels decay, scales and biases do not."""

    def kernels(params: Any) -> Any:
        return jax.tree.map(lambda leaf: leaf.ndim > 1, params)

    return optax.adamw(schedule, b1=momentum, weight_decay=weight_decay, mask=kernels)


# (schedule, momentum=, weight_decay=) -> what turns gradients into updates
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
    """Let the head learn by its own optimiser, and frozen modules not at all.

    Args:
        backbone: the optimiser of all other parameters.
        head: of the parameters below `decode_head`; None: the same as all others.
        freeze: dotted names of modules, such as "backbone" or "backbone.stage2".

    Raises:
        ValueError: when it meets the parameters, for a module that has none, or if all are frozen.
    """
    if head is None and not freeze:
        return backbone

    def labels(params: Any) -> Any:
        for name in freeze:
            if not any(is_below(path, [name]) for path, _ in _named(params)):
                raise ValueError(
                    f"config.optim.freeze={name!r} is no module of this network; its modules are "
                    f"{', '.join(params)}, and those in them, such as backbone.stage2."
                )
        if all(is_below(path, freeze) for path, _ in _named(params)):
            raise ValueError(
                f"config.optim.freeze={tuple(freeze)} leaves nothing to learn; name fewer modules."
            )
        return jax.tree_util.tree_map_with_path(lambda path, _: label_of(dotted(path)), params)

    def label_of(path: str) -> str:
        if is_below(path, freeze):
            return "frozen"
        return "head" if head is not None and is_below(path, ["decode_head"]) else "backbone"

    return optax.partition(
        {"backbone": backbone, "head": head or backbone, "frozen": optax.set_to_zero()}, labels
    )


def dotted(path: Any) -> str:
    """The name of a leaf of a tree: "backbone.conv1.kernel"."""
    return jax.tree_util.keystr(path, simple=True, separator=".")


def _named(tree: Any) -> list[tuple[str, Any]]:
    return [(dotted(path), leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)]


def is_below(path: str, modules: Sequence[str]) -> bool:
    """Whether a dotted name is that of one of the modules, or of something in it."""
    return any(path == module or path.startswith(f"{module}.") for module in modules)
