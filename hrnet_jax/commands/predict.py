"""Image files -> label maps and overlays. A checkpoint is all it needs."""

import glob
import json
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import cv2
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Float16
from PIL import Image as PILImage
from rich.console import Console

from hrnet_jax import models, zoo
from hrnet_jax.config.build_evaluation import describe_protocol, protocol_of
from hrnet_jax.config.stored import from_dict
from hrnet_jax.data.decode import decode_image
from hrnet_jax.data.transforms import Channels, ResizeViews, normalize
from hrnet_jax.data.types import IGNORE_LABEL, Example, Image, Label, NormalizedImage
from hrnet_jax.evaluation.evaluator import Evaluator
from hrnet_jax.evaluation.visualize import indexed, overlay, write_png
from hrnet_jax.models import split
from hrnet_jax.parallel.compiling import set_precision
from hrnet_jax.parallel.mesh import make_mesh, wait_on_cpu
from hrnet_jax.runs.checkpoint import Weights, load_weights
from hrnet_jax.runs.paths import (
    AnyPath,
    absolute,
    atomic_write,
    has_ended,
    is_remote,
    make_folder,
    to_local_path,
    to_path,
    write_json,
)
from hrnet_jax.runs.terminal import Terminal

_VIDEO_SUFFIXES = (".mp4", ".avi", ".mov", ".mkv", ".webm")
_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff", ".gif")


class Predictor:
    """Labels images of any size, as an evaluation would by the checkpoint's own protocol.

    predictor = Predictor.load("runs/hr18s_minicity")
    labels = predictor("photo.jpg")
    predictor.save("photo.jpg", labels, "out/photo")

    Attributes:
        classes: their names, in the order of the class indices.
        palette: their colours, RGB from 0 to 255.
    """

    @classmethod
    def load(cls, path: str | AnyPath) -> "Predictor":
        """Load the weights of a workdir (best by mIoU, else newest) or of one checkpoint.

        Args:
            path: of it, or the name of a row of the zoo that lies in `weights/`.

        Raises:
            FileNotFoundError: where there is none; says how to get it.
            ValueError: for a damaged one.
        """
        return cls(load_weights(zoo.locate(path)))

    def __init__(self, weights: Weights, *, terminal: Terminal | None = None):
        meta = weights.meta
        config = from_dict(meta["config"])
        set_precision(config.model.dtype)
        self.classes: tuple[str, ...] = tuple(meta["classes"])
        self.palette: list[tuple[int, int, int]] = [tuple(color) for color in meta["palette"]]
        self._protocol = protocol_of(config)
        self._structure, _, _ = split(models.build(meta["variant"], num_classes=len(self.classes)))
        self._params, self._stats = wait_on_cpu(jax.device_put((weights.params, weights.stats)))
        self._mean, self._std = _channels(meta["mean"]), _channels(meta["std"])
        self._evaluator = Evaluator(
            self._structure,
            num_classes=len(self.classes),
            protocol=self._protocol,
            mean=self._mean,
            std=self._std,
            mesh=make_mesh(devices=jax.local_devices()[:1]),
            batch_size=1,
            dtype=jnp.dtype(config.model.dtype),
            terminal=terminal or Terminal(Console(quiet=True)),
        )

    def __call__(self, image: Image | str | AnyPath) -> Label:
        """Return the class index of every pixel of an RGB image, or of an image file."""
        (batch,) = self._evaluator.label(self._params, self._stats, [self._example(image)])
        return batch.labels[0]

    def probabilities(self, image: Image | str | AnyPath) -> Float16[np.ndarray, "k h w"]:
        """Return the probability of every class at every pixel, as the label map weighs them."""
        example = self._example(image)
        return self._evaluator.probabilities(self._params, self._stats, example)

    def model(self) -> nnx.Module:
        """Return the network itself, a flax.nnx module in evaluation mode.

        It maps a batch of what `normalized` returns, [b h w 3], to logits at a quarter of the size
        (rounded up), [b h/4 w/4 k]; jit, differentiate or change it like any other.
        """
        model = nnx.merge(self._structure, self._params, self._stats)
        model.eval()
        return model

    def normalized(self, image: Image) -> NormalizedImage:
        """Bring an RGB image from 0 to 255 to what the network takes."""
        return normalize(image, mean=self._mean, std=self._std)

    def _example(self, image: Image | str | AnyPath) -> Example:
        pixels = _pixels(image)
        nothing = np.full(pixels.shape[:2], IGNORE_LABEL, np.uint8)
        example = Example(id="", image=pixels, label=nothing)
        return ResizeViews(sizes=self._protocol.view_sizes).map(example)

    def save(self, image: Image | str | AnyPath, label: Label, path: str | AnyPath) -> None:
        """Write `<path>_label.png` (class indices, with palette) and `<path>_overlay.png`."""
        path = to_path(path)
        blended = PILImage.fromarray(overlay(_pixels(image), label, self.palette))
        for kind, picture in (("label", indexed(label, self.palette)), ("overlay", blended)):
            write_png(path.with_name(f"{path.name}_{kind}.png"), picture)

    def video(self, source: str | Path, target: str | AnyPath, *, terminal: Terminal) -> None:
        """Write a video with the colours of the classes over every frame.

        Raises:
            ValueError: for one that cannot be read to its end. The frames before are written, but
                under another name, `<target>_partial`: the video is not done.
        """
        source, target = to_local_path(source), to_path(target)
        film = cv2.VideoCapture(str(source))
        total, rate = int(film.get(cv2.CAP_PROP_FRAME_COUNT)), film.get(cv2.CAP_PROP_FPS)
        size = int(film.get(cv2.CAP_PROP_FRAME_WIDTH)), int(film.get(cv2.CAP_PROP_FRAME_HEIGHT))
        if not film.isOpened() or min(size) < 1:
            raise ValueError(f"Cannot read the video {source}; is it damaged or of another kind?")
        make_folder(target.parent)
        # OpenCV writes to local disks only.
        beside = None if is_remote(target) else target.parent
        with tempfile.TemporaryDirectory(prefix=".", dir=beside) as folder:
            written = str(Path(folder) / target.name)  # its suffix tells OpenCV the format
            writer = cv2.VideoWriter(written, cv2.VideoWriter.fourcc(*"mp4v"), rate or 25, size)
            count = 0
            try:
                # Recordings that were streamed declare no number of frames.
                for image in terminal.track(_frames(film), source.name, total=max(total, 1)):
                    blended = overlay(image, self(image), self.palette)
                    writer.write(cv2.cvtColor(blended, cv2.COLOR_RGB2BGR))
                    count += 1
            finally:
                film.release()
                writer.release()
            # Some containers declare a duration only, which rounds to a frame too many.
            is_cut = count < max(total - 1, 1)
            if is_cut:
                target = target.with_name(f"{target.stem}_partial{target.suffix}")
            if count:
                with open(written, "rb") as complete, atomic_write(target) as file:
                    shutil.copyfileobj(complete, file)
        if is_cut:
            raise ValueError(
                f"The video {source} declares {total} frames, but {count} can be read; is it cut "
                f"off?{f' They are in {target}.' if count else ''}"
            )


