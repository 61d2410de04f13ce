"""Image files -> label maps and overlays. A checkpoint is all it needs."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image as PILImage
from rich.console import Console

from hrnet_jax import models
from hrnet_jax.checkpoint import Weights
from hrnet_jax.config import from_dict, protocol_of
from hrnet_jax.data.decode import decode_image
from hrnet_jax.data.transforms import Channels, ResizeViews
from hrnet_jax.evaluator import Evaluator
from hrnet_jax.files import written_in_one_piece
from hrnet_jax.step import split
from hrnet_jax.types import IGNORE_LABEL, Example, Image, Label
from hrnet_jax.visualize import overlay
from hrnet_jax.writer import Terminal

_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff")


class Predictor:
    """Labels images of any size, as an evaluation would by the checkpoint's own protocol."""

    def __init__(self, weights: Weights, *, terminal: Terminal | None = None):
        meta = weights.meta
        config = from_dict(meta["config"])
        self.classes: tuple[str, ...] = tuple(meta["classes"])
        self.palette: list[tuple[int, int, int]] = [tuple(color) for color in meta["palette"]]
        self._protocol = protocol_of(config)
        structure, _, _ = split(models.build(meta["variant"], num_classes=len(self.classes)))
        self._params, self._stats = jax.device_put((weights.params, weights.stats))
        self._evaluator = Evaluator(
            structure,
            num_classes=len(self.classes),
            protocol=self._protocol,
            mean=_channels(meta["mean"]),
            std=_channels(meta["std"]),
            mesh=jax.sharding.Mesh(jax.local_devices()[:1], ("data",)),
            batch_size=1,
            dtype=jnp.dtype(config.model.dtype),
            terminal=terminal or Terminal(Console(quiet=True)),
        )

    def __call__(self, image: Image) -> Label:
        """Return the class index of every pixel of an RGB image."""
        nothing = np.full(image.shape[:2], IGNORE_LABEL, np.uint8)
        example = Example(id="", image=image, label=nothing)
        resized = ResizeViews(sizes=self._protocol.view_sizes).map(example)
        (batch,) = self._evaluator.label(self._params, self._stats, [resized])
        return batch.labels[0]

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
    predictor = Predictor(weights, terminal=terminal)
    files = image_files(images, output=output)
    terminal.line(
        f"Labelling {len(files)} image{'s' if len(files) > 1 else ''} with {weights.path}"
    )
    for path, name in terminal.track(files, "Predicting", total=len(files)):
        image = decode_image(path.read_bytes(), path=str(path))
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
