"""Memory allocation and garbage collection of this process.

For programs, not for libraries: these settings affect everything that runs in the process.
"""

import contextlib
import ctypes
import gc
import platform
import re
from collections.abc import Iterator
from pathlib import Path

# The number of each parameter in glibc's malloc.h, and the value that we set.
_MALLOC_SETTINGS = {
    "M_MMAP_MAX": (-4, 0),  # take large blocks from the heap, not from the system one by one
    "M_TRIM_THRESHOLD": (-1, -1),  # keep them in the heap when they are freed
}


def disable_malloc_trim() -> None:
    """Make glibc keep large freed blocks for the next allocation.

    By default they return to the system, which clears them page by page when they are allocated
    again. This affects the main thread only: glibc's heaps of other threads are small.
    """
    if _uses_glibc_malloc():
        library = ctypes.CDLL(None)
        for name, (setting, value) in _MALLOC_SETTINGS.items():
            if not library.mallopt(setting, value):
                raise RuntimeError(f"glibc's mallopt refused {name}={value}")


def return_freed_memory() -> None:
    """Return freed blocks to the system; after compiling they are as large as a training step."""
    if _uses_glibc_malloc():
        ctypes.CDLL(None).malloc_trim(0)


def _uses_glibc_malloc() -> bool:
    """Whether `malloc` is glibc's, and not replaced by a preloaded library such as jemalloc."""
    if platform.libc_ver()[0] != "glibc":
        return False
    used, own = (
        ctypes.cast(ctypes.CDLL(name).malloc, ctypes.c_void_p).value for name in (None, "libc.so.6")
    )
    return used == own


@contextlib.contextmanager
def gc_disabled() -> Iterator[None]:
    """Disable garbage collection in this context.

    Tracing a training step makes hundreds of thousands of objects that stay alive; looking for
    garbage among them took two fifths of the time.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


@contextlib.contextmanager
def gc_frozen() -> Iterator[None]:
    """Exclude the objects that exist now from garbage collection in this context.

    The objects made by tracing live as long as the run. Every third save, the collector spent as
    much time on them as a step of a small network takes.
    """
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def reset_peak() -> int | None:
    """Reset `peak_memory`; return the bytes resident now, or None if the system cannot tell.

    Freed blocks return to the system first, so that using them again counts as growth.
    """
    return_freed_memory()
    try:
        Path("/proc/self/clear_refs").write_text("5")  # 5 resets the peak to the resident size
    except OSError:
        return None
    return peak_memory()


def peak_memory() -> int | None:
    """Return the peak resident bytes since `reset_peak`, or None if the system cannot tell.

    Only Linux can, and not in every sandbox.
    """
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return None
    match = re.search(r"^VmHWM:\s+(\d+) kB", status, flags=re.MULTILINE)
    return 1024 * int(match[1]) if match else None
