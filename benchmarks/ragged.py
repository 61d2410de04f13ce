"""Images of many sizes in few programs, compared with one program per size.

    python -m benchmarks.ragged [--images 60] [--json FILE]

The sizes resemble ADE20K's: the short side is 512, as after the keep-ratio resize; the ratio of
long to short side is log-uniform between 1 and 2.5; every second image is upright; one image is
1x1. Both ways label the same images with the same weights. Times include compilation, but not
drawing the images; no compiled program is kept from one run to the next. Label maps are compared
wherever the margin between the two best classes is above rounding, stride-4 logits everywhere.
"""

import argparse
import io
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from rich.console import Console

from benchmarks.paired_timing import conditions
from hrnet_jax.data.transforms import ResizeViews, normalize
from hrnet_jax.data.types import Example
from hrnet_jax.evaluation.evaluator import Evaluator
from hrnet_jax.evaluation.pixels import bucket_logits
from hrnet_jax.evaluation.protocol import Protocol, bucket_side
from hrnet_jax.models import split
from hrnet_jax.ops import resize
from hrnet_jax.parallel.compiling import inference_options, prepare_process, set_precision
from hrnet_jax.parallel.mesh import make_mesh
from hrnet_jax.runs.paths import write_json
from hrnet_jax.runs.terminal import Terminal
from tests.published import published_model

VARIANT, CLASSES, SHORT = "hr18s", 150, 512
MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
PROTOCOL = Protocol(image_size=(SHORT, 2048))


