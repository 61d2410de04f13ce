"""The command line: python -m hrnet_jax.main --config configs/hr18_cityscapes.py

Modes:
  train      resume from the newest checkpoint in --workdir, or start a new run
  eval       score --checkpoint on the validation split of --config; writes <workdir>/eval
  predict    label the images and videos of --input with --checkpoint
  compare    compare two evaluations of the same images: --mode compare FOLDER FOLDER
  doctor     check every label and image of --config; exit code 1 if anything needs fixing
  prepare    write the dataset of --config as ArrayRecord shards to --output and verify them;
             for Pascal Context, draw the label files first
  samples    draw what training sees, augmented images and labels, into <workdir>/samples
  plan       print the memory, communication and least time of training --config on --devices
  benchmark  measure training memory and labelling speed of --config here; needs no data
  zoo        list the 25 published results, or those that fit: --mode zoo cityscapes hr18

--checkpoint takes a workdir (its best checkpoint by mIoU, or else the newest), a single
checkpoint, or the name of a published result (--mode zoo NAME shows how to fetch it). eval and
predict use the config stored in it; --config replaces that one.

The schedule follows the file name, as in --config configs/hr18_cityscapes.py:160k. Any field can
be set, as in --config.train.batch_size=16; hrnet_jax/config/defaults.py explains all fields.
"""

import os
import signal

if __name__ == "__main__" and callable(signal.getsignal(signal.SIGINT)):  # not ignored
    # The imports take seconds. Ctrl-C during them should end without a traceback.
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))

import sys
from collections.abc import Sequence
from typing import Any

from absl import app, flags
from ml_collections import config_flags
from rich.console import Console

from hrnet_jax import zoo
from hrnet_jax.commands import explain
from hrnet_jax.commands.benchmark import benchmark
from hrnet_jax.commands.compare import compare
from hrnet_jax.commands.doctor import doctor
from hrnet_jax.commands.draw_minicity import draw_minicity
from hrnet_jax.commands.evaluate import evaluate
from hrnet_jax.commands.list_zoo import list_zoo
from hrnet_jax.commands.locate_run import has_checkpoint, load_network, locate_run
from hrnet_jax.commands.plan import plan, simulate
from hrnet_jax.commands.predict import predict
from hrnet_jax.commands.prepare import prepare
from hrnet_jax.commands.samples import samples
from hrnet_jax.commands.start_process import keep_compiled_programs, start_process
from hrnet_jax.config import recipes
from hrnet_jax.config.checks import validate
from hrnet_jax.config.custom_data import dataset_of
from hrnet_jax.config.stored import from_dict
from hrnet_jax.parallel import processes
from hrnet_jax.runs.paths import AnyPath, to_path
from hrnet_jax.runs.terminal import Terminal
from hrnet_jax.train import train

_DATA_MODES = ["train", "samples", "doctor", "prepare"]  # take --config and its data
_MODES = [*_DATA_MODES, "plan", "benchmark", "eval", "predict", "compare", "zoo"]

_CONFIG = config_flags.DEFINE_config_file("config", None, "Recipe: a file in configs/.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run; default runs/<config.name>.")
_MODE = flags.DEFINE_enum("mode", "train", _MODES, "What to do; see above.")
_CHECKPOINT = flags.DEFINE_string(
    "checkpoint", None, "Weights to use: a workdir, a checkpoint, or a name of --mode zoo."
)
_INPUT = flags.DEFINE_multi_string("input", [], "Image, video, folder or pattern to label.")
_OUTPUT = flags.DEFINE_string(
    "output", None, "Folder for predictions (default <workdir>/predict) or prepared data."
)
_PROBABILITIES = flags.DEFINE_bool(
    "probabilities", False, "--mode predict also writes class probabilities, as float16 .npz files."
)
_SPLIT = flags.DEFINE_enum(
    "split",
    "val",
    ["val", "train", "test"],
    "Split that --mode eval scores; test may have no labels.",
)
_LIMIT = flags.DEFINE_integer(
    "limit", 0, "Number of images that --mode eval scores, from the first; 0: all.", 0
)
_SAVE_PREDICTIONS = flags.DEFINE_bool(
    "save_predictions", False, "--mode eval also writes label maps, as PNGs in eval/predictions."
)
_SUBMISSION: Any = flags.DEFINE_enum(
    "submission", None, ["cityscapes", "ade20k"], "Test server for which --mode eval writes files."
)
_DEVICES = flags.DEFINE_string(
    "devices", None, "For --mode plan: number of simulated ones, or a TPU topology (v5e:4x4)."
)
_IMAGES = flags.DEFINE_integer("images", 200, "Number of images that --mode benchmark labels.")
_TRACEBACK = flags.DEFINE_bool("traceback", False, "Show the traceback of an error.")


