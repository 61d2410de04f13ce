"""The command line: python -m hrnet_jax.main --config configs/hr18_cityscapes.py

Modes:
  train    go on from the newest checkpoint in --workdir, else start anew
  eval     score --checkpoint on the validation split of --config; writes <workdir>/eval
  compare  say how two evaluations of the same images differ: --mode compare FOLDER FOLDER
  predict  label the images in --input with --checkpoint; needs no --config (if it is given, its
           config.eval says how, not the checkpoint's)
  prepare  write the dataset of --config as ArrayRecord shards into --output, and check them;
           for Pascal Context make the label files first
  doctor   check every label and image of --config: faults, likely mistakes, class frequencies;
           exit code 1 if there is anything to mend
  plan     print what training --config on --devices will need and exchange, without running it
  benchmark
           measure the zoo's mem and fps for --config on this machine, without its data
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

import dataclasses
import difflib
import io
import re
import sys
import time
import traceback
from collections.abc import Iterable, Sequence

import jax
from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags
from rich.console import Console

from hrnet_jax import zoo
from hrnet_jax.commands.benchmark import benchmark
from hrnet_jax.commands.compare import compare
from hrnet_jax.commands.doctor import doctor
from hrnet_jax.commands.evaluate import evaluate
from hrnet_jax.commands.plan import plan, simulate
from hrnet_jax.commands.predict import predict
from hrnet_jax.commands.prepare import prepare
from hrnet_jax.commands.samples import samples
from hrnet_jax.config import defaults as configs
from hrnet_jax.config import recipes
from hrnet_jax.data import minicity
from hrnet_jax.parallel import processes
from hrnet_jax.parallel.compiling import enable_compilation_cache, prepare_process
from hrnet_jax.runs.checkpoint import FOLDER, load_weights
from hrnet_jax.runs.paths import AnyPath, cache_folder, is_remote, to_path
from hrnet_jax.runs.signals import Stopped
from hrnet_jax.runs.terminal import Terminal
from hrnet_jax.train import train

_MODES = [
    "train", "eval", "predict", "compare", "prepare", "doctor", "plan", "benchmark", "samples",
    "zoo",
]  # fmt: skip

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
_DEVICES = flags.DEFINE_string(
    "devices", None, "Of --mode plan: so many simulated ones, or a TPU topology such as v5e:4x4."
)
_IMAGES = flags.DEFINE_integer("images", 200, "Of --mode benchmark: how many to label.")
_TRACEBACK = flags.DEFINE_bool("traceback", False, "Show where in the code an error arose.")


def main(argv: Sequence[str]) -> None:
    """Run one mode; a user's mistake ends in one line, not in a traceback."""
    prepare_process()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without Unicode is no reason to stop
    logging.set_verbosity(logging.ERROR)  # Orbax tells of every file, jax of absent TPUs
    if len(argv) > 1 and _MODE.value not in ("compare", "zoo"):
        sys.exit(f"Error: {argv[1]!r} is no option; fields are given as --config.field=value.")
    terminal = Terminal()
    try:
        _refuse_empty()
        config = _CONFIG.value
        if config is not None:
            configs.validate(config)  # before processes wait for each other
        if _MODE.value in ("train", "eval"):
            if config is None:
                processes.join()
            else:
                processes.join(timeout=config.mesh.timeout)
            if not processes.is_first():  # one speaks for all
                terminal = Terminal(Console(quiet=True))
        if _MODE.value == "compare":
            _compare(argv[1:], terminal)
        elif _MODE.value == "zoo":
            _list_zoo(argv[1:], terminal)
        elif _MODE.value in ("eval", "predict"):
            _use_weights(config, terminal)
        elif config is None:
            raise ValueError(
                "--config is missing; try --config configs/hr18s_minicity.py, which needs no data."
            )
        else:
            _run(config, terminal)
    except KeyboardInterrupt as stop:
        saved = isinstance(stop, Stopped)
        resumes = " The same command goes on from the last checkpoint." * (saved or _has_saved())
        terminal.line(f"{stop if saved else 'Stopped'}.{resumes}")
        sys.exit(stop.exit_code if isinstance(stop, Stopped) else 130)
    except jax.errors.JaxRuntimeError as error:
        if _TRACEBACK.value or "RESOURCE_EXHAUSTED" not in str(error):
            raise
        sys.exit(f"Error: {_out_of_memory(str(error))}")
    except (ValueError, OSError, FloatingPointError) as error:
        if _TRACEBACK.value:
            raise
        sys.exit(f"Error: {error}")


def _has_saved() -> bool:
    """Whether there is a checkpoint for an interrupted training to go on from."""
    if _MODE.value != "train" or _CONFIG.value is None:
        return False
    workdir, _ = _paths(_CONFIG.value)
    return any(path.name.isdigit() for path in (workdir / FOLDER).glob("[0-9]*"))


