"""The order of the training examples, and the number of steps per epoch.

The example at a position is a pure function of seed and position. So a run resumed at any step, on
any number of hosts and workers, sees the same examples as an uninterrupted run.
"""

import functools
from typing import Literal

import numpy as np
from jaxtyping import Int

Reference = Literal["v0", "v1"]

REFERENCE_GPUS = 4  # in every published run


def example_index(
    position: int,  # step * batch_size + place within the global batch
    *,
    num_examples: int,
    batch_size: int,  # over all hosts
    seed: int,
    reference: Reference,
) -> int:
    """Return the index of the example at a position of the endless training stream.

    "v1" (mmsegmentation 1.x) concatenates one permutation per epoch. "v0" (0.x, as in the published
    runs) pads each permutation to a multiple of 4 (their GPUs) with its own beginning, and drops
    the last, incomplete batch. A split too small for one full batch follows "v1".
    """
    length = _epoch_length(num_examples, batch_size=batch_size, reference=reference)
    epoch, place = divmod(position, length)
    return int(_permutation(num_examples, seed=seed, epoch=epoch)[place % num_examples])


# Cached, because every position needs it; two epochs are in use when threads read ahead. Grain's
# shuffle needs no memory, but takes 2 ms per index for 20 examples, and cannot pad an epoch.
@functools.lru_cache(maxsize=4)
def _permutation(num_examples: int, *, seed: int, epoch: int) -> Int[np.ndarray, " n"]:
    return np.random.default_rng((seed, epoch)).permutation(num_examples)


def steps_per_epoch(*, num_examples: int, batch_size: int, reference: Reference) -> float:
    """Return the steps of one pass over the split; a whole number if batches are dropped."""
    return _epoch_length(num_examples, batch_size=batch_size, reference=reference) / batch_size


def _epoch_length(num_examples: int, *, batch_size: int, reference: Reference) -> int:
    if reference == "v1":
        return num_examples
    padded = -(-num_examples // REFERENCE_GPUS) * REFERENCE_GPUS
    return padded // batch_size * batch_size or num_examples
