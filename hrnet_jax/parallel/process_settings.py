"""How memory is kept for our programs, and how much this process holds."""

import contextlib
import ctypes
import functools
import gc
import platform
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# Sizes in bytes.
_PAGE = 4096
_OWN = 8  # glibc's own, before each block
_ALIGNING = 128  # as much more than a block glibc looks for at most, to align it to 64
_BEFORE = 2**26  # space before the place of programs' memory
_OTHERS = 2**26  # a hole for what programs return
_WALL = 2**20  # larger than most holes, so that few are tried
_LEAST_BLOCK = 2**23  # smaller ones are let be

_MOST_GAPS = 10_000  # walls that may turn out to fill holes elsewhere
_MOST_MOVES = 16  # to another place; where more are needed, something large lies in each

# From glibc's malloc.h: which setting, and its value.
_SETTINGS = {
    "M_MMAP_MAX": (-4, 0),  # large blocks come from the heap, not from the system one by one
    "M_TRIM_THRESHOLD": (-1, -1),  # and stay there when they are freed
}


_keeps_freed_memory = False


def disable_malloc_trim() -> None:
    """Keep large blocks that were freed for the next use, where memory is glibc's to give.

    By default the system takes them back, and clears them page by page when they are asked for
    again. This holds for blocks of the main thread; those of other threads stay as they are, since
    glibc's heaps for threads are small.

    For programs, not for libraries: it holds for the whole process, which keeps the memory that it
    once needed.
    """
    global _keeps_freed_memory
    if not _is_glibcs():
        return
    library = ctypes.CDLL(None)
    for name, (setting, value) in _SETTINGS.items():
        if not library.mallopt(setting, value):
            raise RuntimeError(f"glibc's mallopt refused {name}={value}")
    _keeps_freed_memory = True


def _is_glibcs() -> bool:
    """Whether malloc is glibc's, and not that of a library that was loaded before it."""
    if platform.libc_ver()[0] != "glibc":
        return False
    used, own = (
        ctypes.cast(ctypes.CDLL(name).malloc, ctypes.c_void_p).value for name in (None, "libc.so.6")
    )
    return used == own


def return_freed_memory() -> None:
    """Give the system back what is kept now, where memory is glibc's to give."""
    if _is_glibcs():
        ctypes.CDLL(None).malloc_trim(0)


class Room:
    """A place for programs' temporary memory, of which one at a time needs some.

    Only after `disable_malloc_trim`, and for the main thread; else it does nothing. glibc puts an
    aligned block into a hole that is a little larger and gives back the rest, which then belongs to
    something small: the hole that the block leaves is too small for it the next time. Programs held
    a second and a third copy of their temporary memory, after 2 to 30 calls. Here the place belongs
    to nobody else between calls, and has space before it, of which it takes a page whenever that
    has happened. Nothing takes memory before it is used.

    What a signal's exception interrupts here (Ctrl-C) leaves no place, and holds nothing twice: no
    attribute names what the allocator has already been given back.
    """

    def __init__(self) -> None:
        self._size = 0  # of the largest block
        self._place = 0  # where it begins, at a multiple of 64
        self._block = 0  # what keeps it between calls: the same number, or 0
        self._before = 0  # what keeps the space before it
        self._moves = _MOST_MOVES

    def enlarge(self, size: int) -> None:
        """From now on blocks may have so many bytes, if the process may have the addresses."""
        if self._is_of_use() and size > max(self._size, _LEAST_BLOCK):
            former, self._size = self._size, size
            if not self._move():
                self._size = former
                self._move()

    @contextlib.contextmanager
    def held(self, size: int) -> Iterator[None]:
        """Within this context the first aligned block of `size` bytes finds its place."""
        if not (self._block and self._is_of_use() and _LEAST_BLOCK <= size <= self._size):
            yield
            return
        # All blocks end at one place, so that what lies behind one lies within no other.
        block, self._block = self._block, 0
        beside = self._shrink(block, (self._size - size) // _PAGE * _PAGE)
        try:
            yield
        finally:
            self._shrink(beside, 0)
            self._block = self._take() or self._take_with_a_page_more()
            while not self._block and self._moves and self._size:
                self._moves -= 1
                self._move()

    def renew(self) -> None:
        """Give back what the place holds."""
        if self._block and self._is_of_use():
            self._move()

    def _is_of_use(self) -> bool:
        on_main_thread = threading.current_thread() is threading.main_thread()
        return _keeps_freed_memory and on_main_thread

    def _take(self) -> int:
        """Take what lies behind `_before`, if it is free and large enough; else return 0."""
        malloc, free, _ = _allocator()
        block = malloc(self._size + _ALIGNING)
        if block == self._place:
            return block
        free(block)
        return 0

    def _take_with_a_page_more(self) -> int:
        if self._place - 2 * _PAGE < self._before:
            return 0
        self._place -= _PAGE
        self._end_before_the_place()
        return self._take()

    def _end_before_the_place(self) -> None:
        before, self._before = self._before, 0
        self._before = self._shrink(before, self._place - before)

    @staticmethod
    def _shrink(block: int, size: int) -> int:
        """Leave only the first bytes of a block, so many that what follows may begin there."""
        _, free, realloc = _allocator()
        if size:
            return realloc(block, size - _OWN)
        free(block or None)
        return 0

    def _move(self) -> bool:
        """Make another place; return whether there is one."""
        malloc = _allocator()[0]
        former = self._before, self._block
        self._before = self._block = 0
        others = malloc(_OTHERS)
        gaps = _wall_behind(others)
        self._before = malloc(_BEFORE + self._size + _PAGE) or 0
        if self._before:
            gaps += _wall_behind(self._before)
            self._place = (self._before + _BEFORE) // 64 * 64
            self._end_before_the_place()
            self._block = self._take()
        for block in (*former, *gaps, others or 0):
            self._shrink(block, 0)
        return_freed_memory()
        return bool(self._block)


def _wall_behind(block: int | None) -> list[int]:
    """Let something lie behind a block for good; return what only fills gaps before it."""
    malloc, gaps = _allocator()[0], []
    for _ in range(_MOST_GAPS if block else 0):
        wall = malloc(_WALL)
        if not wall or wall > block:
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


ROOM = Room()  # of this process


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
    """Let `peak` begin anew; return the bytes that are resident now, None if nothing tells.

    Freed blocks go back to the system first: what needs them again counts as growth.
    """
    ROOM.renew()
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
