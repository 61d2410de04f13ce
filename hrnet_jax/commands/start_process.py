"""What a process of the command line sets before it does anything."""

import io
import sys

import jax
from absl import logging

from hrnet_jax.parallel.compiling import enable_compilation_cache, prepare_process
from hrnet_jax.runs.paths import cache_folder
from hrnet_jax.runs.terminal import Terminal


def start_process() -> None:
    """Set memory, output and logging of this process; before anything with devices."""
    prepare_process()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without Unicode is no reason to stop
    logging.set_verbosity(logging.ERROR)  # Orbax tells of every file, jax of absent TPUs


def keep_compiled_programs(terminal: Terminal) -> None:
    """Make the next start quicker, where there is a folder for compiled programs."""
    if jax.distributed.is_initialized() and jax.default_backend() == "cpu":
        return  # from the cache, XLA's programs for CPUs may exchange in another order per process
    try:
        enable_compilation_cache(cache_folder() / "xla")
    except (OSError, RuntimeError) as error:  # a read-only home, or none
        terminal.warn(f"no folder to keep compiled programs in ({error}); starts will be slower.")
