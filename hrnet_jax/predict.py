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
    files = image_files(images, output=output)
    terminal.line(
        f"Labelling {len(files)} image{'s' if len(files) > 1 else ''} with {weights.path}"
    )
    sizes = set()
    for path, name in terminal.track(files, "Predicting", total=len(files)):
        image = decode_image(path.read_bytes(), path=str(path))
        if image.shape in sizes:
            label = predictor(image)
        else:
            sizes.add(image.shape)
            with terminal.announced(f"Compiling for {image.shape[0]}x{image.shape[1]} images"):
                label = predictor(image)
        predictor.save(image, label, output / name)
    terminal.line(f"Labels and overlays: {output.absolute()}")


def image_files(inputs: Iterable[Path], *, output: Path) -> list[tuple[Path, Path]]:
    """Find the image files meant by files and folders, each with its name for the output.

    Hidden files are left out, and what lies in `output`: it may be within an input.

    Raises:
        FileNotFoundError: for an input that does not exist, or a folder without images.
        ValueError: if two files would be written under one name.
    """
    found: dict[Path, Path] = {}
    for path in inputs:
        if not path.exists():
            raise FileNotFoundError(f"--input {path} does not exist; give image files or a folder.")
        files = [path] if path.is_file() else [p for p in sorted(path.rglob("*")) if _is_image(p)]
        files = [p for p in files if output.absolute() not in p.absolute().parents]
        if not files:
            raise FileNotFoundError(
                f"--input {path} holds no images (looked for {', '.join(_SUFFIXES)})."
            )
        for file in files:
            name = Path(file.stem) if file == path else file.relative_to(path).with_suffix("")
            if name in found:
                raise ValueError(
                    f"{found[name]} and {file} would both become {name}_label.png; rename one, or "
                    "give them in two runs with different --output."
                )
            found[name] = file
    return [(file, name) for name, file in found.items()]


def _is_image(path: Path) -> bool:
    return path.is_file() and path.suffix.lower() in _SUFFIXES and not path.name.startswith(".")
