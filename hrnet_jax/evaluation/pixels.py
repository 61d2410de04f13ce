"""From images to label maps: functions of arrays, for one device."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int32, Integer, UInt8

from hrnet_jax.evaluation.metrics import confusion_matrix
from hrnet_jax.evaluation.protocol import Taps
from hrnet_jax.ops import Form, at_least_float32, ragged, resize, use

Network = Callable[[Array], Array]  # images [b h w 3] -> logits [b h4 w4 k]

# Pixels are labelled tile by tile, so that logits of all classes never exist at full size.
TILE = (32, 128)


def whole(
    model: Network, image: Float[Array, "b h w 3"], *, size: tuple[int, ...]
) -> Float[Array, "b h2 w2 k"]:
    """Run the network on whole images of one size; return logits at the original `size`.

    The definition that `bucket_logits` and `label_pixels` are held to: in two steps as the
    reference, to the network's input size, then to the original one. Going there at once changes
    the class of a few pixels.
    """
    logits = at_least_float32(model(image))
    return resize(resize(logits, image.shape[1:3]), size)


def bucket_logits(
    model: Network,
    images: Float[Array, "b h w 3"],
    sizes: Int32[Array, "b 2"],
    *,
    form: Form,
) -> Float[Array, "b h4 w4 k"]:
    """Run the network on images that fill only `sizes` of their bucket, each as if it were alone.

    Returns logits at stride 4; those beyond an image's size mean nothing.
    """
    _, height, width, _ = images.shape
    with use(ragged(form, bucket=(height, width), sizes=sizes)):
        return at_least_float32(model(images))


def label_pixels(
    logits: Sequence[Float[Array, "_r _c _h _w k"]],
    rows: Sequence[Taps],
    columns: Sequence[Taps],
    *,
    extent: Int32[Array, "2"],
    label: UInt8[Array, "h w"],
) -> tuple[Integer[Array, "h w"], Int32[Array, "k k"]]:
    """Label the pixels of one image, and count them against its label.

    Args:
        logits: of each view, at stride 4: windows in rows and columns.
        rows: of each view, how its logits become rows of the original image.
        columns: the same for columns; of a mirror image, in reverse.
        extent: height and width of the original image; `label` may be larger.
        label: class indices; 255 (or more than there are classes) is not counted.

    Returns:
        The class of each pixel within `extent`, and the confusion matrix. With several views it
        is the class of the largest mean probability, with one that of the largest logit; the
        first of equals.
    """
    num_classes = logits[0].shape[-1]
    mosaics = [jnp.moveaxis(x, 2, 1).reshape(-1, x.shape[1] * x.shape[3], num_classes)
               for x in logits]  # fmt: skip
    (high, wide), averages = TILE, len(logits) > 1

    def label_row_of_tiles(i: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        bands = [_mixed(x, _part(t, i * high, high), 0) for x, t in zip(mosaics, rows, strict=True)]

        def label_tile(j: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
            labels, counts = carry
            total = jnp.zeros((), bands[0].dtype)
            for band, taps in zip(bands, columns, strict=True):
                scores = _mixed(band, _part(taps, j * wide, wide), 1)
                total = total + (jax.nn.softmax(scores) if averages else scores)
            found = jnp.argmax(total, -1).astype(labels.dtype)
            corner = (i * high, j * wide)
            truth = jax.lax.dynamic_slice(label, corner, TILE)
            counts += confusion_matrix(truth, found, num_classes=num_classes)
            return jax.lax.dynamic_update_slice(labels, found, corner), counts

        return jax.lax.fori_loop(0, -(-extent[1] // wide), label_tile, carry)

    labels = jnp.zeros(label.shape, jnp.uint8 if num_classes <= 256 else jnp.uint16)
    counts = jnp.zeros((num_classes, num_classes), jnp.int32)
    return jax.lax.fori_loop(0, -(-extent[0] // high), label_row_of_tiles, (labels, counts))


def _part(taps: Taps, start: Array, length: int) -> Taps:
    return jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, start, length), taps)


def _mixed(x: Array, taps: Taps, axis: int) -> Array:
    """Weighted sums of a few rows (axis 0) or columns (axis 1)."""
    total = jnp.zeros((), x.dtype)
    for index, weight in zip(taps.inputs.T, taps.weight.T, strict=True):
        shape = [-1 if a == axis else 1 for a in range(x.ndim)]
        total = total + jnp.take(x, index, axis) * weight.reshape(shape)
    return total
