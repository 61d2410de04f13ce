"""What must not grow: memory over many examples, and with many classes and large images.

    python -m benchmarks.bounds soak        # training examples: 10,000 through the input pipeline
    python -m benchmarks.bounds evaluation  # 5,000 small images through the evaluator
    python -m benchmarks.bounds classes     # 1000 classes at 1024x2048 and 4096x4096, 150 at both

Each prints resident memory as it goes; `classes` also the bound that the evaluator announces.
"""

import argparse
import gc
import re
import tempfile
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import psutil
from rich.console import Console

from hrnet_jax.data import minicity
from hrnet_jax.data.datasets.cityscapes import DATASET
from hrnet_jax.data.pipeline import eval_examples, train_batches
from hrnet_jax.data.sources.open import open_source
from hrnet_jax.data.transforms import ResizeViews, train_transforms
from hrnet_jax.data.types import Example
from hrnet_jax.evaluation.evaluator import Evaluator
from hrnet_jax.evaluation.protocol import Protocol
from hrnet_jax.models import split
from hrnet_jax.parallel.compiling import prepare_process, set_precision
from hrnet_jax.parallel.mesh import make_mesh
from hrnet_jax.parallel.process_settings import peak_memory, reset_peak
from hrnet_jax.runs.terminal import Terminal
from tests.published import published_model

MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


def main() -> None:
    """Run one of the three."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("what", choices=["soak", "evaluation", "classes"])
    parser.add_argument("--workers", type=int, default=2, help="processes of the soak")
    options = parser.parse_args()
    prepare_process()  # as hrnet_jax.main does
    set_precision("float32")
    terminal = Terminal()
    if options.what == "classes":
        for classes in (150, 1000):
            for size in ((1024, 2048), (4096, 4096)):
                many_classes(classes, size, terminal=terminal)
        return
    with tempfile.TemporaryDirectory() as name:
        root = Path(name) / "city"
        minicity.write(root, train=40, val=40, height=128, width=256)
        if options.what == "soak":
            soak(root, workers=options.workers, terminal=terminal)
        else:
            evaluation(root, terminal=terminal)


def resident() -> tuple[float, float]:
    """Megabytes of this process and of the largest of its workers."""
    own = psutil.Process()
    workers = [child.memory_info().rss for child in own.children(recursive=True)]
    return own.memory_info().rss / 1e6, max(workers, default=0) / 1e6


def soak(root: Path, *, workers: int, terminal: Terminal, count: int = 10_000) -> None:
    """Read, augment and batch examples."""
    transforms = train_transforms(
        image_size=(128, 256), crop_size=(64, 128), ratio_range=(0.5, 2.0), mean=MEAN, std=STD
    )
    batches = train_batches(
        open_source(root, DATASET, "train"), DATASET, transforms=transforms, batch_size=10,
        seed=0, start_step=0, workers=workers,
    )  # fmt: skip
    for number in terminal.track(range(0, count + 1, 1000), "1,000 examples", total=count // 1000):
        own, worker = resident()
        terminal.line(f"{number:6,} examples: {own:.1f} MB, largest worker {worker:.1f} MB")
        for _ in islice(batches, 100):
            pass
    batches.close()


def evaluation(root: Path, *, terminal: Terminal, count: int = 5_000) -> None:
    """Evaluate images of 128x256, read from files over and over."""
    protocol = Protocol(image_size=(128, 256))
    source = open_source(root, DATASET, "val")
    evaluator, params, batch_stats = evaluator_of(19, protocol, terminal=terminal, batch_size=4)

    def examples() -> Iterator[Example]:
        done = 0
        while True:
            for example in eval_examples(
                source, DATASET, transforms=[ResizeViews(sizes=protocol.view_sizes)]
            ):
                if done % 500 == 0:
                    terminal.line(f"{done:6,} images: {resident()[0]:.1f} MB")
                if done == count:
                    return
                done += 1
                yield example

    terminal.line(str(evaluator(params, batch_stats, examples(), total=count)))


def many_classes(classes: int, size: tuple[int, int], *, terminal: Terminal) -> None:
    """Evaluate one image, and compare what it took with what was announced."""
    evaluator, params, batch_stats = evaluator_of(
        classes, Protocol(image_size=size), terminal=Terminal(Console(quiet=True))
    )
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    example = {"id": "noise", "image": image, "label": np.zeros(size, np.uint8), "views": [image]}
    for _ in evaluator.label(params, batch_stats, [example]):
        pass  # compiles
    gc.collect()
    before = reset_peak()
    (labelled,) = evaluator.label(params, batch_stats, [example])
    most = peak_memory()
    announced = re.search(r"at most ([\d,]+) MB", evaluator.costs())
    assert announced
    assert before is not None
    assert most is not None
    found = len(np.unique(labelled.labels[0]))
    terminal.line(
        f"{classes} classes, {size[0]}x{size[1]}: announced {announced[1]} MB; resident before "
        f"{before / 1e6:,.0f} MB, at most {most / 1e6:,.0f} MB while it ran; full-size "
        f"logits would be {classes * np.prod(size) * 4 / 1e6:,.0f} MB; {found} classes found"
    )


def evaluator_of(
    classes: int, protocol: Protocol, *, terminal: Terminal, batch_size: int = 1
) -> tuple[Evaluator, dict, dict]:
    """W18-Small for one device."""
    structure, params, batch_stats = split(published_model("hr18s", num_classes=classes))
    evaluator = Evaluator(
        structure, num_classes=classes, protocol=protocol, mean=MEAN, std=STD,
        mesh=make_mesh(devices=jax.devices()[:1]), batch_size=batch_size,
        dtype=jnp.float32, terminal=terminal,
    )  # fmt: skip
    return evaluator, params, batch_stats


if __name__ == "__main__":
    main()
