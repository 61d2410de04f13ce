"""Images of different sizes in one compiled program.

Each image lies in the top left corner of a larger rectangle, the bucket, and its true size is an
input of the program. Within the true size the result equals the result for the image alone: before
every padded convolution, activations beyond the image's border are set to zero, as padding would
be, and every upsampling is clamped at that border.

    with ops.use(ops.ragged(form, bucket=bucket, sizes=sizes)):
        logits = model(images)
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int32

from hrnet_jax.ops.reference import Form, Padding


def ragged(form: Form, *, bucket: tuple[int, int], sizes: Int32[Array, "b 2"]) -> Form:
    """Return `form` for images that fill only `sizes` (height, width) of their bucket.

    Both sides of the bucket are multiples of 32, the stride of the coarsest branch. For evaluation
    only: batch statistics and resizing to arbitrary sizes would see the padding.
    """
    assert all(side % 32 == 0 for side in bucket), f"a bucket of {bucket}"
    inside = _TrueSizes(form, bucket, sizes)
    return dataclasses.replace(
        form, conv=inside.conv, upsample=inside.upsample, resize=_refuse, batch_norm=_refuse
    )


def _refuse(*_: Any, **__: Any) -> Any:
    raise ValueError("Images of different sizes in one program are for evaluation, not training.")


class _TrueSizes:
    """The true sizes of a batch at every stride; the stride follows from an array's shape."""

    def __init__(self, form: Form, bucket: tuple[int, int], sizes: Int32[Array, "b 2"]):
        self._form, self._bucket, self._sizes = form, bucket, sizes
        self._band = functools.cache(self._make_band)  # shared by all modules of a stage

    def conv(
        self, x: Float[Array, "b h w i"], kernel: Array, *, stride: int, padding: Padding
    ) -> Float[Array, "b h2 w2 o"]:
        if kernel.shape[0] > 1:
            # `where` instead of a product: values beyond the border may be NaN.
            x = jnp.where(self._inside(*x.shape[1:3]), x, jnp.zeros((), x.dtype))
        return self._form.conv(x, kernel, stride=stride, padding=padding)

    def upsample(
        self, x: Float[Array, "b h w c"], size: tuple[int, ...], *, factor: int, in_two_steps: bool
    ) -> Float[Array, "b h2 w2 c"]:
        """Upsample bilinearly by about `factor`, clamped at the border of each image."""
        for axis in (1, 0):  # columns first, while the array is small
            x = _banded(x, self._band(x.shape[axis + 1], factor, axis, in_two_steps), axis=axis + 1)
        return x

    def _true_length(self, length: int, axis: int) -> Int32[Array, " b"]:
        """True height (axis 0) or width (axis 1) in an array of height or width `length`."""
        stride = self._bucket[axis] // length
        return -(-self._sizes[:, axis] // stride)

    def _inside(self, height: int, width: int) -> Bool[Array, "b h w 1"]:
        rows = jnp.arange(height) < self._true_length(height, 0)[:, None]
        columns = jnp.arange(width) < self._true_length(width, 1)[:, None]
        return (rows[:, :, None] & columns[:, None, :])[..., None]

    def _make_band(self, length: int, factor: int, axis: int, in_two_steps: bool) -> Array:
        size_in, size_out = (self._true_length(n, axis) for n in (length, length * factor))
        return band(size_in, size_out, length=length, factor=factor, in_two_steps=in_two_steps)


def band(
    size_in: Int32[Array, " b"],
    size_out: Int32[Array, " b"],
    *,
    length: int,  # of the input arrays
    factor: int,
    in_two_steps: bool,
) -> Float[Array, "b q p d"]:
    """Return the weights of inputs q - 1 ... q + d - 2 in output factor * q + p.

    Since size_in = ceil(size_out / factor), no output reads any other input. With `in_two_steps`
    the weights combine the two steps of the reference: to exactly factor * size_in, then to
    size_out. Positions are integers, because float32 is off by 5e-5 at a width of 1000.
    """
    size_in, size_out = (size[:, None, None] for size in (size_in, size_out))
    q = jnp.arange(length, dtype=jnp.int32)[:, None]
    output = factor * q + jnp.arange(factor, dtype=jnp.int32)
    middle = factor * size_in if in_two_steps else size_in
    # Centre of each output in the coordinates of the middle size, times 2 * size_out.
    center = jnp.clip((2 * output + 1) * middle - size_out, 0, 2 * size_out * (middle - 1))
    lower = center // (2 * size_out)
    upper_share = (center % (2 * size_out)) / (2 * size_out)
    source = q[..., None] + jnp.arange(-1, 2 if factor == 2 else 3)

    def weight(position: Array) -> Array:
        """Weight of each `source` at an integer position of the middle size."""
        if in_two_steps:
            exact = (2 * position + 1 - factor) / (2 * factor)
            position = jnp.clip(exact, 0, size_in - 1)
        return jnp.maximum(0, 1 - jnp.abs(position[..., None] - source))

    upper = jnp.minimum(lower + 1, middle - 1)
    share = upper_share[..., None]
    return (1 - share) * weight(lower) + share * weight(upper)


def _banded(x: Array, weights: Float[Array, "b q p d"], *, axis: int) -> Array:
    """Upsample along one axis as a weighted sum of shifted copies, without gathers."""
    length, factor, taps = weights.shape[1:]
    padding = [(1, taps - 2) if a == axis else (0, 0) for a in range(x.ndim)]
    padded = jnp.pad(x, padding)
    total = jnp.zeros((), x.dtype)
    for tap in range(taps):
        shifted = jax.lax.slice_in_dim(padded, tap, tap + length, axis=axis)
        shape = [1] * (x.ndim + 1)
        shape[0], shape[axis], shape[axis + 1] = weights.shape[0], length, factor
        share = weights[..., tap].reshape(shape).astype(x.dtype)
        total = total + jnp.expand_dims(shifted, axis + 1) * share
    shape = [n * factor if a == axis else n for a, n in enumerate(x.shape)]
    return total.reshape(shape)
