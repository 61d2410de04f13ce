"""The array operations of the layers: one definition, several implementations.

`reference.py` defines every operation in plain `jax.lax`. The other modules implement the same
operations: `derivatives.py` for GPUs and TPUs, `cpu.py` for CPUs, `ragged.py` for images of
different sizes in one program, `rows.py` for images whose rows are split over devices. Such a set
of operations is a `Form`. It is chosen once, where a program is built for its devices:

    form = ops.form_for("gpu")

    @jax.jit
    def forward(model, images):
        with ops.use(form):
            return model(images)

Outside `use` the reference runs. It is differentiable in forward and reverse mode, the others in
reverse mode only. Arrays have the axes `b h w c`: batch, height, width, channels.
"""

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar

from jax.sharding import Mesh
from jaxtyping import Array, Float

from hrnet_jax.ops import rows
from hrnet_jax.ops.cpu import CPU
from hrnet_jax.ops.derivatives import ACCELERATOR
from hrnet_jax.ops.ragged import ragged
from hrnet_jax.ops.reference import (
    REFERENCE,
    Channels,
    Form,
    Padding,
    at_least_float32,
    bilinear_taps,
)

__all__ = [
    "ACCELERATOR",
    "CPU",
    "REFERENCE",
    "Channels",
    "Form",
    "at_least_float32",
    "batch_norm",
    "bilinear_taps",
    "conv",
    "form_for",
    "form_on",
    "normalize",
    "ragged",
    "relu",
    "resize",
    "upsample",
    "use",
]

_FORM: ContextVar[Form] = ContextVar("form", default=REFERENCE)


@contextlib.contextmanager
def use(form: Form) -> Iterator[None]:
    """Use a form for all operations in this context; enter it inside the function you jit."""
    token = _FORM.set(form)
    try:
        yield
    finally:
        _FORM.reset(token)


def form_for(platform: str) -> Form:
    """Return the form for a platform: "cpu", "gpu" or "tpu"."""
    return CPU if platform == "cpu" else ACCELERATOR


def form_on(mesh: Mesh) -> Form:
    """Return the form for batches sharded over a mesh by P("data", "height")."""
    form = form_for(mesh.devices.flat[0].platform)
    return rows.on_rows(form, mesh=mesh) if mesh.shape["height"] > 1 else form


def conv(
    x: Float[Array, "b h w i"], kernel: Float[Array, "n n i o"], *, stride: int, padding: Padding
) -> Float[Array, "b h2 w2 o"]:
    """Convolve images with a square kernel (cross-correlation, as in every framework)."""
    return _FORM.get().conv(x, kernel, stride=stride, padding=padding)


def normalize(
    x: Float[Array, "b h w c"],
    *,
    scale: Channels,
    bias: Channels,
    mean: Channels,
    var: Channels,
    epsilon: float,
) -> Float[Array, "b h w c"]:
    """Normalise by the given statistics: batch normalisation in evaluation mode."""
    return _FORM.get().normalize(x, scale=scale, bias=bias, mean=mean, var=var, epsilon=epsilon)


def batch_norm(
    x: Float[Array, "b h w c"], *, scale: Channels, bias: Channels, epsilon: float
) -> tuple[Float[Array, "b h w c"], Channels, Channels]:
    """Normalise by the mean and biased variance of the batch; return both with the result."""
    return _FORM.get().batch_norm(x, scale=scale, bias=bias, epsilon=epsilon)


def relu(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """max(x, 0), with derivative 0 at 0."""
    return _FORM.get().relu(x)


def resize(x: Float[Array, "b _ _ c"], size: tuple[int, ...]) -> Float[Array, "b h w c"]:
    """Resize bilinearly to (height, width): half-pixel centres, no anti-aliasing."""
    return _FORM.get().resize(x, size)


def upsample(
    x: Float[Array, "b _ _ c"], size: tuple[int, ...], *, factor: int, in_two_steps: bool = False
) -> Float[Array, "b h w c"]:
    """Upsample a branch bilinearly to the size of a branch that is finer by `factor`.

    With `in_two_steps`, first by exactly `factor`, then to `size`, as the original fuses branches.
    The results differ where `size` is not a multiple of `factor`.
    """
    return _FORM.get().upsample(x, size, factor=factor, in_two_steps=in_two_steps)
