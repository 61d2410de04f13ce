"""Images of many sizes in one compiled program.

Each image lies in the top left corner of a larger rectangle, the bucket, and its true size is
data. The result within the true size is that of the image alone: before every padded convolution
the activations beyond the image's border are set to zero, as the padding there would be, and
every resize is clamped at that border. Layers ask for the sizes here, so that blocks need not
carry them: `with valid_sizes(bucket, sizes): model(images)`.
"""

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int32

_CURRENT: ContextVar["ValidSizes | None"] = ContextVar("valid_sizes", default=None)


@contextlib.contextmanager
def valid_sizes(bucket: tuple[int, int], sizes: Int32[Array, "b 2"]) -> Iterator[None]:
    """Let the layers know that each image of a batch fills only `sizes` of the bucket.

    Both sides of the bucket are multiples of 32, so that every branch has an exact share of them.
    """
    assert all(side % 32 == 0 for side in bucket), f"a bucket of {bucket}"
    token = _CURRENT.set(ValidSizes(bucket, sizes))
    try:
        yield
    finally:
        _CURRENT.reset(token)


def current_sizes() -> "ValidSizes | None":
    """Sizes that hold now; None where images fill their arrays."""
    return _CURRENT.get()


class ValidSizes:
    """The true sizes of a batch at every stride; arrays tell their stride by their shape."""

    def __init__(self, bucket: tuple[int, int], sizes: Int32[Array, "b 2"]):
        self._bucket, self._sizes = bucket, sizes
        self._bands: dict[tuple, Array] = {}  # used again by every module of a stage

    def _at(self, length: int, axis: int) -> Int32[Array, " b"]:
        """Valid length of a feature of `length` rows (axis 0) or columns (axis 1)."""
        stride = self._bucket[axis] // length
        return -(-self._sizes[:, axis] // stride)

    def masked(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        """Set what lies beyond the border to zero, whatever it was (NaN as well)."""
        return jnp.where(self._inside(x.shape[1], x.shape[2]), x, jnp.zeros((), x.dtype))

    def _inside(self, height: int, width: int) -> Bool[Array, "b h w 1"]:
        rows = jnp.arange(height) < self._at(height, 0)[:, None]
        columns = jnp.arange(width) < self._at(width, 1)[:, None]
        return (rows[:, :, None] & columns[:, None, :])[..., None]

    def upsample(
        self, x: Float[Array, "b h w c"], factor: int, *, in_two_steps: bool
    ) -> Float[Array, "b h2 w2 c"]:
        """Bilinear enlargement by about `factor`, clamped at every image's own border."""
        for axis in (1, 0):  # columns first, while the array is small
            x = _banded(x, self._band(x.shape[axis + 1], factor, axis, in_two_steps), axis=axis + 1)
        return x

    def _band(self, length: int, factor: int, axis: int, in_two_steps: bool) -> Array:
        key = (length, factor, axis, in_two_steps)
        if key not in self._bands:
            self._bands[key] = band(
                self._at(length, axis),
                self._at(length * factor, axis),
                length=length,
                factor=factor,
                in_two_steps=in_two_steps,
            )
        return self._bands[key]


def band(
    size_in: Int32[Array, " b"],
    size_out: Int32[Array, " b"],
    *,
    length: int,  # of the arrays that are enlarged
    factor: int,
    in_two_steps: bool,
) -> Float[Array, "b q p d"]:
    """Weights of the inputs q - 1 ... q + d - 2 in the output factor * q + p.

    Since size_in = ceil(size_out / factor), no output reads any other input. In two steps means
    first to exactly factor * size_in, then to size_out, as the reference does; both steps are one
    here. Positions are computed in integers: float32 ones are off by 5e-5 at a width of 1000.
    """
    size_in, size_out = (size[:, None, None] for size in (size_in, size_out))
    q = jnp.arange(length, dtype=jnp.int32)[:, None]
    output = factor * q + jnp.arange(factor, dtype=jnp.int32)
    middle = factor * size_in if in_two_steps else size_in
    # The output's centre in the coordinates of what it is read from, times 2 * size_out.
    center = jnp.clip((2 * output + 1) * middle - size_out, 0, 2 * size_out * (middle - 1))
    lower = center // (2 * size_out)
    upper_share = (center % (2 * size_out)) / (2 * size_out)
    source = q[..., None] + jnp.arange(-1, 2 if factor == 2 else 3)

    def weight(position: Array) -> Array:
        """Weight of `source` at a position in the middle (or, in one step, in the input)."""
        if in_two_steps:
            exact = (2 * position + 1 - factor) / (2 * factor)
            position = jnp.clip(exact, 0, size_in - 1)
        return jnp.maximum(0, 1 - jnp.abs(position[..., None] - source))

    upper = jnp.minimum(lower + 1, middle - 1)
    share = upper_share[..., None]
    return (1 - share) * weight(lower) + share * weight(upper)


def _banded(x: Array, weights: Float[Array, "b q p d"], *, axis: int) -> Array:
    """Enlarge along one axis: shifted copies, each with its weights, no gather."""
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
