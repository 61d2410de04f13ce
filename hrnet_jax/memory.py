"""How memory is kept for our programs, and how much this process holds."""

import contextlib
import ctypes
import gc
import platform
import re
from collections.abc import Iterator
from pathlib import Path

_MEGABYTE = 2**20
_OTHERS = 64 * _MEGABYTE  # for images of a batch, logits, and all that is small
_MOST_GAPS = 10_000  # of a megabyte each

_keeps_freed_memory = False

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
    global _keeps_freed_memory
    if platform.libc_ver()[0] != "glibc":
        return
    library = ctypes.CDLL(None)
    for name, (setting, value) in _SETTINGS.items():
        if not library.mallopt(setting, value):
            raise RuntimeError(f"glibc's mallopt refused {name}={value}")
    _keeps_freed_memory = True


def return_freed_memory() -> None:
    """Give the system back what is kept now, where the C library is glibc."""
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)


def reserve(size: int) -> None:
    """Let a block of `size` bytes that is asked for again and again find its place again.

    Only after `keep_freed_memory`. Else what is asked for in between may come to lie where the
    block was, or right behind, where glibc needs room to align it: programs held a second and a
    third copy of their temporary memory. So a larger hole is made, and a smaller one, which glibc
    prefers for all that fits there. Neither takes memory before it is used.
    """
    if not _keeps_freed_memory:
        return
    library = ctypes.CDLL(None)
    library.malloc.restype, library.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    library.free.restype, library.free.argtypes = None, [ctypes.c_void_p]
    holes = []
    for room in (_OTHERS, size + 2 * _OTHERS):
        holes.append(library.malloc(room))
        # What comes to lie behind the hole ends it; what fills gaps before it is given back.
        walls = [library.malloc(_MEGABYTE)]
        while walls[-1] < holes[-1] and len(walls) < _MOST_GAPS:
            walls.append(library.malloc(_MEGABYTE))
        for gap in walls[:-1]:
            library.free(gap)
    for hole in holes:
        library.free(hole)
    return_freed_memory()


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
