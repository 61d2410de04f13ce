"""What errors of the libraries mean to a user: out of memory, a mistyped field, a faulty recipe."""

import contextlib
import difflib
import os
import re
import sys
import traceback as tracebacks
from collections.abc import Callable, Iterator, Sequence

import jax
from absl import flags

from hrnet_jax.config.defaults import default
from hrnet_jax.config.stored import fields
from hrnet_jax.parallel import processes
from hrnet_jax.runs.signals import Stopped
from hrnet_jax.runs.terminal import Terminal

_OUT_OF_MEMORY = {
    "train": (
        "Training needs memory for every image of a device's share of the batch: lower "
        "config.train.batch_size or config.train.crop_size (both change the result, so give "
        "another --workdir), or use more devices. config.train.remat=block changes no result; "
        "config.train.accumulate=2 keeps the batch, but not its statistics. If it happened "
        "while evaluating, lower config.eval.batch_size. The checkpoints in the workdir are intact."
    ),
    "predict": (
        "Images are labelled one by one, by the protocol of the checkpoint or that of --config "
        "if it is given: label in windows, with --config (the recipe) --config.eval.mode=slide,"
        " or smaller, with --config.eval.image_size='(512, 1024)'."
    ),
    "benchmark": (
        "The published setting needs more than there is: lower config.train.batch_size (a quarter "
        "of it is measured) or config.train.crop_size, or label in windows with "
        "--config.eval.mode=slide. Then there is no published figure to compare with."
    ),
    "eval": "Lower config.eval.batch_size, or label in windows with --config.eval.mode=slide.",
}

_REPLACED = {  # fields of older versions that were used by hand
    **{
        f"eval.{name}": f"--mode eval takes --{name}."
        for name in ("split", "limit", "submission", "save_predictions")
    },
    "train.on_bad_step": "use --config.train.max_bad_steps=1.",
    "mesh.data": "it is the number of devices over config.mesh.height.",
}


@contextlib.contextmanager
def errors(*, mode: str, traceback: bool, can_resume: Callable[[], bool]) -> Iterator[None]:
    """End the program with one clear line for what a user can mend, and for an interrupt.

    Args:
        mode: of the command line.
        traceback: show where in the code an error arose instead.
        can_resume: whether the same command would resume from a checkpoint.
    """
    try:
        yield
    except KeyboardInterrupt as stop:
        saved = isinstance(stop, Stopped)
        resumes = " The same command resumes from the last checkpoint."
        if processes.is_first():
            Terminal().line(f"{stop if saved else 'Stopped'}.{resumes * (saved or can_resume())}")
        sys.exit(stop.exit_code if isinstance(stop, Stopped) else 130)
    except jax.errors.JaxRuntimeError as error:
        if traceback or "RESOURCE_EXHAUSTED" not in str(error):
            raise
        sys.exit(f"Error: {out_of_memory(str(error), mode=mode)}")
    except (ValueError, OSError, FloatingPointError) as error:
        if traceback:
            raise
        if mode == "train" and isinstance(error, OSError):
            # After a failed save Orbax's threads would keep the process alive for five minutes.
            print(f"Error: {error}", file=sys.stderr, flush=True)
            sys.stdout.flush()
            os._exit(1)
        sys.exit(f"Error: {error}")


def out_of_memory(error: str, *, mode: str) -> str:
    """Say what needs less memory in a mode of the command line; XLA's own words do not."""
    first_line = error.strip().splitlines()[0]
    advice = _OUT_OF_MEMORY.get(mode, _OUT_OF_MEMORY["eval"])
    return f"the memory of the device does not suffice ({first_line}). {advice}"


def bad_flags(error: Exception, argv: Sequence[str]) -> str:
    """Say in one line why a command line, or the recipe that it names, cannot be read."""
    if isinstance(error, AttributeError | KeyError):
        return _unknown_field(argv) or str(error)
    if not isinstance(error, flags.Error | ValueError | TypeError | OSError):
        # Of any type, in a recipe of the user's own.
        where = tracebacks.extract_tb(error.__traceback__)[-1]
        named = isinstance(error, SyntaxError)  # which names its place itself
        place = "" if named else f" ({where.filename}, line {where.lineno})"
        return f"the file of --config does not run: {error}{place}"
    if match := re.search(r"flag '(config\.[\w.]+)'", str(error)):
        return (
            f"--{match[1]} changes a recipe; give that too, as in --config "
            "configs/hr18s_minicity.py."
        )
    # What a config file raises comes with its traceback; the last line says it.
    lines = str(error).strip().splitlines()
    if "Traceback" in str(error):
        return lines[-1].strip().removeprefix("ValueError: ")
    return " ".join(lines)


def _unknown_field(argv: Sequence[str]) -> str | None:
    """Find the --config.x.y that names no field, and the field that was probably meant."""
    known = fields(default(name="", dataset="", variant=""))
    for argument in argv:
        match = re.match(r"--(?:no)?config\.([\w.]+)", argument)
        if match and match[1] in _REPLACED:
            return f"there is no field config.{match[1]}; {_REPLACED[match[1]]}"
        if match and match[1] not in known:
            # The end of a dotted name says more than its beginning.
            close = difflib.get_close_matches(match[1], known, n=1, cutoff=0.5)
            hint = f"did you mean config.{close[0]}?" if close else "--help lists them."
            return f"there is no field config.{match[1]}; {hint}"
    return None
