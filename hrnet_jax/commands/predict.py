"""The predict command: labels image files and videos by the protocol of a checkpoint."""

import glob
import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from hrnet_jax.commands.video import VIDEO_SUFFIXES, label_video
from hrnet_jax.config.build_evaluation import describe_protocol
from hrnet_jax.config.load import predictor_of
from hrnet_jax.config.stored import from_dict
from hrnet_jax.data.decode import decode_image
from hrnet_jax.evaluation.predictor import Predictor
from hrnet_jax.runs.paths import (
    AnyPath,
    absolute,
    atomic_write,
    has_ended,
    is_remote,
    make_folder,
    to_path,
    write_json,
)
from hrnet_jax.runs.stored_weights import Weights
from hrnet_jax.runs.terminal import Terminal

_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff", ".gif")


def predict(
    weights: Weights,
    inputs: list[str],
    *,
    output: str | AnyPath,
    terminal: Terminal,
    probabilities: bool = False,
) -> list[str]:
    """Label image files, folders, patterns and videos into `output`; return the failures.

    Results of the same weights that exist already are kept. Files that cannot be read are reported
    and skipped.
    """
    output = to_path(output)
    predictor = predictor_of(weights, terminal=terminal)
    files = input_files(inputs, output=output)
    check_same_weights(output, weights)
    results = {name: _results(file, name, probabilities=probabilities) for file, name in files}
    missing = [
        (file, name)
        for file, name in files
        if not all((output / result).exists() for result in results[name])
    ]
    kept = f" ({len(files) - len(missing)} done before)" if len(missing) < len(files) else ""
    terminal.line(
        f"Labelling {len(files)} file{'s' if len(files) > 1 else ''}{kept} with {weights.path}"
    )
    _remove_leftovers(output, {result for _, name in missing for result in results[name]})
    if probabilities and any(_is_video(file) for file, _ in files):
        terminal.warn("--probabilities are not written for videos.")
    images = [(file, output / name) for file, name in missing if not _is_video(file)]
    videos = [(file, output / name) for file, name in missing if _is_video(file)]
    failures = []
    for failure in itertools.chain(
        _label_images(images, predictor, probabilities=probabilities, terminal=terminal),
        _label_videos(videos, predictor, terminal=terminal),
    ):
        failures.append(failure)
        terminal.warn(failure)
    terminal.line(f"Labels and overlays: {absolute(output)}")
    return failures


def _label_images(
    files: Sequence[tuple[Path, AnyPath]],  # each with the prefix of its results
    predictor: Predictor,
    *,
    probabilities: bool,
    terminal: Terminal,
) -> Iterator[str]:
    """Label images; yield an error for each that cannot be read."""
    for file, target in terminal.track(files, "Predicting", total=len(files)):
        try:
            image = decode_image(file.read_bytes(), path=str(file))
        except (ValueError, OSError) as error:
            yield f"{file}: {error}"
            continue
        predictor.save(image, predictor(image), target)
        if probabilities:
            with atomic_write(target.with_name(f"{target.name}_probabilities.npz")) as written:
                np.savez_compressed(written, probabilities=predictor.probabilities(image))


def _label_videos(
    files: Sequence[tuple[Path, AnyPath]], predictor: Predictor, *, terminal: Terminal
) -> Iterator[str]:
    """Label videos; yield an error for each that cannot be read."""
    for file, name in files:
        target = name.with_name(f"{name.name}_overlay.mp4")
        try:
            label_video(file, target, label=predictor, palette=predictor.palette, terminal=terminal)
        except ValueError as error:
            yield str(error)


def check_same_weights(output: AnyPath, weights: Weights) -> None:
    """Record the weights, protocol and precision of a folder's predictions; refuse others."""
    mark = {"checkpoint": str(weights.path), "checksums": weights.meta.get("checksums", {})}
    mark["protocol"] = describe_protocol(from_dict(weights.meta["config"]))
    path = output / "predict.json"
    make_folder(output)
    try:
        old = dict(json.loads(path.read_text())) if path.exists() else {}
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"{path} is damaged ({error}); it names the weights of the predictions in {output}. "
            "Remove it if they are the same as now, else choose another --output."
        ) from error
    if mark | old != mark:
        raise ValueError(
            f"{output} holds predictions of other weights or of another protocol "
            f"({old.get('checkpoint')}, {old.get('protocol')}); choose another --output."
        )
    write_json(path, mark)


def _remove_leftovers(output: AnyPath, names: set[str]) -> None:
    """Remove the temporary files of these results that a killed process left."""
    if is_remote(output):
        return
    for folder in {(output / name).parent for name in names}:
        for leftover in folder.glob(".*.tmp"):
            target = folder / leftover.name[1:].rsplit(".", maxsplit=2)[0]
            if str(target.relative_to(output)) in names and has_ended(leftover):
                leftover.unlink(missing_ok=True)


def input_files(inputs: Iterable[str], *, output: AnyPath) -> list[tuple[Path, Path]]:
    """Find the files of all inputs, each with the path of its results within `output`.

    Hidden files are skipped, and files in `output`, which may be inside an input.

    Raises:
        FileNotFoundError: an input does not exist, or holds no images.
        ValueError: two files would have the same results, or an input is in a bucket.
    """
    files: dict[Path, Path] = {}
    for text in inputs:
        path = to_path(text)
        is_pattern = not path.exists() and any(sign in text for sign in "*?[")
        for file in _files_of(path, is_pattern=is_pattern, output=output):
            below = path in file.parents and not is_pattern
            name = file.relative_to(path).with_suffix("") if below else Path(file.stem)
            if name in files and files[name].absolute() != file.absolute():
                raise ValueError(
                    f"{files[name]} and {file} would both become {name}_label.png; rename one, or "
                    "give them in two runs with different --output."
                )
            files[name] = file
    return [(file, name) for name, file in files.items()]


def _files_of(path: AnyPath, *, is_pattern: bool, output: AnyPath) -> list[Path]:
    """List the files of one input, without those in `output`."""
    if is_remote(path):
        raise ValueError(
            f"--input {path} is in a bucket, but images are read from local disks; copy them with "
            "`gcloud storage cp --recursive`."
        )
    if not path.exists() and not is_pattern:
        raise FileNotFoundError(
            f"--input {path} does not exist; give images, a video, a folder or a pattern."
        )
    files = [Path(path)]
    if is_pattern:
        files = [Path(p) for p in sorted(glob.glob(str(path), recursive=True)) if _fits(p)]
    elif not path.is_file():
        files = [p for p in sorted(Path(path).rglob("*")) if _fits(p)]
    files = [file for file in files if absolute(output) not in file.absolute().parents]
    if not files:
        raise FileNotFoundError(
            f"--input {path} holds no images (looked for {', '.join(_SUFFIXES)})."
        )
    return files


def _is_video(path: Path) -> bool:
    return path.suffix.lower() in VIDEO_SUFFIXES


def _results(file: Path, name: Path, *, probabilities: bool) -> list[str]:
    kinds = ["label.png", "overlay.png", *(["probabilities.npz"] if probabilities else [])]
    return [f"{name}_{kind}" for kind in (["overlay.mp4"] if _is_video(file) else kinds)]


def _fits(path: str | Path) -> bool:
    path = Path(path)
    known = path.suffix.lower() in (*_SUFFIXES, *VIDEO_SUFFIXES)
    # A dangling link fits too: reading it reports the error.
    return not path.is_dir() and known and not path.name.startswith(".")
