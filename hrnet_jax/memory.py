"""How memory is kept for our programs, and how much this process holds."""

import contextlib
import ctypes
import gc
import platform
import re
from collections.abc import Iterator
from pathlib import Path

# From glibc's malloc.h: which setting, and its value.
_SETTINGS = {
    "M_MMAP_MAX": (-4, 0),  # large blocks come from the heap, not from the system one by one
    "M_TRIM_THRESHOLD": (-1, -1),  # and stay there when they are freed
}


def keep_freed_memory() -> None:
    """Keep large blocks that were freed for the next use, where the C library is glibc.

    By default the system takes them back, and clears them page by page when they are asked for
    again. This holds for blocks of the main thread; those of other threads stay as they are, since
    glibc's heaps for threads are small.

    For programs, not for libraries: it holds for the whole process, which keeps the memory that it
    once needed.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    library = ctypes.CDLL(None)
    for name, (setting, value) in _SETTINGS.items():
        if not library.mallopt(setting, value):
            raise RuntimeError(f"glibc's mallopt refused {name}={value}")


def return_freed_memory() -> None:
    """Give the system back what is kept now, where the C library is glibc."""
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)


@contextlib.contextmanager
def collector_off() -> Iterator[None]:
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
def uncollected() -> Iterator[None]:
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
    """Let `peak` begin anew; return the bytes that are resident now, None if nothing tells.

    Freed blocks go back to the system first: what needs them again counts as growth.
    """
    return_freed_memory()
    try:
        Path("/proc/self/clear_refs").write_text("5")  # sets the peak to what is resident
    except OSError:
        return None
    return peak()


def peak() -> int | None:
    """The most bytes that were resident since `forget_peak`, None if nothing tells.

    Only Linux does, and not within every sandbox.
    """
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return None
    found = re.search(r"^VmHWM:\s+(\d+) kB", status, flags=re.MULTILINE)
    return 1024 * int(found[1]) if found else None
