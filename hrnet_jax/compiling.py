"""How our programs are compiled: the settings a user should not have to know, in one place."""

import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import jax
from jax.experimental.xla_metadata import set_xla_metadata

from hrnet_jax.files import cache_folder
from hrnet_jax.memory import keep_freed_memory

T = TypeVar("T")

# XLA's default CPU preset repeats residual and enlargement chains in every consumer: W18 inference
# at 512x1024 took 2.5 times as long and compiled 3 times as long as under this one.
_CPU_OPTIONS = {"xla_cpu_opt_preset": "CPU_OPT_PRESET_FAST_COMPILE"}

# XLA orders a CPU program for parallel work, which keeps far more alive than need be: 897 MB
# instead of 633 MB in a training step of W18-Small (2 crops of 256x512), which then takes 7 %
# longer; and what is not kept for the backward pass is alive all the same.
_CPU_SAVING_MEMORY = {"xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED"}


def prepare_process() -> None:
    """Set what holds for a whole process; before anything with devices.

    XLA's CPU backend asks for a program's temporary memory at each call and frees it afterwards.
    Cleared page by page each time, it cost 209,000 page faults in a training step of W18-Small at
    256x512: 1.01 s instead of 0.70 s on two cores. Kept memory serves the main thread only, so that
    is where programs must be called from, and not a thread of jax's. What runs beside the program
    then, reading data, has threads of its own.
    """
    keep_freed_memory()
    jax.config.update("jax_cpu_enable_async_dispatch", False)


def compiler_options(platform: str | None = None, *, saving_memory: bool = False) -> dict[str, str]:
    """Options for `jax.jit(..., compiler_options=...)` of programs that hold the network.

    Args:
        platform: of the devices they are compiled for; by default jax's own choice.
        saving_memory: rather than time.
    """
    if (platform or jax.default_backend()) != "cpu":
        return {}
    return _CPU_OPTIONS | (_CPU_SAVING_MEMORY if saving_memory else {})


def called(function: Callable[..., T], *arguments: Any, platform: str) -> T:
    """Call `function` within a program such that, on CPUs, XLA does not fuse it with what follows.

    XLA compiles like kernels once. Slices of a long vector that are fused into what reads them make
    every kernel one of its kind, by the place of its slice: in W18-Small's training step 966
    kernels were like another one instead of 1,784, and LLVM took twice as long.
    """
    if platform != "cpu":
        return function(*arguments)
    with set_xla_metadata(inlineable="false"):
        return jax.jit(function)(*arguments)


def enable_compilation_cache(folder: Path | None = None) -> Path:
    """Keep compiled programs in a folder of this user only, so that the next start is quick.

    A compiled program is code: a folder that others may write to is refused.
    """
    folder = folder or cache_folder() / "xla"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    if folder.stat().st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise ValueError(
            f"{folder} holds compiled programs, and others may write to it; run "
            f"`chmod go-w {folder}` after making sure that you trust what it contains."
        )
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 1.0)
    return folder
