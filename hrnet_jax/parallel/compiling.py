"""How our programs are compiled: the settings a user should not have to know, in one place."""

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

# XLA's default CPU preset repeats residual and enlargement chains in every consumer: W18 inference
# at 512x1024 took 2.5 times as long and compiled 3 times as long as under this one.
_CPU_OPTIONS = {"xla_cpu_opt_preset": "CPU_OPT_PRESET_FAST_COMPILE"}

# XLA gives the convolutions of an inference program to a library, YNN, that keeps small ones on one
# thread. With Eigen's instead W18-Small took 0.76 of the time at 256x256, 0.93 to 0.99 at 512x512,
# 1.02 to 1.06 at 512x1024, W48 0.85, 0.93 to 0.97, 1.03. Training steps took longer at every size.
_CPU_SMALL_IMAGES = {"xla_cpu_experimental_ynn_fusion_type": ""}
_SMALL = 512 * 512  # pixels of an image, not of its batch: which changes no logits then

# XLA's CPU compiler takes every loop without a scatter for a small one, and makes one kernel of it
# that runs on one thread. Labelling 40x61 pixels from four views then compiled for 8 s, not 1 s.
_CPU_PIXELS = {"xla_disable_hlo_passes": "small-while-loop-hoisting"}

# XLA orders a CPU program for parallel work, which keeps far more alive than need be; what is not
# kept for the backward pass is alive all the same. Ordered for memory, the program takes longer.
_CPU_SAVING_MEMORY = {"xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED"}


def prepare_process() -> None:
    """Set what holds for a whole process; before anything with devices.

    XLA's CPU backend asks for a program's temporary memory at each call and frees it afterwards.
    Cleared page by page each time, it cost 209,000 page faults in a training step of W18-Small at
    256x512: 1.01 s instead of 0.70 s on two cores. Kept memory serves the main thread only, so that
    is where programs must be called from, and not a thread of jax's. What runs beside the program
    then, reading data, has threads of its own.

    Python hands its lock on every 5 ms by default, and this thread, which saves, would wait that
    long for each of Orbax's threads (`python -m benchmarks.overhead`).
    """
    sys.setswitchinterval(5e-4)
    disable_malloc_trim()
    jax.config.update("jax_cpu_enable_async_dispatch", False)


def set_precision(dtype: str) -> None:
    """Let jax compute as precisely as a network of this dtype needs; before its arrays are made.

    It holds for the whole process, and is never taken back: what else computes there may need it.

    Args:
        dtype: as config.model.dtype: float32, bfloat16 or float64.
    """
    if dtype == "float64":
        jax.config.update("jax_enable_x64", True)
    if dtype != "bfloat16":
        # TPUs and recent GPUs would otherwise multiply float32 in fewer bits.
        jax.config.update("jax_default_matmul_precision", "highest")


def compiler_options(platform: str | None = None, *, saving_memory: bool = False) -> dict[str, str]:
    """Options for `jax.jit(..., compiler_options=...)` of programs that hold the network.

    For those that only run it `inference_options` has more.

    Args:
        platform: of the devices they are compiled for; by default jax's own choice.
        saving_memory: rather than time.
    """
    if (platform or jax.default_backend()) != "cpu":
        return {}
    return _CPU_OPTIONS | (_CPU_SAVING_MEMORY if saving_memory else {})


def inference_options(size: tuple[int, ...], platform: str | None = None) -> dict[str, str]:
    """Options for programs that run the network without derivatives.

    Args:
        size: height and width of its images.
        platform: as in `compiler_options`.
    """
    options = compiler_options(platform)
    return options | _CPU_SMALL_IMAGES if options and math.prod(size) <= _SMALL else options


def pixel_options(platform: str | None = None) -> dict[str, str]:
    """Options for programs that loop over pixels and hold no network.

    Args:
        platform: as in `compiler_options`.
    """
    options = compiler_options(platform)
    return options | _CPU_PIXELS if options else options


def compile_program(
    function: jax.stages.Wrapped, *arguments: Any, options: dict[str, str] | None = None
) -> jax.stages.Compiled:
    """Compile a function of `jax.jit` for such arguments; arrays, or their shapes.

    Args:
        options: of the compiler, besides those that the function was given by `jax.jit`.
    """
    with gc_disabled():
        # A copy for mypy, to which dicts of other values are other dicts.
        compiled = function.lower(*arguments).compile({**(options or {})})
    return_freed_memory()
    return compiled


def enable_compilation_cache(folder: Path) -> None:
    """Keep compiled programs in a folder of this user only, so that the next start is quick.

    Raises:
        ValueError: others may write to the folder; a compiled program is code.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    if folder.stat().st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise ValueError(
            f"{folder} holds compiled programs, and others may write to it; run "
            f"`chmod go-w {folder}` after making sure that you trust what it contains."
        )
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 1.0)
