"""Image files -> label maps and overlays. A checkpoint is all it needs."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from PIL import Image as PILImage

from hrnet_jax import models
from hrnet_jax.checkpoint import Weights
from hrnet_jax.compiling import compiler_options
from hrnet_jax.data.decode import decode_image
from hrnet_jax.data.transforms import Channels, fit_size, normalize, resize_image
from hrnet_jax.files import written_in_one_piece
from hrnet_jax.inference import label_map, whole
from hrnet_jax.step import split
from hrnet_jax.types import Image, Label
from hrnet_jax.visualize import overlay
from hrnet_jax.writer import Terminal

_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff")


class Predictor:
    """Labels images of any size; compiles once per size."""

    def __init__(self, weights: Weights):
        meta = weights.meta
        self.classes: tuple[str, ...] = tuple(meta["classes"])
        self.palette: list[tuple[int, int, int]] = [tuple(color) for color in meta["palette"]]
        self._mean, self._std = _channels(meta["mean"]), _channels(meta["std"])
        self._box = tuple(meta["config"]["eval"]["image_size"])
        dtype = jnp.dtype(meta["config"]["model"]["dtype"])
        structure, _, _ = split(models.build(meta["variant"], num_classes=len(self.classes)))
        self._arrays = jax.device_put((weights.params, weights.stats))

        def label(arrays: tuple[dict, dict], image: jax.Array, size: tuple[int, int]) -> jax.Array:
            model = nnx.merge(structure, *arrays)
            model.eval()
            return label_map(whole(model, image.astype(dtype), size=size))

        self._label = jax.jit(label, static_argnums=2, compiler_options=compiler_options())

    def __call__(self, image: Image) -> Label:
        """Return the class index of every pixel of an RGB image."""
        resized = resize_image(image, fit_size(image.shape[:2], within=self._box))
        normalized = normalize(resized, mean=self._mean, std=self._std)
        return np.asarray(self._label(self._arrays, normalized[None], image.shape[:2]))[0]

    def save(self, image: Image, label: Label, path: Path) -> None:
        """Write `<path>_label.png` (class indices, with palette) and `<path>_overlay.png`."""
        path.parent.mkdir(parents=True, exist_ok=True)
        indexed = PILImage.fromarray(label, mode="P")
        indexed.putpalette(np.asarray(self.palette, np.uint8).tobytes())
        blended = PILImage.fromarray(overlay(image, label, self.palette))
        for kind, picture in (("label", indexed), ("overlay", blended)):
            with written_in_one_piece(path.with_name(f"{path.name}_{kind}.png")) as file:
                picture.save(file, format="PNG")


def _channels(values: Sequence[float | int]) -> Channels:
    red, green, blue = map(float, values)
    return red, green, blue


def predict(weights: Weights, images: list[Path], *, output: Path, terminal: Terminal) -> None:
    """Label image files and the images of folders into `output`."""
    predictor = Predictor(weights)
    files = list(image_files(images))
    terminal.line(
        f"Labelling {len(files)} image{'s' if len(files) > 1 else ''} with {weights.path}"
    )
    for path, name in terminal.track(files, "Predicting", total=len(files)):
        image = decode_image(path.read_bytes(), path=str(path))
        predictor.save(image, predictor(image), output / name)
    terminal.line(f"Labels and overlays: {output.absolute()}")


def image_files(inputs: Iterable[Path]) -> Iterable[tuple[Path, Path]]:
    """Find the image files meant by files and folders, each with its name for the output.

    Raises:
        FileNotFoundError: for an input that does not exist, or a folder without images.
    """
    for path in inputs:
        if path.is_file():
            yield path, Path(path.stem)
            continue
        if not path.exists():
            raise FileNotFoundError(f"--input {path} does not exist; give image files or a folder.")
        found = sorted(p for p in path.rglob("*") if p.suffix.lower() in _SUFFIXES)
        if not found:
            raise FileNotFoundError(
                f"--input {path} holds no images (looked for {', '.join(_SUFFIXES)})."
            )
        yield from ((p, p.relative_to(path).with_suffix("")) for p in found)
