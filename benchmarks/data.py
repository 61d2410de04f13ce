"""The training input pipeline compared with mmsegmentation's: images per second and core.

    python -m benchmarks.data [--json FILE]

Both read the same PNGs of 1024x2048 with the same number of worker processes, and make Cityscapes
batches of 512x1024. mmsegmentation's is the released training pipeline in torch's DataLoader, in
the Python that HRNET_PARITY_PYTHON names (see `make parity`). Ours makes batches of normalised
float32; mmsegmentation's stops at uint8 and normalises on its device, except where a row says it.

The programs run one at a time, in turns. A turn begins and ends with full buffers and idle
workers: its time is what it takes to make as many images as were taken out.
"""

import argparse
import multiprocessing
import os
import platform
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import cv2
import grain
import numpy as np
import psutil
from PIL import Image as PILImage
from rich.table import Table

from hrnet_jax.data.datasets.cityscapes import DATASET
from hrnet_jax.data.decode import decode, decode_image, decode_label, map_label
from hrnet_jax.data.examine import examine
from hrnet_jax.data.minicity import entries
from hrnet_jax.data.pipeline import train_batches
from hrnet_jax.data.sources.open import open_source
from hrnet_jax.data.transforms import Transform, train_transforms
from hrnet_jax.runs.paths import make_folder, write_json
from hrnet_jax.runs.terminal import Terminal
from tests.parity.peer import PYTHON, Peer

HEIGHT, WIDTH, BATCH = 1024, 2048, 4
CHAIN: dict[str, Any] = {
    "image_size": (HEIGHT, WIDTH),
    "crop_size": (512, 1024),
    "ratio_range": (0.5, 2.0),
    "mean": (123.675, 116.28, 103.53),
    "std": (58.395, 57.12, 57.375),
}
OURS, AGAIN, PEER, NORMALIZED = "hrnet-jax", "hrnet-jax again", "mmseg", "mmseg, normalised"


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--root", type=Path, help="Cityscapes with labelTrainIds; default: drawn")
    parser.add_argument("--scenes", type=int, default=16, help="drawn, if there is no --root")
    parser.add_argument("--workers", type=int, default=2, help="processes of each pipeline")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--images", type=int, default=48, help="per turn")
    parser.add_argument("--json", type=Path, help="write all figures into this file")
    options = parser.parse_args()
    os.environ.setdefault(PYTHON, ".venv-parity/bin/python")
    terminal = Terminal()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        root = options.root or draw(folder / "scenes", number=options.scenes, terminal=terminal)
        stages = time_stages(root, number=options.images, terminal=terminal)
        turns = compare(root, folder=folder, options=options, terminal=terminal)
        report: dict[str, Any] = {
            "conditions": conditions(root, options),
            "stages_ms": stages,
            "turns": turns,
            "doctor": doctor_speed(folder / "half", number=options.scenes, terminal=terminal),
            "ratios": {
                f"{a} / {b}": ratio(turns, a, b)
                for a, b in ((OURS, PEER), (OURS, NORMALIZED), (AGAIN, OURS))
            },
        }
    show(report, terminal)
    if options.json:
        write_json(options.json, report)


def draw(
    root: Path, *, number: int, terminal: Terminal, size: tuple[int, int] = (HEIGHT, WIDTH)
) -> Path:
    """Draw scenes as Cityscapes stores them, in PNGs as ordinary programs write them."""
    scenes = entries(train=number, val=0, seed=0)
    for entry in terminal.track(scenes, "Scenes drawn", total=number):
        image, raw = entry.draw(height=size[0], width=size[1])
        # A camera's optics and its demosaicing: adjacent pixels resemble each other.
        image = cv2.GaussianBlur(image, (0, 0), 0.8)
        label = map_label(raw, DATASET, path=entry.name)
        labels = entry.path("gtFine")
        train_ids = labels.with_name(labels.name.replace("labelIds", "labelTrainIds"))
        for path, pixels in (
            (entry.path("leftImg8bit"), image),
            (labels, raw),
            (train_ids, label),  # what mmsegmentation reads; we map the ids while reading
        ):
            make_folder((root / path).parent)
            PILImage.fromarray(pixels).save(root / path)
    return root


# The programs, each in processes of its own.