def main() -> None:
    """Measure, compare, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--images", type=int, default=60)
    parser.add_argument("--batch", type=int, default=2, help="images of mixed sizes per call")
    parser.add_argument("--json", type=Path, help="write all figures into this file")
    parser.set_defaults(rounds=1)
    options = parser.parse_args()
    prepare_process()  # as hrnet_jax.main does
    set_precision("float32")
    terminal = Terminal()
    sizes = draw_sizes(options.images)
    structure, params, batch_stats = split(published_model(VARIANT, num_classes=CLASSES))
    said = {"network": f"{VARIANT}, float32", "batch": options.batch, **conditions(options)}
    in_buckets = buckets(
        structure, params, batch_stats, sizes, batch=options.batch, terminal=terminal
    )
    one_by_one = per_shape(structure, params, batch_stats, sizes, terminal=terminal)
    figures = {
        "images": len(sizes),
        "different sizes": len(set(sizes)),
        "programs, in buckets": in_buckets["programs"],
        "programs, one per size": one_by_one["programs"],
        "seconds, in buckets": in_buckets["seconds"],
        "of these compiling": in_buckets["compiling"],
        "seconds, one program per size": one_by_one["seconds"],
        "ratio of times": in_buckets["seconds"] / one_by_one["seconds"],
        "padding, share of the computed pixels": in_buckets["padding"],
        **differences(
            structure, params, batch_stats, sizes, in_buckets, one_by_one, terminal=terminal
        ),
    }
    for name, value in figures.items():
        terminal.line(f"{name}: {value:.3g}" if isinstance(value, float) else f"{name}: {value}")
    if options.json:
        write_json(options.json, {"conditions": said, "figures": figures})


def draw_sizes(count: int) -> list[tuple[int, int]]:
    """Heights and widths as described above."""
    rng = np.random.default_rng(0)
    longs = np.round(SHORT * np.exp(rng.uniform(0, np.log(2.5), count - 1))).astype(int).tolist()
    sizes = [(SHORT, long) if n % 2 else (long, SHORT) for n, long in enumerate(longs)]
    return [(1, 1), *sizes]


def image_of(number: int, size: tuple[int, int]) -> np.ndarray:
    """Draw coarse and fine noise, with smooth areas and edges; the same for the same number."""
    rng = np.random.default_rng(number)
    coarse = rng.integers(0, 256, (-(-size[0] // 32), -(-size[1] // 32), 3))
    fine = rng.integers(-30, 31, (*size, 3))
    large = coarse.repeat(32, 0).repeat(32, 1)[: size[0], : size[1]]
    return np.clip(large + fine, 0, 255).astype(np.uint8)


def example_of(number: int, size: tuple[int, int]) -> Example:
    """One image without labels, which is not resized."""
    image = image_of(number, size)
    plain = {"id": str(number), "image": image, "label": np.full(size, 255, np.uint8)}
    return ResizeViews(sizes=lambda size: [size]).map(plain)


def buckets(
    structure: Any, params: dict, batch_stats: dict, sizes: list, *, batch: int, terminal: Terminal
) -> dict[str, Any]:
    """Label all images in buckets, as evaluation does."""
    said = io.StringIO()
    evaluator = Evaluator(
        structure, num_classes=CLASSES, protocol=PROTOCOL, mean=MEAN, std=STD,
        mesh=make_mesh(devices=jax.devices()[:1]), batch_size=batch,
        dtype=jnp.float32, terminal=Terminal(Console(file=said, width=200)),
    )  # fmt: skip
    examples = [example_of(n, size) for n, size in enumerate(sizes)]
    labels, begin = {}, time.perf_counter()
    tracked = terminal.track(examples, "In buckets", total=len(examples))
    for labelled in evaluator.label(params, batch_stats, tracked):
        for example, label in zip(labelled.examples, labelled.labels, strict=True):
            labels[int(example["id"])] = label
    seconds = time.perf_counter() - begin
    compiling = [line for line in said.getvalue().splitlines() if line.endswith(" s")]
    terminal.line(evaluator.costs())
    return {
        "labels": labels,
        "seconds": seconds,
        "programs": len(compiling),
        "compiling": sum(float(line.split()[-2]) for line in compiling),
        "padding": evaluator.padding_fraction,
    }


def per_shape(
    structure: Any, params: dict, batch_stats: dict, sizes: list, *, terminal: Terminal
) -> dict[str, Any]:
    """Label every image in a program of exactly its size; keep its stride-4 logits too."""

    def label(params: dict, batch_stats: dict, image: jax.Array) -> tuple[jax.Array, jax.Array]:
        model = nnx.merge(structure, params, batch_stats)
        model.eval()
        logits = model(image)
        full = resize(logits, image.shape[1:3])
        return jnp.argmax(full[0], -1).astype(jnp.uint8), logits

    programs = {
        size: jax.jit(label, compiler_options=inference_options(size)) for size in set(sizes)
    }
    images = [
        normalize(image_of(n, size), mean=MEAN, std=STD)[None] for n, size in enumerate(sizes)
    ]
    begin = time.perf_counter()
    tracked = terminal.track(images, "One program per size", total=len(images))
    found = [
        jax.device_get(programs[image.shape[1:3]](params, batch_stats, image)) for image in tracked
    ]
    return {
        "found": found,
        "seconds": time.perf_counter() - begin,
        "programs": len(programs),
    }


def differences(
    structure: Any,
    params: dict,
    batch_stats: dict,
    sizes: list,
    in_buckets: dict,
    one_by_one: dict,
    *,
    terminal: Terminal,
) -> dict[str, Any]:
    """Compare label maps of all images, and stride-4 logits of every tenth."""

    @jax.jit
    def in_bucket(image: jax.Array, size: jax.Array) -> jax.Array:
        model = nnx.merge(structure, params, batch_stats)
        model.eval()
        return bucket_logits(model, image, size)

    different = clear = pixels = 0
    worst, compared = 0.0, 0
    pairs = list(zip(sizes, one_by_one["found"], strict=True))
    for number, (size, (label, logits)) in terminal.track(
        enumerate(pairs), "Comparing", total=len(pairs)
    ):
        wrong = label != in_buckets["labels"][number]
        pixels, different = pixels + wrong.size, different + int(wrong.sum())
        if wrong.any():
            full = np.asarray(resize(jnp.asarray(logits), size))[0]
            best, second = np.sort(full[wrong], -1)[:, :-3:-1].T
            clear += int((best - second > 1e-5 * abs(logits).max()).sum())
        if number % 10 == 0:
            image = normalize(image_of(number, size), mean=MEAN, std=STD)[None]
            bucket = np.full((1, *map(bucket_side, size), 3), np.nan, np.float32)
            bucket[:, : size[0], : size[1]] = image
            found = np.asarray(in_bucket(bucket, np.array([size], np.int32)))
            found = found[:, : logits.shape[1], : logits.shape[2]]
            worst = max(worst, float(abs(found - logits).max() / abs(logits).max()))
            compared += 1
    return {
        "pixels": pixels,
        "labelled differently": different,
        "of these with a margin above rounding": clear,
        f"largest difference of logits ({compared} images), relative": worst,
    }


if __name__ == "__main__":
    main()
