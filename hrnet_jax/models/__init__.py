"""The networks of the zoo, by the names their recipes use."""

import numpy as np

from hrnet_jax.models.heads.fcn import Segmentor
from hrnet_jax.models.hrnet import VARIANTS


def build(variant: str, *, num_classes: int, seed: int = 0) -> Segmentor:
    """A network with fresh weights, in evaluation mode.

    Args:
        variant: "hr18s", "hr18" or "hr48".
        num_classes: channels of the logits.
        seed: of the initial weights.
    """
    if variant not in VARIANTS:
        raise ValueError(f"There is no variant {variant!r}; use one of {', '.join(VARIANTS)}.")
    return Segmentor(VARIANTS[variant], num_classes=num_classes, rng=np.random.default_rng(seed))
