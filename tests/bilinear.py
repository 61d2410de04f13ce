"""A bilinear resize as a matrix: the reference for every other form."""

import numpy as np

from hrnet_jax.ops import bilinear_taps


def matrix(size_in, size_out):
    """One bilinear step, [size_out size_in]."""
    lower, upper, fraction = bilinear_taps(size_in, size_out)
    result = np.zeros((size_out, size_in))
    np.add.at(result, (np.arange(size_out), lower), 1 - fraction)
    np.add.at(result, (np.arange(size_out), upper), fraction)
    return result