def compare(root: Path, *, folder: Path, options: argparse.Namespace, terminal: Terminal) -> dict:
    """Run the programs in turns; return the measurements of each program, by turn."""
    peer_folder = folder / "peer"
    peer_folder.mkdir()
    peer = Peer(peer_folder)
    servers = {name: Server(root, workers=options.workers) for name in (OURS, AGAIN)}
    batches = options.images // BATCH

    def peer_takes(*, normalize: bool) -> Callable[[], None]:
        return lambda: peer.call("take", batches=batches, normalize=normalize)

    programs: dict[str, tuple[int, Callable[[], None]]] = {
        name: (server.pid, lambda server=server: server.take(batches))
        for name, server in servers.items()
    } | {
        PEER: (peer.pid, peer_takes(normalize=False)),
        NORMALIZED: (peer.pid, peer_takes(normalize=True)),
    }
    turns: dict[str, list[dict[str, float]]] = {name: [] for name in programs}
    try:
        with terminal.announced("Starting the programs"):
            peer.call("load", root=str(root), workers=options.workers, batch_size=BATCH)
            for pid, take in programs.values():
                measure(pid, take)
        order = [name for turn in range(options.rounds) for name in list(programs)[:: (-1) ** turn]]
        for name in terminal.track(order, "Turns", total=len(order)):
            turns[name].append(measure(*programs[name], images=batches * BATCH))
    finally:
        peer.close()
        for server in servers.values():
            server.close()
    return turns


class Server:
    """Our pipeline in a process of its own."""

    def __init__(self, root: Path, *, workers: int):
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=serve, args=(theirs, root, workers))
        self._process.start()
        theirs.close()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    def take(self, batches: int) -> None:
        self._pipe.send(batches)
        self._pipe.recv()

    def close(self) -> None:
        self._pipe.close()
        self._process.join()


def serve(pipe: Connection, root: Path, workers: int) -> None:
    """Take as many batches as the pipe says, until it closes."""
    cv2.setNumThreads(0)
    stream = train_batches(
        open_source(root, DATASET, "train"),
        DATASET,
        transforms=train_transforms(**CHAIN),
        batch_size=BATCH,
        seed=0,
        start_step=0,
        workers=workers,
        threads=1,
    )
    try:
        while True:
            for _ in range(pipe.recv()):
                batch = next(stream)
            pipe.send(batch["image"].shape)
    except EOFError:
        stream.close()


def measure(pid: int, take: Callable[[], None], *, images: int = 1) -> dict[str, float]:
    """Run one turn and wait until the program is idle again."""
    wait_until_idle(pid)
    busy, begin = cpu_seconds(pid), time.perf_counter()
    take()
    seconds = wait_until_idle(pid) - begin
    busy = cpu_seconds(pid) - busy
    tree = processes(pid)
    return {
        "images per CPU second": images / busy,
        "images per second": images / seconds,
        "CPU seconds": busy,
        "seconds": seconds,
        "threads": sum(process.num_threads() for process in tree),
        "MB of the largest process": max(process.memory_info().rss for process in tree) / 1e6,
        "MB of all": sum(process.memory_info().rss for process in tree) / 1e6,
    }


def processes(pid: int) -> list[psutil.Process]:
    """List a process and its descendants."""
    parent = psutil.Process(pid)
    return [parent, *parent.children(recursive=True)]


def cpu_seconds(pid: int) -> float:
    """Sum the CPU time of a process and its descendants."""
    return sum(sum(process.cpu_times()[:2]) for process in processes(pid))


def wait_until_idle(pid: int) -> float:
    """Wait until a program and its workers only poll; return when that began."""
    window, limit = 0.4, 0.3  # seconds, and the share of a core that polling stays below
    since = begin = time.perf_counter()
    marks = [(since, cpu_seconds(pid))]
    while marks[-1][0] - since < window:
        time.sleep(0.02)
        marks.append((time.perf_counter(), cpu_seconds(pid)))
        if marks[-1][0] - begin > 120:
            raise RuntimeError(f"Process {pid} does not become idle; stop other programs first.")
        while marks[-1][0] - marks[0][0] > window:
            marks.pop(0)
        if marks[-1][1] - marks[0][1] > limit * window:
            since = marks[-1][0]
    return since


def doctor_speed(root: Path, *, number: int, terminal: Terminal) -> str:
    """Images that the doctor examines per second; each file is read many times."""
    size, repeats = (512, 1024), 16
    source = open_source(draw(root, number=number, terminal=terminal, size=size), DATASET, "train")
    rates = []
    for _ in terminal.track(range(repeats), "Doctor", total=repeats):
        begin = time.perf_counter()
        examine({"train": source}, DATASET)
        rates.append(number / (time.perf_counter() - begin))
    spread = f"{statistics.median(rates):.0f} [{min(rates):.0f}, {max(rates):.0f}]"
    return f"{spread} images/s of {size[0]}x{size[1]}, files in memory"


