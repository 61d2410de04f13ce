"""Images whose rows are split over several devices.

XLA's partitioner also exchanges only the halo rows of a convolution, but it moves whole activations
to upsample a branch, and takes twice as long to compile. So the operations that read neighbouring
rows run under `shard_map` here and exchange halo rows themselves. Batches are sharded by
P("data", "height"); the height of every array must be divisible by the devices along `height`.
"""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float

from hrnet_jax.ops.reference import Form, Padding, upsample_by

_SHARDED = P("data", "height")


def on_rows(form: Form, *, mesh: Mesh) -> Form:
    """Return `form` for images whose rows are split over a mesh."""
    return dataclasses.replace(
        form,
        conv=functools.partial(conv, form=form, mesh=mesh),
        resize=functools.partial(resize, form=form, mesh=mesh),
        upsample=upsample_by(functools.partial(resize, form=form, mesh=mesh)),
        batch_norm=functools.partial(form.batch_norm, total=_sum_over(mesh)),
    )


def conv(
    x: Float[Array, "b h w i"],
    kernel: Float[Array, "n n i o"],
    *,
    stride: int,
    padding: Padding,
    form: Form,
    mesh: Mesh,
) -> Float[Array, "b h2 w2 o"]:
    """Convolve each shard together with the neighbouring rows that its windows reach."""
    (above, _), sides = padding
    # The last window of a shard ends `stride - 1` rows earlier than with stride 1.
    below = max(kernel.shape[0] - above - stride, 0)

    def conv_shard(x: Array, kernel: Array) -> Array:
        # Varying, so that each device computes its own part of the kernel's gradient.
        kernel = jax.lax.pcast(kernel, ("data", "height"), to="varying")
        x = _with_halo(x, above=above, below=below)
        return form.conv(x, kernel, stride=stride, padding=((0, 0), sides))

    specs = (_SHARDED, P())
    return jax.shard_map(conv_shard, mesh=mesh, in_specs=specs, out_specs=_SHARDED)(x, kernel)


def resize(
    x: Float[Array, "b _ _ c"], size: tuple[int, ...], *, form: Form, mesh: Mesh
) -> Float[Array, "b h w c"]:
    """Resize rows by an integer factor, and columns to any width.

    With an integer factor a shard needs one more row on each side; the outputs of those two rows
    are cut off.
    """
    factor, rest = divmod(size[0], x.shape[1])
    if rest:
        raise ValueError(
            f"Rows on several devices cannot be resized from {x.shape[1]} to {size[0]}: the factor "
            "is not an integer. Use crops whose height is a multiple of 32 x config.mesh.height."
        )
    if factor == 1:
        return form.resize(x, size)

    def resize_shard(x: Array) -> Array:
        x = _with_border(x)
        x = form.resize(x, (factor * x.shape[1], size[1]))
        return x[:, factor:-factor]

    return jax.shard_map(resize_shard, mesh=mesh, in_specs=_SHARDED, out_specs=_SHARDED)(x)


@functools.cache  # one function per mesh, so that traces are reused
def _sum_over(mesh: Mesh) -> Callable[[Array], Array]:
    """Sum over all devices at once; XLA's partitioner would sum over one mesh axis at a time."""

    def total(x: Array) -> Array:
        # Image by image, as on one device: see `cpu.sum_pixels`.
        shard_sum = jax.lax.optimization_barrier(x.sum((1, 2))).sum(0)
        return jax.lax.psum(shard_sum, ("data", "height"))

    return jax.shard_map(total, mesh=mesh, in_specs=_SHARDED, out_specs=P())


def _with_halo(x: Float[Array, "b h w c"], *, above: int, below: int) -> Float[Array, "b h2 w c"]:
    """Add rows of the neighbouring shards, or zeros beyond the image's border."""
    parts = [x]
    if above:
        parts.insert(0, _from_above(x[:, -above:]))
    if below:
        parts.append(_from_below(x[:, :below]))
    return jnp.concatenate(parts, 1) if len(parts) > 1 else x


def _with_border(x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w c"]:
    """Add one row of each neighbouring shard; at the image's border repeat its own row."""
    index, last_index = jax.lax.axis_index("height"), jax.lax.axis_size("height") - 1
    first, last = x[:, :1], x[:, -1:]
    above = jnp.where(index == 0, first, _from_above(last))
    below = jnp.where(index == last_index, last, _from_below(first))
    return jnp.concatenate([above, x, below], 1)


def _from_above(rows: Array) -> Array:
    """Return the rows of the device above; zeros on the first device."""
    count = jax.lax.axis_size("height")
    return jax.lax.ppermute(rows, "height", [(n, n + 1) for n in range(count - 1)])


def _from_below(rows: Array) -> Array:
    """Return the rows of the device below; zeros on the last device."""
    count = jax.lax.axis_size("height")
    return jax.lax.ppermute(rows, "height", [(n + 1, n) for n in range(count - 1)])
