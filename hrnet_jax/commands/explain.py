"""Errors as one clear line: out of memory, a mistyped field, a recipe that does not run."""

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
        "Lower config.train.batch_size or config.train.crop_size (both change the result, so use "
        "another --workdir), or use more devices. config.train.remat=block saves memory and "
        "changes no result; config.train.accumulate=2 keeps the batch, but not its statistics. If "
        "it happened during an evaluation, lower config.eval.batch_size. The checkpoints in the "
        "workdir are intact."
    ),
    "predict": (
        "Label in windows, with --config RECIPE --config.eval.mode=slide, or at a smaller size, "
        "with --config RECIPE --config.eval.image_size='(512, 1024)'."
    ),
    "benchmark": (
        "Lower config.train.batch_size (a quarter of it is measured) or config.train.crop_size, or "
        "label in windows with --config.eval.mode=slide; the published figures do not apply then."
    ),
    "eval": "Lower config.eval.batch_size, or label in windows with --config.eval.mode=slide.",
}

_REPLACED = {  # fields of older versions that users set themselves
    "eval.split": "--mode eval takes --split.",
    "eval.limit": "--mode eval takes --limit.",
    "eval.submission": "--mode eval takes --submission.",
    "eval.save_predictions": "--mode eval takes --save_predictions.",
    "train.on_bad_step": "use --config.train.max_bad_steps=1.",
    "checkpoint.keep": "the two newest are kept, and the best by mIoU.",
    "data.threads": "their number is chosen by the program; config.data.workers are processes.",
    "mesh.data": "it is the number of devices divided by config.mesh.height.",
}


@contextlib.contextmanager
def errors(*, mode: str, traceback: bool, can_resume: Callable[[], bool]) -> Iterator[None]:
    """End the program with one clear line after a user error or an interrupt.

    Args:
        mode: the --mode of the command line.
        traceback: raise user errors instead.
        can_resume: whether the same command would resume from a checkpoint.
    """
    try:
        yield
    except KeyboardInterrupt as stop:
        saved = isinstance(stop, Stopped)
        if processes.is_first():
            resumes = " The same command resumes from the last checkpoint."
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
    """Describe XLA's error, and advise what needs less memory in this mode."""
    first_line = error.strip().splitlines()[0]
    advice = _OUT_OF_MEMORY.get(mode, _OUT_OF_MEMORY["eval"])
    return f"the device ran out of memory ({first_line}). {advice}"


def bad_flags(error: Exception, argv: Sequence[str]) -> str:
    """Describe in one line why a command line, or the recipe that it names, cannot be read."""
    if isinstance(error, AttributeError | KeyError):
        return _unknown_field(argv) or str(error)
    if not isinstance(error, flags.Error | ValueError | TypeError | OSError):
        # A user's recipe may raise any type. A SyntaxError already names its place.
        where = tracebacks.extract_tb(error.__traceback__)[-1]
        is_syntax = isinstance(error, SyntaxError)
        place = "" if is_syntax else f" ({where.filename}, line {where.lineno})"
        return f"the file of --config does not run: {error}{place}"
    if match := re.search(r"flag '(config\.[\w.]+)'", str(error)):
        return (
            f"--{match[1]} changes a field of a recipe; name the recipe too, as in --config "
            "configs/hr18s_minicity.py."
        )
    # ml_collections puts the traceback of a recipe into the message; the last line is the error.
    lines = str(error).strip().splitlines()
    if "Traceback" in str(error):
        return lines[-1].strip().removeprefix("ValueError: ")
    return " ".join(lines)


def _unknown_field(argv: Sequence[str]) -> str | None:
    """Find the --config.x.y that names no field; suggest the field that was probably meant."""
    known = fields(default(name="", dataset="", variant=""))
    for argument in argv:
        match = re.match(r"--(?:no)?config\.([\w.]+)", argument)
        if match and match[1] in _REPLACED:
            return f"there is no field config.{match[1]}; {_REPLACED[match[1]]}"
        if match and match[1] not in known:
            close = difflib.get_close_matches(match[1], known, n=1, cutoff=0.5)
            hint = f"did you mean config.{close[0]}?" if close else "--help lists them."
            return f"there is no field config.{match[1]}; {hint}"
    return None