def _frames(film: cv2.VideoCapture) -> Iterator[Image]:
    while True:
        is_frame, frame = film.read()
        if not is_frame:
            return
        yield cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)


def _pixels(image: Image | str | AnyPath) -> Image:
    if isinstance(image, np.ndarray):
        return image
    return decode_image(to_path(image).read_bytes(), path=str(image))


def _channels(values: Sequence[float | int]) -> Channels:
    red, green, blue = map(float, values)
    return red, green, blue


def predict(
    weights: Weights,
    inputs: list[str],
    *,
    output: str | AnyPath,
    terminal: Terminal,
    probabilities: bool = False,
) -> list[str]:
    """Label image files, folders, patterns and videos into `output`; return what failed.

    A folder that was begun with the same weights is gone on with. A file that cannot be read is
    named and left out.
    """
    output = to_path(output)
    predictor = Predictor(weights, terminal=terminal)
    files = input_files(inputs, output=output)
    check_same_weights(output, weights)

    def written_for(file: Path, name: Path) -> list[str]:
        return [f"{name}_{kind}" for kind in _kinds(file, probabilities=probabilities)]

    missing = [
        (file, name)
        for file, name in files
        if not all((output / path).exists() for path in written_for(file, name))
    ]
    known = f" ({len(files) - len(missing)} done before)" if len(missing) < len(files) else ""
    terminal.line(
        f"Labelling {len(files)} file{'s' if len(files) > 1 else ''}{known} with {weights.path}"
    )
    _remove_leftovers(output, {path for each in missing for path in written_for(*each)})
    if probabilities and any(_is_video(file) for file, _ in files):
        terminal.warn("--probabilities are not written for videos.")
    images = [(file, name) for file, name in missing if not _is_video(file)]
    videos = [(file, name) for file, name in missing if _is_video(file)]
    failures = []
    for file, name in terminal.track(images, "Predicting", total=len(images)):
        try:
            image = decode_image(file.read_bytes(), path=str(file))
        except (ValueError, OSError) as error:
            failures.append(f"{file}: {error}")
            terminal.warn(failures[-1])
            continue
        predictor.save(image, predictor(image), output / name)
        if probabilities:
            path = output / f"{name}_probabilities.npz"
            with atomic_write(path) as part:
                np.savez_compressed(part, probabilities=predictor.probabilities(image))
    for file, name in videos:
        try:
            predictor.video(file, output / f"{name}_overlay.mp4", terminal=terminal)
        except ValueError as error:
            failures.append(str(error))
            terminal.warn(failures[-1])
    terminal.line(f"Labels and overlays: {absolute(output)}")
    return failures


