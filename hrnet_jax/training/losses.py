"""Losses, under the names that recipes use. The zoo uses one."""

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Integer

from hrnet_jax.ops import at_least_float32


class PixelLoss(NamedTuple):
    """Loss and accuracy of one batch."""

    loss: Float[Array, ""]
    accuracy: Float[Array, ""]  # fraction of correct pixels, for the log only


Loss = Callable[[Array, Array], PixelLoss]  # logits [b h w k], label [b h w]


def cross_entropy(
    logits: Float[Array, "b h w k"],
    label: Integer[Array, "b h w"],
    *,
    ignore_label: int,
    class_weights: Sequence[float] = (),
    reference: Literal["v0", "v1"] = "v0",
) -> PixelLoss:
    """Softmax cross-entropy, averaged over *all* pixels; ignored ones count with loss 0.

    This is the reference's `avg_non_ignore=False`: an image half covered by the ignored label has
    half the gradient. The accuracy divides by all pixels in v0, and by the pixels that are not
    ignored in v1. `class_weights` multiply the loss of each pixel by the weight of its class (1 by
    default) without changing the denominator.
    """
    logits = at_least_float32(logits)
    valid = label != ignore_label
    shifted = logits - jax.lax.stop_gradient(logits.max(-1, keepdims=True))
    # A masked sum instead of a gather, whose gradient would be a slow scatter.
    classes = jax.lax.broadcasted_iota(label.dtype, logits.shape, 3)
    picked = jnp.where(classes == label[..., None], shifted, 0).sum(-1)
    pixel_loss = jnp.where(valid, jnp.log(jnp.exp(shifted).sum(-1)) - picked, 0)
    if class_weights:
        weights = jnp.asarray(class_weights, logits.dtype)
        pixel_loss = pixel_loss * jnp.where(classes == label[..., None], weights, 0).sum(-1)
    correct = (valid & (picked == 0)).sum()  # the label's logit is the largest
    counted = label.size if reference == "v0" else jnp.maximum(valid.sum(), 1)
    # v1 adds float32's epsilon, which makes a difference in float64.
    pixels = label.size + (0 if reference == "v0" else float(jnp.finfo(jnp.float32).eps))
    return PixelLoss(pixel_loss.sum() / pixels, (correct / counted).astype(logits.dtype))


# (logits, label, ignore_label=, class_weights=, reference=) -> PixelLoss
LOSSES: dict[str, Callable[..., PixelLoss]] = {
    "cross_entropy": cross_entropy,
}
