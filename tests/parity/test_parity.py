"""Our network compared with mmsegmentation: `make parity`. Writes `docs/parity.md`.

Weights come from files that mmsegmentation saved, through the converter, as a user's do.
"""

import dataclasses
import datetime
import hashlib
import os
from pathlib import Path

import jax
import numpy as np
import pytest

from hrnet_jax.commands.convert import to_checkpoint, to_file
from hrnet_jax.config.load import predictor_of
from hrnet_jax.evaluation.protocol import MULTI_SCALE, Protocol
from hrnet_jax.interop.read import read_source
from hrnet_jax.interop.weights import template
from hrnet_jax.parallel.compiling import enable_compilation_cache, set_precision
from hrnet_jax.runs.paths import cache_folder
from hrnet_jax.runs.stored_weights import Weights, load_weights
from tests.parity import document, ours
from tests.parity.document import BACKWARD, LONG, NUDGED, SHORT, TOTAL
from tests.parity.peer import PYTHON, Peer
from tests.published import published_tensor

pytestmark = [
    pytest.mark.parity,
    pytest.mark.skipif(PYTHON not in os.environ, reason="run `make parity`"),
]

ROWS = {"logits": 24, "label maps": 8, "backward": 3, "training": 3, "round trip": 6}
VARIANTS = ("hr18s", "hr18", "hr48")
SIZES = ((512, 1024), (375, 500), (513, 769), (97, 65))
OTHER_CLASSES = (150, 21, 60, 59)


@pytest.fixture(scope="session")
def folder(tmp_path_factory) -> Path:
    set_precision("float32")
    enable_compilation_cache(cache_folder() / "xla")
    return tmp_path_factory.mktemp("parity")


@pytest.fixture(autouse=True)
def forget_programs():
    """Free programs after each test: no two tests share one, and dozens would fill the memory."""
    yield
    jax.clear_caches()


@pytest.fixture(scope="session")
def peer(folder):
    peer = Peer(folder)
    yield peer
    peer.close()


@pytest.fixture(scope="session")
def tables(peer):
    """Rows by table. A table that this run completes replaces the one in `docs/parity.md`."""
    tables: dict[str, list[str]] = {name: [] for name in ROWS}
    yield tables
    theirs = ", ".join(f"{name} {version}" for name, version in peer.call("versions").items())
    for name, rows in tables.items():
        print("", name, *rows, sep="\n")  # seen with `pytest -s`
        if len(rows) == ROWS[name]:  # a row is added when its test passes
            run = f"{datetime.datetime.now():%Y-%m-%d}, {theirs}; jax {jax.__version__}"
            document.store(name, rows=rows, run=run)


@pytest.fixture(scope="session")
def files(folder, peer):
    """Make the file of a variant, once: weights by name, or mmsegmentation's random ones."""

    def make(variant: str, num_classes: int = 19, *, style: str = "0.x", own: bool = False) -> Path:
        path = folder / f"{variant}_{num_classes}_{style}_{own}.pth"
        if not path.exists():
            tensors = folder / "tensors.npz"
            if not own:
                shapes = {k: shape for k, (_, shape) in template(variant, num_classes).items()}
                np.savez(tensors, **{k: published_tensor(k, s) for k, s in shapes.items()})
            peer.call("save", variant=variant, num_classes=num_classes, path=str(path),
                      tensors="" if own else str(tensors), style=style)  # fmt: skip
            tensors.unlink(missing_ok=True)
        return path

    return make


@pytest.fixture(scope="session")
def converted(folder):
    """Convert a file into a checkpoint, once."""

    def convert(path: Path) -> Weights:
        target = folder / path.stem
        if not target.exists():
            to_checkpoint(path, target)
        return load_weights(target)

    return convert


def image(height: int, width: int, *, seed: int = 0) -> np.ndarray:
    random = np.random.RandomState(seed)
    return random.standard_normal((1, 3, height, width)).astype(np.float32)