# Where the time of one image goes, in CPU time of its thread.


def time_stages(root: Path, *, number: int, terminal: Terminal) -> dict[str, float]:
    """Mean milliseconds of CPU time per image and stage."""
    cv2.setNumThreads(0)
    source, chain = open_source(root, DATASET, "train"), train_transforms(**CHAIN)
    total: dict[str, float] = defaultdict(float)

    def timed(stage: str, function: Callable, *args: Any, **kwargs: Any) -> Any:
        begin = time.thread_time()
        result = function(*args, **kwargs)
        total[stage] += time.thread_time() - begin
        return result

    examples = []
    for index in terminal.track(range(number + 2), "Stages timed", total=number + 2):
        if index == 2:  # the first two warm up
            total.clear()
        rng = np.random.default_rng(index)
        record = timed("read", source.__getitem__, index % len(source))
        timed("decode image", decode_image, record.image, path=record.image_path)
        raw = timed("decode label", decode_label, record.label, path=record.label_path)
        timed("map label", map_label, raw, DATASET, path=record.label_path)
        example = decode(record, DATASET)
        for transform in chain:
            example = timed(type(transform).__name__, apply(transform, rng), example)
        examples = [*examples, example][-BATCH:]
        if len(examples) == BATCH:
            timed("stack", np.stack, [example["image"] for example in examples])
    total["stack"] /= BATCH  # a whole batch was stacked after each image
    return {stage: 1000 * seconds / number for stage, seconds in total.items()}


def apply(transform: Transform, rng: np.random.Generator) -> Callable:
    """Return the transform as a function of an example."""
    if isinstance(transform, grain.transforms.RandomMap):
        return lambda example: transform.random_map(example, rng)
    return transform.map


# The report.


def ratio(turns: dict, first: str, second: str) -> dict[str, dict[str, float]]:
    """Median, smallest and largest ratio of two programs in the same round."""
    result = {}
    for what in ("images per CPU second", "images per second"):
        values = [a[what] / b[what] for a, b in zip(turns[first], turns[second], strict=True)]
        result[what] = {"median": statistics.median(values), "min": min(values), "max": max(values)}
    return result


def conditions(root: Path, options: argparse.Namespace) -> dict[str, Any]:
    """What was measured, and on which machine."""
    images = sorted((root / "leftImg8bit" / "train").rglob("*_leftImg8bit.png"))
    return {
        "images": f"{len(images)} PNGs, {HEIGHT}x{WIDTH}" if not options.root else str(root),
        "mean MB of an image": statistics.mean(path.stat().st_size for path in images) / 1e6,
        "crop": "512x1024",
        "batch": BATCH,
        "workers": options.workers,
        "rounds": options.rounds,
        "images per turn": options.images // BATCH * BATCH,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}",
        "load before": os.getloadavg()[0],
        "python": platform.python_version(),
        "opencv": cv2.__version__,
        "numpy": np.__version__,
    }


def show(report: dict[str, Any], terminal: Terminal) -> None:
    """Print the report."""
    for name, value in report["conditions"].items():
        terminal.line(f"{name}: {value:.2f}" if isinstance(value, float) else f"{name}: {value}")
    table = Table("median of the turns", *report["turns"])
    for what in next(iter(report["turns"].values()))[0]:
        medians = [statistics.median(turn[what] for turn in t) for t in report["turns"].values()]
        table.add_row(what, *(f"{median:.4g}" for median in medians))
    terminal.table(table)
    table = Table("ratio within a round", "median", "smallest", "largest")
    for pair, ratios in report["ratios"].items():
        for what, values in ratios.items():
            table.add_row(f"{what}: {pair}", *(f"{value:.2f}" for value in values.values()))
    terminal.table(table)
    terminal.line(f"The doctor reads {report['doctor']}.")
    stages = report["stages_ms"]
    table = Table("stage", "ms of CPU per image", "share")
    for stage, milliseconds in stages.items():
        share = milliseconds / sum(stages.values())
        table.add_row(stage, f"{milliseconds:.1f}", f"{share:.0%}")
    table.add_row("all", f"{sum(stages.values()):.1f}", "100%")
    terminal.table(table)


if __name__ == "__main__":
    main()
