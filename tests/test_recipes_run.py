"""Every published recipe through the command line: two steps, a checkpoint, an evaluation.

On drawn data in the layout of its dataset, with all sizes an eighth of the recipe's (a crop must
stay a multiple of 32). `make test-slow` runs all 25 with their own networks; the fast suite runs
one per dataset, with a network that compiles in seconds.
"""

import json
import math
import sys
from pathlib import Path

import jax
import pytest
from absl import flags

from hrnet_jax import main, zoo
from hrnet_jax.config import recipes
from hrnet_jax.config.build_training import build_training
from hrnet_jax.data.datasets import DATASETS
from hrnet_jax.models import VARIANTS
from hrnet_jax.parallel import processes
from hrnet_jax.parallel.mesh import make_mesh
from hrnet_jax.runs.stored_weights import load_weights
from hrnet_jax.runs.terminal import Terminal
from hrnet_jax.train import compile_step
from tests import (
    standins,
    tiny,  # noqa: F401 -- adds the variant "toy"
)
from tests.command import run
from tests.models.test_hrnet import PARAMETERS

# ml_collections loads the config file so.
pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")

SIZES = {  # training image, crop, evaluation image, window, stride
    "cityscapes": ((128, 256), (64, 128), (128, 256), (480, 480), (320, 320)),
    "ade20k": ((64, 256), (64, 64), (64, 256), (480, 480), (320, 320)),
    "voc12aug": ((64, 256), (64, 64), (64, 256), (480, 480), (320, 320)),
    "pascal_context": ((65, 65), (64, 64), (65, 65), (60, 60), (40, 40)),
}
FIRST_OF_DATASET = list({row.dataset: row for row in reversed(zoo.ROWS)}.values())
# Recipes whose steps differ: in network, crop, classes or batch.
STEPS = list({(row.variant, row.dataset): row for row in reversed(zoo.ROWS)}.values())

# Memory of a step on one CPU device by the compiler, where measured; a GPU needs another amount.
GIGABYTES = {("hr18s", "cityscapes"): 6.0}


def size_flags(dataset: str) -> list[str]:
    fields = (
        "train.image_size", "train.crop_size", "eval.image_size", "eval.crop_size", "eval.stride"
    )  # fmt: skip
    sizes = SIZES[dataset.removesuffix("_59")]
    return [f"--config.{field}={size}" for field, size in zip(fields, sizes, strict=True)]


@pytest.fixture(scope="session")
def standin(tmp_path_factory):
    roots: dict[str, Path] = {}

    def draw(dataset: str) -> Path:
        if dataset not in roots:
            roots[dataset] = standins.draw(dataset, tmp_path_factory.mktemp("standins"))
        return roots[dataset]

    return draw


@pytest.fixture
def in_process(monkeypatch):
    """The command line in this process, with five layers: seconds instead of minutes."""

    def forget() -> None:
        flags.FLAGS.unparse_flags()
        for name in [name for name in flags.FLAGS if name.startswith("config.")]:
            delattr(flags.FLAGS, name)  # it belongs to the config of the last command

    def start(*arguments: str) -> None:
        forget()
        monkeypatch.setattr(sys, "argv", ["main", *arguments])  # where config flags look
        main.main(main.parse_flags(sys.argv))

    for variant in ("hr18s", "hr18", "hr48"):
        monkeypatch.setitem(VARIANTS, variant, VARIANTS["toy"])
    # It can only be called before anything has run.
    monkeypatch.setattr(processes, "join", lambda *, timeout=60: None)
    yield start
    forget()


def in_its_own_process(*arguments: str) -> None:
    run(*arguments, devices=1, timeout=1800)


def check_recipe(row: zoo.Row, command, *, root: Path, workdir: Path) -> None:
    given = [
        f"--config={row.config}", f"--config.data.root={root}", f"--workdir={workdir}",
        "--config.train.steps=2",
        "--config.eval.every_steps=2", "--config.checkpoint.every_steps=2",
        "--config.log.every_steps=1", "--config.log.pictures=1", *size_flags(row.dataset),
    ]  # fmt: skip
    command("--mode=train", *given)
    entries = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    losses = {entry["step"]: entry["loss"] for entry in entries if "loss" in entry}
    assert set(losses) == {1, 2}
    assert all(math.isfinite(loss) for loss in losses.values())
    assert losses[1] != losses[2]
    config, recipe = json.loads((workdir / "config.json").read_text()), recipes.of_row(row)
    assert config["optim"] == json.loads(json.dumps(recipe.optim.to_dict()))
    assert config["train"]["batch_size"] == recipe.train.batch_size
    weights = load_weights(workdir)
    classes = DATASETS[row.dataset].classes
    assert (weights.step, weights.meta["variant"]) == (2, row.variant)
    assert weights.meta["classes"] == list(classes)
    command("--mode=eval", *given)
    receipt = json.loads((workdir / "eval" / "scores.json").read_text())
    mode = "windows of 60x60 every 40x40" if "context" in row.dataset else "whole images"
    assert receipt["protocol"].startswith(f"{mode}, one scale, no flip")
    assert (receipt["images"], receipt["step"]) == (standins.VAL, 2)
    assert set(receipt["iou"]) == set(classes)
    (last,) = [entry["mIoU"] for entry in entries if "mIoU" in entry]
    assert receipt["mIoU"] == last
    assert "published" not in receipt  # nothing that could be compared


@pytest.mark.parametrize("row", FIRST_OF_DATASET, ids=lambda row: row.dataset)
def test_the_recipe_of_a_dataset_runs(row, standin, tmp_path, in_process):
    check_recipe(row, in_process, root=standin(row.dataset), workdir=tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("row", zoo.ROWS, ids=lambda row: row.name)
def test_every_recipe_runs_with_its_own_network(row, standin, tmp_path):
    check_recipe(row, in_its_own_process, root=standin(row.dataset), workdir=tmp_path)
    params = load_weights(tmp_path).params
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    assert count == PARAMETERS[row.variant][DATASETS[row.dataset].num_classes]


@pytest.mark.slow
@pytest.mark.parametrize("row", STEPS, ids=lambda row: f"{row.variant}_{row.dataset}")
def test_the_step_of_full_size_compiles_and_its_memory_is_known(row, record_property):
    """The program of one device for the recipe's batch, crop and classes; it does not run."""
    mesh = make_mesh(devices=jax.devices()[:1])
    training = build_training(recipes.of_row(row), mesh=mesh)
    state = training.state_shape
    program = compile_step(training, state, terminal=Terminal())
    memory = program.memory_analysis()
    sizes = {
        name: sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
        for name, tree in (("state", state), ("batch", training.batch_shape))
    }
    # The new state replaces the old one, and nothing else is kept between steps.
    assert memory.argument_size_in_bytes == pytest.approx(sum(sizes.values()), rel=0.01)
    assert memory.alias_size_in_bytes == pytest.approx(sizes["state"], rel=0.01)
    assert memory.output_size_in_bytes == pytest.approx(sizes["state"], rel=0.01)
    gigabytes = (memory.argument_size_in_bytes + memory.temp_size_in_bytes) / 1e9
    record_property("gigabytes", gigabytes)
    print(f"{row.variant} {row.dataset}: {gigabytes:.2f} GB for one step of one device")
    assert memory.temp_size_in_bytes > 0
    if measured := GIGABYTES.get((row.variant, row.dataset)):
        assert gigabytes == pytest.approx(measured, rel=0.1)