def _refuse_empty() -> None:
    """An unset variable of the shell must not mean the current folder, or a default."""
    given: dict[str, list[str | None]] = {
        "workdir": [_WORKDIR.value],
        "checkpoint": [_CHECKPOINT.value],
        "output": [_OUTPUT.value],
        "input": [*(_INPUT.value or [])],
    }
    for name, values in given.items():
        if "" in values:
            raise ValueError(f"--{name} is empty; give a path, or leave the option out.")


def _out_of_memory(error: str) -> str:
    """Say what makes a program of ours smaller; XLA's own words are for its developers."""
    first_line = error.strip().splitlines()[0]
    if _MODE.value == "train":
        advice = (
            "Training needs memory for every image of a device's share of the batch: lower "
            "config.train.batch_size or config.train.crop_size (both change the result, so give "
            "another --workdir), or use more devices. config.train.remat=block changes no result; "
            "config.train.accumulate=2 keeps the batch, but not its statistics. If it happened "
            "while evaluating, lower config.eval.batch_size. What is saved in the workdir is as "
            "it was."
        )
    elif _MODE.value == "predict":
        advice = (
            "Images are labelled one by one, by the protocol of the checkpoint or that of --config "
            "if it is given: label in windows, with --config (the recipe) --config.eval.mode=slide,"
            " or smaller, with --config.eval.image_size='(512, 1024)'."
        )
    elif _MODE.value == "benchmark":
        advice = (
            "What was published needs more than there is: lower config.train.batch_size (a quarter "
            "of it is measured) or config.train.crop_size, or label in windows with "
            "--config.eval.mode=slide. Then there is no published figure to compare with."
        )
    else:
        advice = "Lower config.eval.batch_size, or label in windows with --config.eval.mode=slide."
    return f"the memory of the device does not suffice ({first_line}). {advice}"


def _compare(folders: Sequence[str], terminal: Terminal) -> None:
    if len(folders) != 2:
        raise ValueError(
            f"--mode compare needs two folders that --mode eval wrote, not {len(folders)}; as in "
            "--mode compare runs/a runs/b."
        )
    compare(to_path(folders[0]), to_path(folders[1]), terminal=terminal)


def _list_zoo(words: Sequence[str], terminal: Terminal) -> None:
    rows = zoo.select(words)
    folder = to_path(_WORKDIR.value) if _WORKDIR.value else zoo.WEIGHTS
    terminal.table(zoo.table(rows, folder=folder))
    if words:
        terminal.line("\n\n".join(map(zoo.describe, rows)))
    else:
        terminal.line(
            "--mode zoo cityscapes hr18 160k: the row of these words, with its addresses."
        )


def _run(config: ConfigDict, terminal: Terminal) -> None:
    """What a config describes, without weights that are there already."""
    mode = _MODE.value
    if mode == "prepare":
        _draw_minicity(config, terminal)
        output = to_path(_OUTPUT.value) if _OUTPUT.value else None
        prepare(config.data.root, configs.dataset_of(config), output=output, terminal=terminal)
        return
    workdir, _ = _paths(config)
    if mode in ("plan", "benchmark", "train"):
        _keep_compiled_programs(terminal)
    if mode == "plan":
        devices = simulate(_DEVICES.value) if _DEVICES.value else None
        plan(config, devices=devices or jax.devices(), terminal=terminal)
        return
    if mode == "benchmark":
        benchmark(config, images=_IMAGES.value, workdir=workdir, terminal=terminal)
        return
    _draw_minicity(config, terminal)
    if mode == "train":
        train(config, workdir=workdir, terminal=terminal)
    elif mode == "samples":
        samples(config, workdir=workdir, terminal=terminal)
    elif doctor(config, workdir=workdir, terminal=terminal):
        sys.exit(1)


def _use_weights(config: ConfigDict | None, terminal: Terminal) -> None:
    """What a checkpoint does: by its own config, or by the one that is given."""
    if _MODE.value == "predict" and not _INPUT.value:
        raise ValueError("--input is missing; give an image, a video, a folder or a pattern.")
    workdir, checkpoint = _paths(config)
    with terminal.announced_if_remote(checkpoint):
        weights = load_weights(checkpoint)
    if not weights.meta["classes"]:
        raise ValueError(
            f"{weights.path} holds a backbone without a head, which labels nothing; train from it "
            f"with --config.init_from={checkpoint}."
        )
    if config is None:
        config = configs.from_dict(weights.meta["config"])
    _keep_compiled_programs(terminal)
    if _MODE.value == "eval":
        configs.validate(config)  # that of a checkpoint, too, before anything is drawn
        _draw_minicity(config, terminal)
        evaluate(config, weights, workdir=workdir, terminal=terminal)
        return
    failures = predict(
        dataclasses.replace(weights, meta={**weights.meta, "config": config.to_dict()}),
        _INPUT.value,
        output=to_path(_OUTPUT.value) if _OUTPUT.value else workdir / "predict",
        terminal=terminal,
        probabilities=_PROBABILITIES.value,
    )
    if failures:
        raise ValueError(f"{len(failures)} of the files could not be read; they are named above.")


