"""From images to label maps: functions of arrays."""

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Float, UInt8

from hrnet_jax.models.layers import at_least_float32, resize_bilinear


def whole(
    model: Callable[[Array], Array], image: Float[Array, "b h w 3"], *, size: tuple[int, ...]
) -> Float[Array, "b h2 w2 k"]:
    """Run the network on whole images; return logits at the original `size` (height, width).

    In two steps as the reference: to the network's input size, then to the original one. Going
    there at once changes the class of a few pixels.
    """
    logits = at_least_float32(model(image))
    return resize_bilinear(resize_bilinear(logits, image.shape[1:3]), size)


def label_map(logits: Float[Array, "b h w k"]) -> UInt8[Array, "b h w"]:
    """Take each pixel's class with the largest logit; the first one of equals."""
    return jnp.argmax(logits, -1).astype(jnp.uint8)