def main(argv: Sequence[str]) -> None:
    """Run one mode; a user error ends in one line, not in a traceback."""
    start_process()
    config, mode, terminal = _CONFIG.value, _MODE.value, Terminal()

    def can_resume() -> bool:
        return mode == "train" and config is not None and has_checkpoint(_paths(config)[0])

    with explain.errors(mode=mode, traceback=_TRACEBACK.value, can_resume=can_resume):
        _check_flags(argv[1:])
        if config is not None:
            validate(config)  # before the processes wait for each other
        if mode in ("train", "eval"):
            processes.join(timeout=60 if config is None else config.mesh.timeout)
            if not processes.is_first():  # only the first one prints
                terminal = Terminal(Console(quiet=True))
        _dispatch(config, argv[1:], terminal)


def _check_flags(words: Sequence[str]) -> None:
    """Refuse a flag that is missing, empty, or for another mode."""
    mode = _MODE.value
    if words and mode not in ("compare", "zoo"):
        raise ValueError(f"{words[0]!r} is not an option; set fields with --config.field=value.")
    for flag in (_SPLIT, _LIMIT, _SAVE_PREDICTIONS, _SUBMISSION):
        if flag.present and mode != "eval":
            raise ValueError(f"--{flag.name} is for --mode eval, not for --mode {mode}.")
    for flag in (_WORKDIR, _CHECKPOINT, _OUTPUT, _INPUT):
        values: Any = flag.value
        # An unset shell variable must not mean the current folder.
        if values == "" or (flag is _INPUT and "" in values):
            raise ValueError(f"--{flag.name} is empty; give a path, or omit the option.")
    if mode == "predict" and not _INPUT.value:
        raise ValueError("--input is missing; give an image, a video, a folder or a pattern.")
    if _CONFIG.value is None and mode in (*_DATA_MODES, "plan", "benchmark"):
        raise ValueError(
            "--config is missing; try --config configs/hr18s_minicity.py, which needs no data."
        )


def _dispatch(config: Any, words: Sequence[str], terminal: Terminal) -> None:
    mode = _MODE.value
    if mode == "compare":
        compare(words, terminal=terminal)
        return
    if mode == "zoo":
        list_zoo(words, folder=_path(_WORKDIR) or zoo.WEIGHTS, terminal=terminal)
        return
    workdir, checkpoint = _paths(config)
    if mode in ("eval", "predict"):
        weights = load_network(checkpoint, config=config, terminal=terminal)
        config = from_dict(weights.meta["config"])
    keep_compiled_programs(terminal)
    if mode == "eval" or mode in _DATA_MODES:
        validate(config)  # also a checkpoint's config, before anything is drawn
        draw_minicity(config, terminal=terminal)
    match mode:
        case "train":
            train(config, workdir=workdir, terminal=terminal)
        case "eval":
            evaluate(
                config, weights, workdir=workdir, split=_SPLIT.value, limit=_LIMIT.value,
                submission=_SUBMISSION.value, save_predictions=_SAVE_PREDICTIONS.value,
                terminal=terminal,
            )  # fmt: skip
        case "predict":
            output = _path(_OUTPUT) or workdir / "predict"
            if failures := predict(weights, _INPUT.value, output=output, terminal=terminal,
                                   probabilities=_PROBABILITIES.value):  # fmt: skip
                raise ValueError(f"{len(failures)} of the files could not be read; see above.")
        case "samples":
            samples(config, workdir=workdir, terminal=terminal)
        case "doctor":
            sys.exit(bool(doctor(config, workdir=workdir, terminal=terminal)))
        case "prepare":
            prepare(config.data.root, dataset_of(config), output=_path(_OUTPUT), terminal=terminal)
        case "plan":
            plan(config, devices=simulate(_DEVICES.value), terminal=terminal)
        case "benchmark":
            benchmark(config, images=_IMAGES.value, workdir=workdir, terminal=terminal)


def _paths(config: Any) -> tuple[AnyPath, AnyPath]:
    """Return the workdir and the checkpoint."""
    return locate_run(workdir=_WORKDIR.value, checkpoint=_CHECKPOINT.value, config=config)


def _path(flag: flags.FlagHolder) -> AnyPath | None:
    return to_path(flag.value) if flag.value else None


def parse_flags(argv: Sequence[str]) -> list[str]:
    """Parse the command line; a mistake in it is one line, not a traceback."""
    try:
        return flags.FLAGS(recipes.resolve_config(argv))
    except Exception as error:  # a recipe may raise anything
        sys.exit(f"Error: {explain.bad_flags(error, argv)}")


if __name__ == "__main__":
    if callable(signal.getsignal(signal.SIGINT)):
        signal.signal(signal.SIGINT, signal.default_int_handler)  # `main` handles it
    app.run(main, flags_parser=parse_flags)
