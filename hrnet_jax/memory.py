"""How memory is kept for our programs, and how much this process holds."""

import contextlib
import ctypes
import functools
import gc
import platform
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_PAGE = 4096
_ALIGNING = 96  # bytes more that glibc looks for to align a block to 64
_OWN = 8  # bytes of glibc's own before each block
_BEFORE = 2**26  # bytes of space before a program's memory
_WALL = 2**20
_LEAST_BLOCK = 2**23  # smaller ones are let be
_MOST_GAPS = 10_000
_MOST_MOVES = 16

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


class Room:
    """A place for programs' temporary memory, of which one at a time needs some.

    Only after `keep_freed_memory`; else it does nothing. glibc puts an aligned block into a hole
    that is a little larger and gives back the rest, which then belongs to something small: where
    the block was, its hole is too small for it the next time. Programs held a second and a third
    copy of their temporary memory, after 2 to 30 calls. Here the hole has space before it, of
    which it takes a page whenever that has happened. Nothing takes memory before it is used.
    """

    def __init__(self) -> None:
        self._size = 0  # of the largest block
        self._hole = 0  # where it begins, at a multiple of 64
        self._before = 0  # where the space before it begins, which is kept; 0: nowhere
        self._moves = _MOST_MOVES

    def enlarge(self, size: int) -> None:
        """From now on blocks may have so many bytes."""
        if _keeps_freed_memory and size > max(self._size, _LEAST_BLOCK):
            self._size = size
            self._move()

    @contextlib.contextmanager
    def held(self, size: int) -> Iterator[None]:
        """Within this context the first aligned block of `size` bytes finds its place."""
        if not self._before or size < _LEAST_BLOCK or size > self._size:
            yield
            return
        _, free, realloc = _allocator()
        taken = self._take()
        if not taken:
            self._grow()
            taken = self._take()
        if not taken and self._moves:
            self._moves -= 1
            self._move()
            taken = self._take()
        # All blocks end at one place, so that what lies behind one lies within no other.
        beside = (self._size - size) // 64 * 64
        if taken:
            realloc(taken, beside - _OWN) if beside else free(taken)
        try:
            yield
        finally:
            if taken and beside:
                free(taken)

    def _take(self) -> int:
        """Take the hole and what glibc needs to align a block there; 0 if it is not free."""
        malloc, free = _allocator()[:2]
        block = malloc(self._size + _ALIGNING)
        if block == self._hole:
            return block
        free(block)
        return 0

    def _grow(self) -> None:
        """Take a page of the space before the hole."""
        if self._hole - _PAGE > self._before + _PAGE:
            self._hole -= _PAGE
            self._keep_before()

    def _keep_before(self) -> None:
        _allocator()[2](self._before, self._hole - self._before - _OWN)

    def _move(self) -> None:
        malloc, free = _allocator()[:2]
        free(self._before or None)
        others = malloc(_BEFORE)  # a hole of its own for what is asked for between the calls
        gaps = _wall_behind(others)
        self._before = malloc(_BEFORE + self._size + _PAGE) or 0
        if self._before:  # there may be a limit to the addresses of a process
            gaps += _wall_behind(self._before)
            self._hole = (self._before + _BEFORE) // 64 * 64
            self._keep_before()
        for gap in (*gaps, others):
            free(gap)
        return_freed_memory()


def _wall_behind(block: int | None) -> list[int]:
    """Let something lie behind a block for good; return what only fills gaps before it."""
    malloc, gaps = _allocator()[0], []
    for _ in range(_MOST_GAPS):
        wall = malloc(_WALL)
        if not block or not wall or wall > block:
            break
        gaps.append(wall)
    return gaps


@functools.cache
def _allocator() -> tuple[Any, Any, Any]:
    """malloc, free and realloc of the C library."""
    library = ctypes.CDLL(None)
    pointer, size = ctypes.c_void_p, ctypes.c_size_t
    library.malloc.restype, library.malloc.argtypes = pointer, [size]
    library.free.restype, library.free.argtypes = None, [pointer]
    library.realloc.restype, library.realloc.argtypes = pointer, [pointer, size]
    return library.malloc, library.free, library.realloc


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
