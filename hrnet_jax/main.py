"""The command line: python -m hrnet_jax.main --config configs/hr18_cityscapes.py

Modes:
  train    resume from the newest checkpoint in --workdir, else start a new run
  eval     score --checkpoint on the validation split of --config; writes <workdir>/eval.
           --split train or test, --limit so many images, --save_predictions label maps too,
           --submission cityscapes or ade20k: the files that their test servers take
  compare  say how two evaluations of the same images differ: --mode compare FOLDER FOLDER
  predict  label the images in --input with --checkpoint; needs no --config (if it is given, its
           config.eval says how, not the checkpoint's)
  prepare  write the dataset of --config as ArrayRecord shards into --output, and check them;
           for Pascal Context make the label files first
  doctor   check every label and image of --config: faults, likely mistakes, class frequencies;
           exit code 1 if anything needs a fix
  plan     print what training --config on --devices will need and exchange, without running it
  benchmark  measure the zoo's mem and fps for --config on this machine, without its data
  samples  draw what training sees: augmented images and labels, into <workdir>/samples
  zoo      list the 25 published results, or those of some words: --mode zoo cityscapes hr18

--checkpoint is a workdir (its best checkpoint by mIoU, else the newest), one checkpoint in it, or
the name of a row of the zoo that was fetched (--mode zoo NAME says how).
Any field of a config can be given: --config.train.batch_size=16; a schedule follows the file's
name: --config configs/hr18_cityscapes.py:160k.
"""

import os
import signal

if __name__ == "__main__" and callable(signal.getsignal(signal.SIGINT)):  # it is not ignored
    # The imports below take seconds. Ctrl-C would end them with a traceback of whatever is read.
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

_CONFIG = config_flags.DEFINE_config_file("config", None, "Recipe to run, a file in configs/.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run; default runs/<config.name>.")
_MODE = flags.DEFINE_enum("mode", "train", _MODES, "What to do.")
_CHECKPOINT = flags.DEFINE_string("checkpoint", None, "Workdir or checkpoint to read weights from.")
_INPUT = flags.DEFINE_multi_string(
    "input", [], "Image, video, folder or quoted pattern; may be repeated."
)
_OUTPUT = flags.DEFINE_string(
    "output", None, "Folder of predictions (default <workdir>/predict) or of the prepared data."
)
_PROBABILITIES = flags.DEFINE_bool(
    "probabilities", False, "Also write class probabilities, <name>_probabilities.npz (float16)."
)
_SPLIT = flags.DEFINE_enum(
    "split", "val", ["val", "train", "test"], "Of --mode eval; labels of test may be missing."
)
_LIMIT = flags.DEFINE_integer("limit", 0, "Of --mode eval: the first so many images; 0: all.", 0)
_SAVE_PREDICTIONS = flags.DEFINE_bool(
    "save_predictions", False, "Of --mode eval: class indices as PNGs in eval/predictions."
)
_SUBMISSION: Any = flags.DEFINE_enum(
    "submission", None, ["cityscapes", "ade20k"], "Of --mode eval: files for this test server."
)
_DEVICES = flags.DEFINE_string(
    "devices", None, "Of --mode plan: so many simulated ones, or a TPU topology such as v5e:4x4."
)
_IMAGES = flags.DEFINE_integer("images", 200, "Of --mode benchmark: how many to label.")
_TRACEBACK = flags.DEFINE_bool("traceback", False, "Show where in the code an error arose.")


def main(argv: Sequence[str]) -> None:
    """Run one mode; a user's mistake ends in one line, not in a traceback."""
    start_process()
    config, mode, terminal = _CONFIG.value, _MODE.value, Terminal()

    def can_resume() -> bool:
        return mode == "train" and config is not None and has_checkpoint(_paths(config)[0])

    with explain.errors(mode=mode, traceback=_TRACEBACK.value, can_resume=can_resume):
        _check_flags(argv[1:])
        if config is not None:
            validate(config)  # before processes wait for each other
        if mode in ("train", "eval"):
            processes.join(**({} if config is None else {"timeout": config.mesh.timeout}))
            if not processes.is_first():  # one speaks for all
                terminal = Terminal(Console(quiet=True))
        _dispatch(config, argv[1:], terminal)


def _check_flags(words: Sequence[str]) -> None:
    """Refuse what is missing, empty, or for another mode."""
    mode = _MODE.value
    if words and mode not in ("compare", "zoo"):
        raise ValueError(f"{words[0]!r} is no option; fields are given as --config.field=value.")
    for flag in (_SPLIT, _LIMIT, _SAVE_PREDICTIONS, _SUBMISSION):
        if flag.present and mode != "eval":
            raise ValueError(f"--{flag.name} is for --mode eval, not for --mode {mode}.")
    paths = {"workdir": _WORKDIR.value, "checkpoint": _CHECKPOINT.value, "output": _OUTPUT.value}
    for name, given in {**paths, "input": "" if "" in _INPUT.value else None}.items():
        if given == "":  # an unset variable of the shell must not mean the current folder
            raise ValueError(f"--{name} is empty; give a path, or leave the option out.")
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
        validate(config)  # that of a checkpoint, too, before anything is drawn
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
    """Workdir and checkpoint."""
    return locate_run(workdir=_WORKDIR.value, checkpoint=_CHECKPOINT.value, config=config)


def _path(flag: flags.FlagHolder) -> AnyPath | None:
    return to_path(flag.value) if flag.value else None


def parse_flags(argv: Sequence[str]) -> list[str]:
    """Parse the command line; a mistake in it ends in one line, not in a traceback."""
    try:
        return flags.FLAGS(recipes.with_located(argv))
    except Exception as error:  # a recipe may raise anything
        sys.exit(f"Error: {explain.bad_flags(error, argv)}")


if __name__ == "__main__":
    if callable(signal.getsignal(signal.SIGINT)):
        signal.signal(signal.SIGINT, signal.default_int_handler)  # `main` answers from here on
    app.run(main, flags_parser=parse_flags)