def check_same_weights(output: AnyPath, weights: Weights) -> None:
    """Mark a folder as holding predictions of these weights by their protocol; refuse another's.

    The precision is part of it.
    """
    mark = {"checkpoint": str(weights.path), "checksums": weights.meta.get("checksums", {})}
    mark["protocol"] = describe_protocol(from_dict(weights.meta["config"]))
    path = output / "predict.json"
    make_folder(output)
    try:
        old = dict(json.loads(path.read_text())) if path.exists() else {}
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"{path} is damaged ({error}), which names the weights that {output} was labelled "
            "with; remove it if they are the same, else choose another --output."
        ) from error
    if mark | old != mark:
        raise ValueError(
            f"{output} holds predictions of other weights or of another protocol "
            f"({old.get('checkpoint')}, {old.get('protocol')}); choose another --output."
        )
    write_json(path, mark)


def _remove_leftovers(output: AnyPath, names: set[str]) -> None:
    """Remove what a killed process had begun to write of these files."""
    if is_remote(output):
        return
    for folder in {(output / name).parent for name in names}:
        for left in folder.glob(".*.tmp"):
            meant = folder / left.name[1:].rsplit(".", maxsplit=2)[0]
            if str(meant.relative_to(output)) in names and has_ended(left):
                left.unlink(missing_ok=True)


def input_files(inputs: Iterable[str], *, output: AnyPath) -> list[tuple[Path, Path]]:
    """Find the files meant by files, folders and patterns, each with its name for the output.

    Hidden files are left out, and what lies in `output`: it may be within an input.

    Raises:
        FileNotFoundError: for an input that does not exist, or a folder without images.
        ValueError: if two files would be written under one name.
    """
    found: dict[Path, Path] = {}
    for text in inputs:
        path = to_path(text)
        if is_remote(path):
            raise ValueError(
                f"--input {path} is in a bucket, but images are read from local disks; copy them "
                "with `gcloud storage cp --recursive`."
            )
        pattern = not path.exists() and any(sign in text for sign in "*?[")
        if not path.exists() and not pattern:
            raise FileNotFoundError(
                f"--input {path} does not exist; give images, a video, a folder or a pattern."
            )
        if path.is_file():
            files = [path]
        elif pattern:
            files = [Path(p) for p in sorted(glob.glob(str(path), recursive=True)) if _fits(p)]
        else:
            files = [p for p in sorted(path.rglob("*")) if _fits(p)]
        files = [p for p in files if absolute(output) not in p.absolute().parents]
        if not files:
            raise FileNotFoundError(
                f"--input {path} holds no images (looked for {', '.join(_SUFFIXES)})."
            )
        for file in files:
            below = path in file.parents and not pattern
            name = file.relative_to(path).with_suffix("") if below else Path(file.stem)
            if name in found and found[name].absolute() != file.absolute():
                raise ValueError(
                    f"{found[name]} and {file} would both become {name}_label.png; rename one, or "
                    "give them in two runs with different --output."
                )
            found[name] = file
    return [(file, name) for name, file in found.items()]


def _is_video(path: Path) -> bool:
    return path.suffix.lower() in _VIDEO_SUFFIXES


def _kinds(file: Path, *, probabilities: bool) -> tuple[str, ...]:
    """How the names of what is written for an input end."""
    if _is_video(file):
        return ("overlay.mp4",)
    return ("label.png", "overlay.png", *(["probabilities.npz"] if probabilities else []))


def _fits(path: str | Path) -> bool:
    path = Path(path)
    known = path.suffix.lower() in (*_SUFFIXES, *_VIDEO_SUFFIXES)
    # A link to nothing fits: whoever reads it will say so.
    return not path.is_dir() and known and not path.name.startswith(".")
