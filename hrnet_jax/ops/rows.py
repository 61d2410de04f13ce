"""Images whose rows lie on several devices.

Left alone, the compiler also exchanges only rows at the cuts of a convolution, but it moves whole
activations where rows are stacked (enlargement), and takes twice as long to compile. So layers
that read beyond their own row ask here, and exchange rows themselves; all others need not know:
`with rows_over(mesh): model(images)`.
"""

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float

_MESH: ContextVar[Mesh | None] = ContextVar("rows_over", default=None)


@contextlib.contextmanager
def rows_over(mesh: Mesh) -> Iterator[None]:
    """Let the layers know that batches lie on `mesh` by P("data", "height").

    The height of every array must be divisible by the devices along `height`.
    """
    token = _MESH.set(mesh)
    try:
        yield
    finally:
        _MESH.reset(token)


def are_cut() -> bool:
    """Whether rows of an image lie on more than one device."""
    return cutting_mesh() is not None


def cutting_mesh() -> Mesh | None:
    """The devices that share each image by its rows, if there is more than one."""
    mesh = _MESH.get()
    return mesh if mesh is not None and mesh.shape["height"] > 1 else None


def on_each_share(
    function: Callable, x: Float[Array, "b h w c"], *weights: Array
) -> Float[Array, "b2 h2 w2 c2"]:
    """Apply a function of rows to each device's own; `weights` are the same everywhere."""
    mesh, cut = _MESH.get(), P("data", "height")
    specs = (cut, *(P() for _ in weights))

    def apply(x: Array, *weights: Array) -> Array:
        # Said to differ from here on, so that each device finds its own share of their gradient.
        return function(x, *(jax.lax.pcast(w, ("data", "height"), to="varying") for w in weights))

    return jax.shard_map(apply, mesh=mesh, in_specs=specs, out_specs=cut)(x, *weights)


def sum_of_shares(
    add: Callable[[Array], Array], x: Float[Array, "b h w c"], mesh: Mesh
) -> Float[Array, " c"]:
    """Add up over all devices at once; the compiler would do so over one mesh axis at a time."""

    def total(x: Array) -> Array:
        return jax.lax.psum(add(x), ("data", "height"))

    return jax.shard_map(total, mesh=mesh, in_specs=P("data", "height"), out_specs=P())(x)


def with_zeros_beyond(
    x: Float[Array, "b h w c"], *, above: int, below: int
) -> Float[Array, "b h2 w c"]:
    """Within `on_each_share`: add the neighbours' rows, and zeros beyond the image's border."""
    parts = [x]
    if above:
        parts.insert(0, _from_above(x[:, -above:]))
    if below:
        parts.append(_from_below(x[:, :below]))
    return jnp.concatenate(parts, 1)


def beyond(
    *, first: Float[Array, "b 1 w c"], last: Float[Array, "b 1 w c"]
) -> tuple[Float[Array, "b 1 w c"], Float[Array, "b 1 w c"]]:
    """Within `on_each_share`: the rows above and below; at the border its own, repeated."""
    place, bottom = jax.lax.axis_index("height"), jax.lax.axis_size("height") - 1
    above = jnp.where(place == 0, first, _from_above(last))
    below = jnp.where(place == bottom, last, _from_below(first))
    return above, below


def _from_above(rows: Array) -> Array:
    """What the device above passes down; zeros on the first one."""
    count = jax.lax.axis_size("height")
    return jax.lax.ppermute(rows, "height", [(n, n + 1) for n in range(count - 1)])


def _from_below(rows: Array) -> Array:
    """What the device below passes up; zeros on the last one."""
    count = jax.lax.axis_size("height")
    return jax.lax.ppermute(rows, "height", [(n + 1, n) for n in range(count - 1)])
