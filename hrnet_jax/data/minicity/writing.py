"""Write the files of minicity, all or none."""

import glob
import os
import platform
import shutil
import sys
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np

from hrnet_jax.data.minicity.scene import draw_scene
from hrnet_jax.data.types import Image, Label
from hrnet_jax.data.workers import begin_worker
from hrnet_jax.runs.paths import has_ended, make_folder, write_json

VERSION = 2  # of the drawings; increased whenever the same seed gives other pixels
CITIES = {
    "train": ("aldermoor", "brunnthal", "castelvento", "dornhaven", "eskeby", "fontmarin",
              "grauberg", "hollinsea"),
    "val": ("lindmark", "mirefleur", "northolm"),
}  # fmt: skip
SCENES_PER_WORKER = 16  # at least; fewer do not justify the start of a process
_SPLIT_SEEDS = {"train": 0, "val": 1}
# Fixed, so that the bytes of a file depend on its pixels alone.
_PNG = (cv2.IMWRITE_PNG_COMPRESSION, 2, cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE,
        cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_SUB)  # fmt: skip


@dataclass(frozen=True)
class Entry:
    """The name of one scene in the dataset; its drawing depends on these fields alone."""

    split: str
    index: int
    seed: int

    @property
    def name(self) -> str:
        """Return the file name up to the kind, e.g. `lindmark_000004_000019`."""
        cities = CITIES[self.split]
        city = cities[self.index % len(cities)]
        return f"{city}_{self.index // len(cities):06d}_000019"

    def path(self, kind: str) -> Path:
        """Return the path below the root of the `leftImg8bit` or `gtFine` file."""
        suffix = "_labelIds" if kind == "gtFine" else ""
        city = self.name.split("_", maxsplit=1)[0]
        return Path(kind, self.split, city, f"{self.name}_{kind}{suffix}.png")

    def draw(self, *, height: int = 256, width: int = 512) -> tuple[Image, Label]:
        """Draw the scene with a generator of its own, so that more scenes do not change it."""
        rng = np.random.default_rng([self.seed, _SPLIT_SEEDS[self.split], self.index])
        return draw_scene(rng, height=height, width=width)


def entries(*, train: int, val: int, seed: int) -> list[Entry]:
    """List the scenes of a dataset."""
    counts = {"train": train, "val": val}
    return [Entry(split, i, seed) for split, count in counts.items() for i in range(count)]


def _write_png(path: Path, pixels: np.ndarray) -> None:
    good, data = cv2.imencode(".png", pixels, _PNG)
    if not good:
        raise OSError(f"cv2 could not encode {path.name}")
    make_folder(path.parent)
    path.write_bytes(data.tobytes())


def _write_scene(entry: Entry, *, root: Path, height: int, width: int) -> None:
    image, label = entry.draw(height=height, width=width)
    _write_png(root / entry.path("leftImg8bit"), np.ascontiguousarray(image[..., ::-1]))
    _write_png(root / entry.path("gtFine"), label)


@contextmanager
def _no_main() -> Iterator[None]:
    """Keep new workers from importing the main module: `hrnet_jax.main` would import JAX."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _each(
    job: Callable[[Entry], None], todo: list[Entry], *, workers: int
) -> Generator[None, None, None]:
    """Run the job for every scene, in worker processes if there are at least two."""
    if workers < 2:
        yield from map(job, todo)
        return
    # `spawn`, because a process that runs JAX must not be forked
    pool = ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=begin_worker)
    try:
        with _no_main():
            done = pool.map(job, todo)  # submits everything, which starts the workers
        yield from done
    finally:
        pool.shutdown(cancel_futures=True)  # Ctrl-C does not wait for hundreds of scenes


def write(
    root: Path,
    *,
    train: int = 200,
    val: int = 50,
    seed: int = 0,
    height: int = 256,
    width: int = 512,
    workers: int | None = None,  # processes; default: one per core, if there are enough scenes
    track: Callable[[Iterable[None]], Iterable[None]] = iter,  # shows progress, scene by scene
) -> None:
    """Write the dataset to the new folder `root`, atomically."""
    root = Path(root)
    if root.exists():
        raise FileExistsError(f"{root} exists; remove it to write minicity again")
    make_folder(root.parent)
    part = root.with_name(f".{root.name}.{platform.node()}.{os.getpid()}.tmp")
    for left in root.parent.glob(f".{glob.escape(root.name)}.{platform.node()}.*.tmp"):
        if has_ended(left):
            shutil.rmtree(left, ignore_errors=True)
    part.mkdir()
    try:
        todo = entries(train=train, val=val, seed=seed)
        job = partial(_write_scene, root=part, height=height, width=width)
        if workers is None:
            workers = min(os.cpu_count() or 1, len(todo) // SCENES_PER_WORKER)
        with closing(_each(job, todo, workers=workers)) as done:
            for _ in track(done):
                pass
        facts = {"name": "minicity", "version": VERSION, "seed": seed, "train": train, "val": val,
                 "height": height, "width": width}  # fmt: skip
        write_json(part / "minicity.json", facts)
        os.replace(part, root)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