def _paths(config: ConfigDict | None) -> tuple[AnyPath, AnyPath]:
    """Work out the workdir and the checkpoint from the flags that are given."""
    default = None if config is None else f"runs/{config.name}"
    given = zoo.locate(_CHECKPOINT.value) if _CHECKPOINT.value else None
    name = _WORKDIR.value or default or given
    if name is None:
        raise ValueError(f"--mode {_MODE.value} needs --checkpoint, --workdir or --config.")
    workdir = to_path(name)
    checkpoint = given or workdir
    # Results belong beside checkpoints, not among them or into one.
    if workdir.parent.name == FOLDER and workdir.name.isdigit():
        workdir = workdir.parent.parent
    elif name is given and workdir.name == FOLDER and not (workdir / FOLDER).is_dir():
        workdir = workdir.parent
    return workdir, checkpoint


def _keep_compiled_programs(terminal: Terminal) -> None:
    """Let the next start be quicker, where there is a folder for it."""
    try:
        enable_compilation_cache(cache_folder() / "xla")
    except (OSError, RuntimeError) as error:  # a read-only home, or none
        terminal.warn(f"no folder to keep compiled programs in ({error}); starts will be slower.")


def _draw_minicity(config: ConfigDict, terminal: Terminal) -> None:
    """The embedded dataset is drawn where it is looked for, once."""
    root = to_path(config.data.root)
    if config.data.name != "minicity" or is_remote(root):
        return
    counts = configs.dataset_of(config).counts
    total = sum(counts.values())

    def track(scenes: Iterable[None]) -> Iterable[None]:
        return terminal.track(scenes, "Drawing minicity", total=total)

    for first in (True, False):  # hosts may share a disk, or have one each
        if processes.is_first() == first and not root.exists():
            terminal.line_if_plain(f"Drawing {total} scenes into {root} ...")
            begin = time.perf_counter()
            minicity.write(root, **counts, track=track)
            seconds = time.perf_counter() - begin
            terminal.line(f"Drew {total} scenes into {root} in {seconds:.0f} s.")
        processes.wait_for_all(f"minicity {first}")


def parse_flags(argv: Sequence[str]) -> list[str]:
    """Parse the command line; a mistake in it ends in one line, not in a traceback."""
    try:
        return flags.FLAGS(_with_recipe(argv))
    except (AttributeError, KeyError) as error:
        sys.exit(f"Error: {_explain_field(argv) or error}")
    except (flags.Error, ValueError, TypeError, OSError) as error:
        if match := re.search(r"flag '(config\.[\w.]+)'", str(error)):
            sys.exit(
                f"Error: --{match[1]} changes a recipe; give that too, as in --config "
                "configs/hr18s_minicity.py."
            )
        # What a config file raises comes with its traceback; the last line says it.
        message = str(error).strip().splitlines()
        last = message[-1].strip().removeprefix("ValueError: ")
        sys.exit(f"Error: {last if 'Traceback' in str(error) else ' '.join(message)}")
    except Exception as error:  # of any type, in a recipe of the user's own
        where = traceback.extract_tb(error.__traceback__)[-1]
        place = (
            "" if isinstance(error, SyntaxError) else f" ({where.filename}, line {where.lineno})"
        )
        sys.exit(f"Error: the file of --config does not run: {error}{place}")


def _with_recipe(argv: Sequence[str]) -> list[str]:
    """Let --config name an existing file; ml_collections would on_problem in four lines."""
    text = "\0".join(argv)  # which no argument can hold
    if match := re.search(r"(?:^|\0)--?config[=\0]([^:\0]*)", text):
        text = f"{text[: match.start(1)]}{recipes.locate(match[1])}{text[match.end(1) :]}"
    return text.split("\0")


def _explain_field(argv: Sequence[str]) -> str | None:
    """Find the --config.x.y that names no field, and the field that was probably meant."""
    fields = configs.fields(configs.default(name="", dataset="", variant=""))
    for argument in argv:
        match = re.match(r"--(?:no)?config\.([\w.]+)", argument)
        if match and match[1] not in fields:
            # The end of a dotted name says more than its beginning.
            close = difflib.get_close_matches(match[1], fields, n=1, cutoff=0.5)
            hint = f"did you mean config.{close[0]}?" if close else "--help lists them."
            return f"there is no field config.{match[1]}; {hint}"
    return None


if __name__ == "__main__":
    if callable(signal.getsignal(signal.SIGINT)):
        signal.signal(signal.SIGINT, signal.default_int_handler)  # `main` answers from here on
    app.run(main, flags_parser=parse_flags)
