"""Memory and garbage collection of this process.

For programs, not for libraries: what is set here holds for everything that runs in the process.
"""

import contextlib
import ctypes
import gc
import platform
import re
from collections.abc import Iterator
from pathlib import Path

# From glibc's malloc.h: which setting, and its value.
_MALLOC_SETTINGS = {
    "M_MMAP_MAX": (-4, 0),  # large blocks come from the heap, not from the system one by one
    "M_TRIM_THRESHOLD": (-1, -1),  # and stay there when they are freed
}


def disable_malloc_trim() -> None:
    """Keep large blocks that were freed for the next use, where malloc is glibc's.

    By default the system takes them back, and clears them page by page when they are asked for
    again. This holds for blocks of the main thread; glibc's heaps for other threads are small.
    """
    if _malloc_is_glibcs():
        library = ctypes.CDLL(None)
        for name, (setting, value) in _MALLOC_SETTINGS.items():
            if not library.mallopt(setting, value):
                raise RuntimeError(f"glibc's mallopt refused {name}={value}")


def return_freed_memory() -> None:
    """Give the system back what is kept now: after compiling, as much as a training step needs."""
    if _malloc_is_glibcs():
        ctypes.CDLL(None).malloc_trim(0)


def _malloc_is_glibcs() -> bool:
    """Whether malloc is glibc's, and not a library's that was loaded before it."""
    if platform.libc_ver()[0] != "glibc":
        return False
    used, own = (
        ctypes.cast(ctypes.CDLL(name).malloc, ctypes.c_void_p).value for name in (None, "libc.so.6")
    )
    return used == own


@contextlib.contextmanager
def gc_disabled() -> Iterator[None]:
    """Within this context Python does not look for garbage: where much is made that stays.

    Tracing makes objects by the hundred thousand, and each thousand had the collector look through
    them, and now and then through everything: two fifths of the time of tracing a training step.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


@contextlib.contextmanager
def gc_frozen() -> Iterator[None]:
    """Within this context Python's collector leaves alone what exists at its beginning.

    That is all that tracing made, which lives as long as the run; looking through it took as long
    as a step of a small network, at every third save.
    """
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def forget_peak() -> int | None:
    """Let `peak_memory` begin again; return the bytes resident now, None if nothing tells.

    Freed blocks go back to the system first: what needs them again counts as growth.
    """
    return_freed_memory()
    try:
        Path("/proc/self/clear_refs").write_text("5")  # sets the peak to what is resident
    except OSError:
        return None
    return peak_memory()


def peak_memory() -> int | None:
    """Return the most bytes that were resident since `forget_peak`, None if nothing tells.

    Only Linux does, and not within every sandbox.
    """
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return None
    match = re.search(r"^VmHWM:\s+(\d+) kB", status, flags=re.MULTILINE)
    return 1024 * int(match[1]) if match else None
