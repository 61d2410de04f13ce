"""The optimiser of the zoo: SGD with momentum under a polynomial decay."""

from typing import Literal

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

    That includes batch-norm scales and shifts and the classifier's bias, as in the reference.
    """
    return optax.chain(optax.add_decayed_weights(weight_decay), optax.sgd(schedule, momentum))
