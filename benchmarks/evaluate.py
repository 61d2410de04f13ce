"""Full evaluation compared with mmsegmentation's: PNG files to confusion matrix, W18-Small.

    python -m benchmarks.evaluate [--json FILE]

Both read the same drawn scenes, decode, resize, run the network, resize the logits to the original
size and count; one image at a time, on the same number of threads. mmsegmentation runs in PyTorch's
eager mode, in the Python that HRNET_PARITY_PYTHON names (see `make parity`). The two take turns, so
that a slow moment of the machine affects both; ratios are taken within a round.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from PIL import Image as PILImage
from rich.table import Table

from benchmarks.paired_timing import conditions, save_weights
from hrnet_jax.data import minicity
from hrnet_jax.data.datasets.cityscapes import DATASET
from hrnet_jax.data.decode import decode, map_label
from hrnet_jax.data.pipeline import eval_examples
from hrnet_jax.data.sources.open import open_source
from hrnet_jax.data.transforms import ResizeViews, normalize
from hrnet_jax.evaluation.evaluator import Evaluator
from hrnet_jax.evaluation.pixels import bucket_logits
from hrnet_jax.evaluation.protocol import MULTI_SCALE, Protocol
from hrnet_jax.models import split
from hrnet_jax.parallel.compiling import (
    enable_compilation_cache,
    inference_options,
    prepare_process,
    set_precision,
)
from hrnet_jax.parallel.mesh import make_mesh
from hrnet_jax.runs.paths import cache_folder, write_json
from hrnet_jax.runs.terminal import Terminal
from tests.parity.peer import PYTHON, Peer
from tests.published import published_model

VARIANT, HEIGHT, WIDTH = "hr18s", 512, 1024
MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
PROTOCOLS = {
    "whole": Protocol(image_size=(HEIGHT, WIDTH)),
    "ms+flip": Protocol(image_size=(HEIGHT, WIDTH), ratios=MULTI_SCALE, flip=True),
}


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--images", type=int, default=4, help="of 512x1024, per turn, whole mode")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write all figures into this file")
    options = parser.parse_args()
    prepare_process()  # as hrnet_jax.main does
    os.environ.setdefault(PYTHON, ".venv-parity/bin/python")
    enable_compilation_cache(cache_folder() / "xla")
    set_precision("float32")
    terminal = Terminal()
    report: dict[str, Any] = {
        "conditions": {
            "network": f"{VARIANT}, float32, 19 classes",
            "images": f"{options.images} PNGs of {HEIGHT}x{WIDTH} (ms+flip: 1)",
            **conditions(options),
        }
    }
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        root = draw(folder / "scenes", images=options.images)
        peer = Peer(folder)
        try:
            weights = save_weights(peer, VARIANT, folder)
            for mode in PROTOCOLS:
                count = options.images if mode == "whole" else 1
                report[mode] = compare(
                    mode, root, peer, weights, images=count, rounds=options.rounds,
                    terminal=terminal,
                )  # fmt: skip
        finally:
            peer.close()
        report["shares"] = shares(root, images=options.images)
    show(report, terminal)
    if options.json:
        write_json(options.json, report)


def draw(root: Path, *, images: int) -> Path:
    """Draw a validation split, with the labels that each side reads."""
    minicity.write(root, train=1, val=images, height=HEIGHT, width=WIDTH)
    for path in sorted((root / "gtFine").rglob("*_gtFine_labelIds.png")):
        label = map_label(np.asarray(PILImage.open(path)), DATASET, path=str(path))
        PILImage.fromarray(label).save(str(path).replace("labelIds", "labelTrainIds"))
    return root


def our_evaluation(root: Path, mode: str, *, images: int) -> Callable[[], np.ndarray]:
    """Return a function that evaluates the first images and returns the confusion matrix."""
    protocol = PROTOCOLS[mode]
    structure, params, batch_stats = split(published_model(VARIANT))
    evaluator = Evaluator(
        structure, num_classes=19, protocol=protocol, mean=MEAN, std=STD,
        mesh=make_mesh(devices=jax.devices()[:1]), batch_size=1, dtype=jnp.float32,
        terminal=Terminal(),
    )  # fmt: skip
    source = open_source(root, DATASET, "val")

    def run() -> np.ndarray:
        examples = eval_examples(
            source, DATASET, transforms=[ResizeViews(sizes=protocol.view_sizes)]
        )
        some = (example for example, _ in zip(examples, range(images), strict=False))
        return evaluator(params, batch_stats, some, total=images).confusion

    return run


def compare(
    mode: str, root: Path, peer: Peer, weights: str, *, images: int, rounds: int, terminal: Terminal
) -> dict[str, Any]:
    """Seconds of each turn of both sides, and how many pixels they counted differently."""
    ours = our_evaluation(root, mode, images=images)
    protocol, threads = PROTOCOLS[mode], os.cpu_count()

    def theirs() -> list:
        return peer.call(
            "evaluate", root=str(root), images=images, threads=threads,
            ratios=list(protocol.ratios), flip=protocol.flip,
        )  # fmt: skip

    peer.call("load_model", variant=VARIANT, num_classes=19, weights=weights)
    first, second = ours(), np.array(theirs())  # compiles, warms up
    turns: dict[str, list[float]] = {"ours": [], "ours again": [], "mmseg": []}
    order = ["ours", "mmseg", "ours again"]
    for number in terminal.track(range(rounds), mode, total=rounds):
        for name in order[:: (-1) ** number]:
            begin = time.perf_counter()
            ours() if name.startswith("ours") else theirs()
            turns[name].append((time.perf_counter() - begin) / images)
    ratios = {
        "mmseg / ours": [p / o for p, o in zip(turns["mmseg"], turns["ours"], strict=True)],
        "ours again / ours (A/A)": [
            a / o for a, o in zip(turns["ours again"], turns["ours"], strict=True)
        ],
    }
    return {
        "seconds per image": turns,
        "ratios": ratios,
        "pixels counted": int(first.sum()),
        "pixels counted differently": int(abs(first - second).sum() // 2),
    }


def shares(root: Path, *, images: int) -> dict[str, float]:
    """Seconds of one image in whole mode: reading and decoding, network, logits to counts."""
    protocol = PROTOCOLS["whole"]
    source, resize = open_source(root, DATASET, "val"), ResizeViews(sizes=protocol.view_sizes)
    begin = time.perf_counter()
    examples = [resize.map(decode(source[index], DATASET)) for index in range(images)]
    decoding = (time.perf_counter() - begin) / images
    structure, params, batch_stats = split(published_model(VARIANT))

    @jax.jit
    def network(params: dict, batch_stats: dict, image: jax.Array) -> jax.Array:
        sizes = jnp.asarray([[HEIGHT, WIDTH]], jnp.int32)
        return bucket_logits(nnx.merge(structure, params, batch_stats), image, sizes)

    image = normalize(examples[0]["views"][0], mean=MEAN, std=STD)[None]
    program = network.lower(params, batch_stats, image).compile(inference_options((HEIGHT, WIDTH)))
    whole = our_evaluation(root, "whole", images=images)
    whole()
    network_times, whole_times = [], []
    for _ in range(5):
        begin = time.perf_counter()
        program(params, batch_stats, image).block_until_ready()
        network_times.append(time.perf_counter() - begin)
        begin = time.perf_counter()
        whole()
        whole_times.append((time.perf_counter() - begin) / images)
    total, net = statistics.median(whole_times), statistics.median(network_times)
    return {
        "one image in total": total,
        "network": net,
        "reading, decoding, resizing (on another thread)": decoding,
        "everything but the network": total - net,
    }


def show(report: dict[str, Any], terminal: Terminal) -> None:
    """Print the report."""
    for name, value in report["conditions"].items():
        terminal.line(f"{name}: {value}")
    for mode in PROTOCOLS:
        table = Table(mode, "median", "smallest", "largest")
        for name, values in report[mode]["seconds per image"].items():
            row = (statistics.median(values), min(values), max(values))
            table.add_row(f"{name}, s per image", *(f"{value:.2f}" for value in row))
        for name, values in report[mode]["ratios"].items():
            row = (statistics.median(values), min(values), max(values))
            table.add_row(name, *(f"{value:.2f}" for value in row))
        terminal.table(table)
        different, all_pixels = (
            report[mode][k] for k in ("pixels counted differently", "pixels counted")
        )
        terminal.line(f"{different} of {all_pixels:,} pixels counted differently")
    for name, seconds in report["shares"].items():
        share = seconds / report["shares"]["one image in total"]
        terminal.line(f"{name}: {seconds:.3f} s ({share:.0%})")


if __name__ == "__main__":
    main()