def batches(count: int, *, crop: tuple[int, int], num_classes: int = 19) -> dict[str, np.ndarray]:
    """Fixed batches; a quarter of every label is ignored, and some single pixels."""
    random = np.random.RandomState(7)
    height, width = crop
    images = random.standard_normal((count, ours.BATCH, 3, height, width)).astype(np.float32)
    blocks = random.randint(0, num_classes, (count, ours.BATCH, height // 8, width // 8))
    labels = blocks.repeat(8, 2).repeat(8, 3).astype(np.uint8)
    labels[random.random_sample(labels.shape) < 0.02] = 255
    labels[..., : height // 2, : width // 2] = 255
    return {"image": images, "label": labels}


def distance(a: np.ndarray, b: np.ndarray) -> float:
    """Largest absolute difference."""
    assert a.shape == b.shape
    return float(np.abs(np.asarray(a, np.float64) - b).max())


def relative(a: dict, b: dict, keys: list[str]) -> float:
    """The largest of the relative L2 distances of single tensors."""
    return max(float(np.linalg.norm(a[k] - b[k]) / np.linalg.norm(b[k])) for k in keys)


def whole(a: dict, b: dict, keys: list[str]) -> float:
    """The relative L2 distance of all tensors as one vector."""
    above = sum(float(np.square(a[k] - b[k]).sum()) for k in keys)
    return (above / sum(float(np.square(b[k]).sum()) for k in keys)) ** 0.5


def check_logits(tables, name: str, results32, results64, theirs32, theirs64) -> None:
    scale = float(np.abs(theirs64).max())
    error = distance(results32, theirs32) / scale
    noise = distance(theirs32, theirs64) / scale
    own = distance(results32, theirs64) / scale
    error64 = distance(results64, theirs64) / scale
    assert error <= max(1e-5, 2 * noise)
    assert error64 <= 1e-10
    tables["logits"].append(
        f"| {name} | {scale:.2f} | {error:.1e} | {own:.1e} | {noise:.1e} | {error64:.1e} |"
    )


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("variant", VARIANTS)
def test_logits_of_every_size(variant, size, peer, files, converted, tables):
    path = files(variant)
    weights, pixels = converted(path), image(*size)
    theirs = peer.arrays("logits", variant=variant, num_classes=19, weights=str(path),
                         inputs={"x": pixels}, dtypes=["float32", "float64"])  # fmt: skip
    mine = {dtype: ours.logits(weights, pixels, dtype) for dtype in ("float32", "float64")}
    check_logits(tables, f"{variant} | 19 | {size[0]}x{size[1]}", mine["float32"],
                 mine["float64"], theirs["x float32"], theirs["x float64"])  # fmt: skip


@pytest.mark.parametrize("variant", VARIANTS)
def test_logits_of_every_number_of_classes(variant, peer, files, converted, tables):
    pixels = image(97, 65, seed=1)
    paths = [files(variant, count, style="1.x") for count in OTHER_CLASSES]
    weights = [converted(path) for path in paths]
    mine = {
        dtype: ours.logits_in_two_programs(weights, pixels, dtype)
        for dtype in ("float32", "float64")
    }
    for index, (count, path) in enumerate(zip(OTHER_CLASSES, paths, strict=True)):
        theirs = peer.arrays("logits", variant=variant, num_classes=count, weights=str(path),
                             inputs={"x": pixels}, dtypes=["float32", "float64"])  # fmt: skip
        check_logits(tables, f"{variant} | {count} | 97x65", mine["float32"][index],
                     mine["float64"][index], theirs["x float32"], theirs["x float64"])  # fmt: skip


@pytest.mark.parametrize("variant", VARIANTS)
def test_one_backward_pass(variant, peer, files, converted, tables):
    path = files(variant, own=True)
    steps = batches(BACKWARD, crop=ours.BACKWARD)
    own32 = ours.backward(converted(path), "float32")
    losses, distances = [], []  # of float32, ours and mmsegmentation's, from its float64
    for number in range(BACKWARD):
        batch = {name: values[number] for name, values in steps.items()}
        both = peer.arrays(
            "backward", variant=variant, num_classes=19, weights=str(path), batch=batch
        )
        peer32, peer64 = (
            {k.removesuffix(f" {dtype}"): v for k, v in both.items() if k.endswith(dtype)}
            for dtype in ("float32", "float64")
        )
        keys = sorted(set(peer64) - {"loss"})
        mine32 = own32(batch)
        losses.append(abs(float(mine32["loss"] / peer64["loss"]) - 1))
        distances.append([whole(mine32, peer64, keys), whole(peer32, peer64, keys)])
        if number == 0:
            mine64 = ours.backward(converted(path), "float64")(batch)
            assert set(mine64) == {*keys, "loss"}
            loss64 = abs(float(mine64["loss"] / peer64["loss"]) - 1)
            gradient64 = relative(mine64, peer64, keys)
    print(variant, "distances of float32 gradients, ours and mmsegmentation's:", distances)
    loss32, (own, noise) = max(losses), np.median(distances, 0)
    ratio = max(own / noise for own, noise in distances)
    assert loss64 <= 1e-10
    assert gradient64 <= 1e-8
    assert loss32 <= 1e-5
    assert ratio <= 2
    tables["backward"].append(
        f"| {variant} | {loss64:.1e} | {gradient64:.1e} | {loss32:.1e} | {own:.1e} | {noise:.1e} "
        f"| {ratio:.2f} |"
    )


@pytest.mark.parametrize("variant", VARIANTS)
def test_training(variant, peer, files, converted, tables):
    path, steps = files(variant, own=True), batches(LONG, crop=ours.TRAINING)

    def run(nudged: str) -> dict[str, np.ndarray]:
        return peer.arrays("train", variant=variant, num_classes=19, weights=str(path),
                           batches=steps, total=TOTAL, snapshots=[SHORT, LONG],
                           nudged=nudged)  # fmt: skip

    theirs = run("")
    mine = ours.train(converted(path), steps, total=TOTAL, snapshots=[SHORT, LONG])
    moved = [run(key) for key in NUDGED]
    np.testing.assert_allclose(mine["lr"], theirs["lr"], rtol=1e-12)
    np.testing.assert_allclose(mine["accuracy"][:SHORT], theirs["accuracy"][:SHORT], atol=1e-6)
    row = f"| {variant} "
    checks = []
    for step in (SHORT, LONG):
        keys = [k for k in theirs if k.startswith(f"{step} ") and not k.endswith("_tracked")]
        stats = [k for k in keys if "running_" in k]
        params = [k for k in keys if k not in stats]
        for names in (params, stats):
            drift = max(whole(m, theirs, names) for m in moved)
            checks.append((step, whole(mine, theirs, names), drift))
        loss = float(np.abs(mine["loss"][:step] / theirs["loss"][:step] - 1).max())
        drift = max(
            float(np.abs(m["loss"][:step] / theirs["loss"][:step] - 1).max()) for m in moved
        )
        checks.append((step, loss, drift))
    row += "".join(f"| {found:.1e} ({drift:.1e}) " for _, found, drift in checks)
    for step, found, drift in checks:
        assert found <= (1e-7 if step == SHORT else 10 * drift)
    tables["training"].append(row + "|")


@pytest.mark.parametrize("style", ["0.x", "1.x"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_there_and_back(variant, style, peer, files, converted, tables, folder):
    path, back = files(variant, style=style), folder / "back.pth"
    converted(path)
    to_file(folder / path.stem, back)
    before, after = read_source(path), read_source(back)
    for name in ("tensors", "counters"):
        first, second = getattr(before, name), getattr(after, name)
        assert set(first) == set(second)
        for key in first:
            assert first[key].dtype == second[key].dtype
            assert first[key].tobytes() == second[key].tobytes(), key
    assert before.classes == after.classes
    pixels = {"x": image(97, 65)}
    a, b = (
        peer.arrays("logits", variant=variant, num_classes=19, weights=str(file), inputs=pixels,
                    dtypes=["float32"])["x float32"]
        for file in (path, back)
    )  # fmt: skip
    assert a.tobytes() == b.tobytes()
    tables["round trip"].append(
        f"| {variant} | {before.format} of {style} | {len(before.tensors)} + "
        f"{len(before.counters)} | 0 | 0 | {hashlib.sha256(a.tobytes()).hexdigest()[:16]} |"
    )


PROTOCOLS = {
    "whole": Protocol(image_size=(512, 2048)),
    "slide": Protocol(image_size=(520, 520), mode="slide"),
    "whole, ms+flip of 0.x": Protocol(image_size=(384, 1536), ratios=MULTI_SCALE, flip=True),
    "slide, ms+flip of 1.x": Protocol(
        image_size=(520, 520), mode="slide", ratios=MULTI_SCALE, flip=True, reference="v1"
    ),
}


@pytest.mark.parametrize("name", PROTOCOLS)
@pytest.mark.parametrize("variant", ["hr18s", "hr18"])
def test_label_maps_of_photographs(variant, name, peer, files, converted, tables, folder):
    """Each side decodes, resizes, normalises and labels for itself."""
    protocol, path = PROTOCOLS[name], files(variant, 21)
    weights = converted(path)
    rules = dataclasses.asdict(protocol)
    weights.meta["config"]["reference"] = rules.pop("reference")
    weights.meta["config"]["eval"] |= rules
    predictor = predictor_of(weights)
    slide = [protocol.crop_size[0], protocol.stride[0]] if protocol.mode == "slide" else []
    different = pixels = 0
    worst = 0.0
    for photograph in peer.call("photographs", folder=str(folder)):
        mine = predictor(photograph)
        mirrors = (False, True)[: 1 + protocol.flip]
        views = [(*s, m) for s in protocol.view_sizes(mine.shape) for m in mirrors]
        theirs = peer.arrays("labels", variant=variant, num_classes=21, weights=str(path),
                             image=photograph, views=views, slide=slide)  # fmt: skip
        wrong = mine != theirs["labels"]
        different, pixels = different + int(wrong.sum()), pixels + wrong.size
        worst = max(worst, float(theirs["margin"][wrong].max(initial=0)))
    assert different <= 1e-4 * pixels
    tables["label maps"].append(
        f"| {variant} | {name} | {pixels:,} | {different} "
        f"| {100 * (1 - different / pixels):.4f} % | {worst:.1e} |"
    )
