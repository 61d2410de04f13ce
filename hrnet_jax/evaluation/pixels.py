"""The array functions behind label maps and probabilities, for one device."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Float16, Int, Int32, Integer, UInt8

from hrnet_jax.evaluation.batching import Geometry
from hrnet_jax.evaluation.metrics import confusion_matrix
from hrnet_jax.evaluation.protocol import Taps
from hrnet_jax.ops import Form, at_least_float32, ragged, use

Network = Callable[[Array], Array]  # images [b h w 3] -> logits [b h4 w4 k]

# Pixels are labelled tile by tile, so that logits of all classes never exist at full size.
TILE = (32, 128)


def bucket_logits(
    model: Network,
    images: Float[Array, "b h w 3"],
    sizes: Int32[Array, "b 2"] | None,
    *,
    form: Form,
) -> Float[Array, "b h4 w4 k"]:
    """Run the network on images that fill only `sizes` of their bucket; see `ops.ragged`.

    Args:
        model: the network, in evaluation mode.
        images: normalised images, each in the top left corner of its bucket.
        sizes: height and width of each image; None if all fill their bucket.
        form: implementation of the network's operations.

    Returns:
        Logits at stride 4, in at least float32; those beyond an image's size are undefined.
    """
    if sizes is not None:
        _, height, width, _ = images.shape
        form = ragged(form, bucket=(height, width), sizes=sizes)
    with use(form):
        return at_least_float32(model(images))


def label_pixels(
    logits: Sequence[Float[Array, "_n _h _w k"]],
    geometry: Geometry,
    label: UInt8[Array, "side side"] | None = None,
) -> tuple[Integer[Array, "side side"], Int32[Array, "k k"] | None]:
    """Label the pixels of one image; with a label, count its confusion matrix, too.

    The class of a pixel is the one with the largest logit, or with several views the one with the
    largest mean probability; the first of equals.

    Args:
        logits: logits of each view's windows, at stride 4.
        geometry: geometry of one image of a batch.
        label: class indices; 255, or any other that is not a class, is ignored.

    Returns:
        The label map, undefined beyond the true size, and the confusion matrix or None.
    """
    mosaics, num_classes = _mosaics(logits, geometry), logits[0].shape[-1]
    height, width = TILE

    def label_band(i: Array, carry: tuple) -> tuple:
        bands = _bands(mosaics, geometry, top=i * height)

        def label_tile(j: Array, carry: tuple) -> tuple:
            labels, counts = carry
            scores = _tile(bands, geometry, left=j * width, as_probabilities=len(logits) > 1)
            result = jnp.argmax(scores, -1).astype(labels.dtype)
            corner = (i * height, j * width)
            if label is not None:
                truth = jax.lax.dynamic_slice(label, corner, TILE)
                counts += confusion_matrix(truth, result, num_classes=num_classes)
            return jax.lax.dynamic_update_slice(labels, result, corner), counts

        return jax.lax.fori_loop(0, -(-geometry.true_size[1] // width), label_tile, carry)

    labels = jnp.zeros((geometry.side,) * 2, jnp.uint8 if num_classes <= 256 else jnp.uint16)
    counts = None if label is None else jnp.zeros((num_classes, num_classes), jnp.int32)
    bands = -(-geometry.true_size[0] // height)
    return jax.lax.fori_loop(0, bands, label_band, (labels, counts))


def class_probabilities(
    logits: Sequence[Float[Array, "_n _h _w k"]], geometry: Geometry, *, top: Int[Array, ""]
) -> Float16[Array, "k rows side"]:
    """Return the mean probabilities over the views of an image, for a band of rows from `top`."""
    bands = _bands(_mosaics(logits, geometry), geometry, top=top)
    height, width = TILE

    def add_tile(j: Array, result: Array) -> Array:
        total = _tile(bands, geometry, left=j * width, as_probabilities=True)
        mean = jnp.moveaxis(total / len(bands), -1, 0).astype(result.dtype)
        return jax.lax.dynamic_update_slice(result, mean, (0, 0, j * width))

    result = jnp.zeros((logits[0].shape[-1], height, geometry.side), jnp.float16)
    return jax.lax.fori_loop(0, -(-geometry.true_size[1] // width), add_tile, result)


def _mosaics(logits: Sequence[Array], geometry: Geometry) -> list[Float[Array, "_r _c k"]]:
    """Arrange the windows of each view in their grid, as its taps index them."""
    mosaics = []
    for (rows, columns), x in zip(geometry.grids, logits, strict=True):
        _, height, width, num_classes = x.shape
        grid = jnp.moveaxis(x.reshape(rows, columns, height, width, num_classes), 2, 1)
        mosaics.append(grid.reshape(rows * height, columns * width, num_classes))
    return mosaics


def _bands(mosaics: list[Array], geometry: Geometry, *, top: Array) -> list[Array]:
    """Return a band of pixel rows of each view; its columns are still those of the logits."""
    views = zip(mosaics, geometry.rows, strict=True)
    return [_mix(mosaic, taps, start=top, axis=0) for mosaic, taps in views]


def _tile(
    bands: list[Array], geometry: Geometry, *, left: Array, as_probabilities: bool
) -> Float[Array, "_ _ k"]:
    """Sum the logits, or the probabilities, of all views over the pixels of a tile."""
    total = jnp.zeros((), bands[0].dtype)
    for band, taps in zip(bands, geometry.columns, strict=True):
        scores = _mix(band, taps, start=left, axis=1)
        total = total + (jax.nn.softmax(scores) if as_probabilities else scores)
    return total


def _mix(x: Array, taps: Taps, *, start: Array, axis: int) -> Array:
    """Apply taps along the rows (axis 0) or columns (axis 1) of a tile."""
    inputs, weight = (jax.lax.dynamic_slice_in_dim(t, start, TILE[axis]) for t in taps)
    shape = [-1 if a == axis else 1 for a in range(x.ndim)]
    total = jnp.zeros((), x.dtype)
    for index, share in zip(inputs.T, weight.T, strict=True):
        total = total + jnp.take(x, index, axis) * share.reshape(shape)
    return total
