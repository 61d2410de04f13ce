"""The array operations of the layers, and the seam between what they mean and how they run.

`reference.py` defines every operation in a few lines of plain `jax.lax`. The other files hold
faster forms of the same operations: for GPUs and TPUs, for CPUs, for images of many sizes in one
program, for images whose rows lie on several devices. A form is chosen once, where a program is
built, from the devices that it is built for:

    form = ops.form_for("gpu")

    @jax.jit
    def forward(model, images):
        with ops.use(form):
            return model(images)

Outside of `use` the reference runs, which is differentiable in both modes. Arrays have the axes
`b h w c`: image, row, column, channel.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from types import ModuleType

from jax.sharding import Mesh
from jaxtyping import Array, Float

from hrnet_jax.ops import cpu, derivatives, reference, rows
from hrnet_jax.ops.ragged import ragged
from hrnet_jax.ops.reference import Padding, at_least_float32, bilinear_taps

__all__ = [
    "ACCELERATOR",
    "CPU",
    "REFERENCE",
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

Channels = Float[Array, " c"]


@dataclasses.dataclass(frozen=True)
class Form:
    """One way to compute every operation; `reference.py` says what each must give."""

    conv: Callable
    normalize: Callable
    batch_norm: Callable
    relu: Callable
    resize: Callable
    upsample: Callable

    @classmethod
    def of(cls, module: ModuleType) -> "Form":
        """Take the operations that a module defines, and the others from the reference."""
        names = [field.name for field in dataclasses.fields(cls)]
        return cls(**{n: getattr(module, n, getattr(reference, n)) for n in names})


REFERENCE = Form.of(reference)
ACCELERATOR = Form.of(derivatives)
CPU = Form.of(cpu)

_FORM: ContextVar[Form] = ContextVar("form", default=REFERENCE)


@contextlib.contextmanager
def use(form: Form) -> Iterator[None]:
    """Compute by this form within the context: while a program is traced, inside `jax.jit`."""
    token = _FORM.set(form)
    try:
        yield
    finally:
        _FORM.reset(token)


def form_for(platform: str) -> Form:
    """Return the form for devices of a platform: "cpu", "gpu" or "tpu"."""
    return CPU if platform == "cpu" else ACCELERATOR


def form_on(mesh: Mesh) -> Form:
    """Return the form for batches that lie on a mesh by P("data", "height")."""
    form = form_for(mesh.devices.flat[0].platform)
    return rows.on_rows(form, mesh=mesh) if mesh.shape["height"] > 1 else form


def conv(
    x: Float[Array, "b h w i"], kernel: Float[Array, "n n i o"], *, stride: int, padding: Padding
) -> Float[Array, "b h2 w2 o"]:
    """Correlate images with a square kernel, as every framework's convolution does."""
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
    """Normalise by given statistics: what batch normalisation does in evaluation."""
    return _FORM.get().normalize(x, scale=scale, bias=bias, mean=mean, var=var, epsilon=epsilon)


def batch_norm(
    x: Float[Array, "b h w c"], *, scale: Channels, bias: Channels, epsilon: float
) -> tuple[Float[Array, "b h w c"], Channels, Channels]:
    """Normalise by the batch's own mean and biased variance; return these two as well."""
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
    """Bring a branch to the size of a branch that is finer by `factor`.

    In two steps as the original fuses branches: by the exact factor, then to the true size.
    Straight to the size differs wherever the factor does not divide it.
    """
    return _FORM.get().upsample(x, size, factor=factor, in_two_steps=in_two_steps)
