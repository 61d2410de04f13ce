"""Compiler options, precision and the compilation cache."""

import math
import stat
import sys
from pathlib import Path
from typing import Any

import jax

from hrnet_jax.parallel.process_settings import (
    disable_malloc_trim,
    gc_disabled,
    return_freed_memory,
)

# The default CPU preset recomputes residual and upsampling chains in every consumer. W18 inference
# at 512x1024 took 2.5 times as long, and 3 times as long to compile, as with this preset.
_CPU_OPTIONS = {"xla_cpu_opt_preset": "CPU_OPT_PRESET_FAST_COMPILE"}

# In inference XLA uses the library YNN for convolutions, which runs small ones on one thread. With
# Eigen W18-Small took 0.76 of the time at 256x256, 0.93 to 0.99 at 512x512, 1.02 to 1.06 at
# 512x1024, and W48 0.85, 0.93 to 0.97, 1.03. Training steps took longer at every size.
_CPU_SMALL_IMAGES = {"xla_cpu_experimental_ynn_fusion_type": ""}
_SMALL = 512 * 512  # pixels of an image; counting the batch would make logits depend on its size

# XLA's CPU compiler considers every loop without a scatter small, and makes it one kernel that runs
# on one thread. Labelling 40x61 pixels from four views then took 8 s to compile instead of 1 s.
_CPU_PIXELS = {"xla_disable_hlo_passes": "small-while-loop-hoisting"}

# XLA's default CPU schedule favours parallelism, and keeps so many buffers alive that remat saves
# nothing. This schedule needs less memory, but more time.
_CPU_SAVING_MEMORY = {"xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED"}


def prepare_process() -> None:
    """Apply the settings of the whole process; call it before any device is used.

    XLA's CPU backend allocates a program's temporary memory at each call and frees it afterwards.
    Clearing it page by page cost 209,000 page faults in a training step of W18-Small at 256x512:
    1.01 s instead of 0.70 s on two cores. glibc keeps memory for the main thread only, so programs
    must run there and not on a thread of jax; hence no asynchronous dispatch. Reading data uses
    threads of its own.

    Python's thread switch interval is 5 ms by default. While a checkpoint is saved, this thread
    would wait that long for each of Orbax's threads (`python -m benchmarks.overhead`).
    """
    sys.setswitchinterval(5e-4)
    disable_malloc_trim()
    jax.config.update("jax_cpu_enable_async_dispatch", False)


def set_precision(dtype: str) -> None:
    """Set jax's precision for a network of this dtype; call it before its arrays are made.

    The setting affects the whole process and is never undone, since other code may rely on it.

    Args:
        dtype: float32, bfloat16 or float64, as in config.model.dtype.
    """
    if dtype == "float64":
        jax.config.update("jax_enable_x64", True)
    if dtype != "bfloat16":
        # TPUs and recent GPUs multiply float32 with fewer bits by default.
        jax.config.update("jax_default_matmul_precision", "highest")


def compiler_options(platform: str | None = None, *, saving_memory: bool = False) -> dict[str, str]:
    """Return the compiler options of a training step, for `jax.jit`.

    Args:
        platform: platform of the devices; by default jax's default backend.
        saving_memory: prefer less memory to less time.
    """
    if (platform or jax.default_backend()) != "cpu":
        return {}
    return _CPU_OPTIONS | (_CPU_SAVING_MEMORY if saving_memory else {})


def inference_options(size: tuple[int, ...], platform: str | None = None) -> dict[str, str]:
    """Return the compiler options of a program that only runs the network forwards.

    Args:
        size: height and width of the images.
        platform: as in `compiler_options`.
    """
    options = compiler_options(platform)
    return options | _CPU_SMALL_IMAGES if options and math.prod(size) <= _SMALL else options


def pixel_options(platform: str | None = None) -> dict[str, str]:
    """Return the compiler options of a program that loops over pixels, without the network.

    Args:
        platform: as in `compiler_options`.
    """
    options = compiler_options(platform)
    return options | _CPU_PIXELS if options else options


def compile_program(
    function: jax.stages.Wrapped, *arguments: Any, options: dict[str, str] | None = None
) -> jax.stages.Compiled:
    """Compile a jitted function for arguments of these shapes.

    Args:
        function: the result of `jax.jit`.
        arguments: arrays or `jax.ShapeDtypeStruct`s.
        options: compiler options in addition to those of `jax.jit`.
    """
    with gc_disabled():
        # A copy for mypy, because dict is invariant in its value type.
        compiled = function.lower(*arguments).compile({**(options or {})})
    return_freed_memory()
    return compiled


def enable_compilation_cache(folder: Path) -> None:
    """Cache compiled programs in a folder, so that the next start is quick.

    Raises:
        ValueError: other users may write to the folder, and a compiled program is code.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    if folder.stat().st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise ValueError(
            f"{folder} holds compiled programs, and other users may write to it; make sure that "
            f"you trust its contents, then run `chmod go-w {folder}`."
        )
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 1.0)
