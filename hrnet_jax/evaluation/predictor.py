"""Prediction from Python: images to label maps and probabilities."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Float16
from PIL import Image as PILImage
from rich.console import Console

from hrnet_jax.data.decode import decode_image
from hrnet_jax.data.transforms import Channels, normalize, resize_image
from hrnet_jax.data.types import Image, Label, NormalizedImage
from hrnet_jax.evaluation.batching import Batch, Batcher, Views
from hrnet_jax.evaluation.labeler import Labeler
from hrnet_jax.evaluation.protocol import Protocol
from hrnet_jax.evaluation.visualize import Color, indexed, overlay, write_png
from hrnet_jax.parallel.compiling import set_precision
from hrnet_jax.parallel.mesh import make_mesh, wait_on_cpu
from hrnet_jax.runs.paths import AnyPath, to_path
from hrnet_jax.runs.terminal import Terminal


class Predictor:
    """Labels images of any size by an evaluation protocol, on one device.

    `hrnet_jax.config.load.load_predictor` makes one from a checkpoint:

    predictor = load_predictor("runs/hr18s_minicity")
    labels = predictor("photo.jpg")
    predictor.save("photo.jpg", labels, "out/photo")

    Attributes:
        classes: class names, in the order of the class indices.
        palette: the colours of the classes, RGB from 0 to 255.
    """

    def __init__(
        self,
        structure: nnx.GraphDef,
        *,
        params: dict,
        batch_stats: dict,
        classes: Sequence[str],
        palette: Sequence[Color],
        protocol: Protocol,
        mean: Channels,  # RGB, of values from 0 to 255
        std: Channels,
        dtype: str,  # of the computation: float32, bfloat16 or float64
        terminal: Terminal | None = None,  # shows compilations; None: no output
    ):
        set_precision(dtype)
        self.classes, self.palette = tuple(classes), list(palette)
        self._structure, self._protocol = structure, protocol
        self._params, self._batch_stats = wait_on_cpu(jax.device_put((params, batch_stats)))
        self._mean, self._std = mean, std
        self._batcher = Batcher(protocol, mean=mean, std=std, batch_size=1)
        self._labeler = Labeler(
            structure,
            mesh=make_mesh(devices=jax.local_devices()[:1]),
            dtype=jnp.dtype(dtype),
            terminal=terminal or Terminal(Console(quiet=True)),
        )

    def __call__(self, image: Image | str | AnyPath) -> Label:
        """Return the class index of every pixel of an RGB array or of an image file."""
        batch = self._batch(image)
        (square,), _ = self._labeler.label_maps(self._params, self._batch_stats, batch)
        height, width = batch.geometry.true_size[0]
        return np.asarray(square)[:height, :width]

    def probabilities(self, image: Image | str | AnyPath) -> Float16[np.ndarray, "k h w"]:
        """Return the probability of every class at every pixel, averaged over the views."""
        (result,) = self._labeler.probabilities(self._params, self._batch_stats, self._batch(image))
        return result

    def model(self) -> nnx.Module:
        """Return the network, a `flax.nnx` module in evaluation mode.

        It maps batches of `normalized` images [b h w 3] to logits [b h/4 w/4 k], sizes rounded up.
        """
        model = nnx.merge(self._structure, self._params, self._batch_stats)
        model.eval()
        return model

    def normalized(self, image: Image) -> NormalizedImage:
        """Normalise an RGB image with values from 0 to 255 for the network."""
        return normalize(image, mean=self._mean, std=self._std)

    def save(self, image: Image | str | AnyPath, label: Label, path: str | AnyPath) -> None:
        """Write `<path>_label.png` (class indices with a palette) and `<path>_overlay.png`."""
        path = to_path(path)
        blended = PILImage.fromarray(overlay(pixels_of(image), label, self.palette))
        for kind, picture in (("label", indexed(label, self.palette)), ("overlay", blended)):
            write_png(path.with_name(f"{path.name}_{kind}.png"), picture)

    def _batch(self, image: Image | str | AnyPath) -> Batch:
        pixels = pixels_of(image)
        height, width, _ = pixels.shape
        views = [resize_image(pixels, size) for size in self._protocol.view_sizes((height, width))]
        return self._batcher.assemble([Views(views, (height, width))])


def pixels_of(image: np.ndarray | str | AnyPath) -> Image:
    """Return an RGB image as it is, or read it from its file.

    Raises:
        ValueError: for an array of another shape or type.
    """
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
            raise ValueError(
                f"An array {image.dtype}{list(image.shape)} is no image; give RGB values from 0 to "
                "255, uint8[height, width, 3]."
            )
        return image
    return decode_image(to_path(image).read_bytes(), path=str(image))
