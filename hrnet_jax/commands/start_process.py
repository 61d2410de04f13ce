"""Settings of a process of the command line."""

import io
import sys

import jax
from absl import logging

from hrnet_jax.parallel.compiling import enable_compilation_cache, prepare_process
from hrnet_jax.runs.paths import cache_folder
from hrnet_jax.runs.terminal import Terminal


def start_process() -> None:
    """Set up memory, output and logging; must come before any use of devices."""
    prepare_process()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # for terminals without Unicode
    logging.set_verbosity(logging.ERROR)  # Orbax logs every file, jax missing TPUs


def keep_compiled_programs(terminal: Terminal) -> None:
    """Cache compiled programs, so that the next start is quicker."""
    if jax.distributed.is_initialized() and jax.default_backend() == "cpu":
        return  # cached, XLA's CPU programs may communicate in another order in each process
    try:
        enable_compilation_cache(cache_folder() / "xla")
    except (OSError, RuntimeError) as error:  # a read-only home, or none
        terminal.warn(f"compiled programs cannot be cached ({error}); starts will be slower.")
