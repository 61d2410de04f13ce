"""How the C library keeps memory for our programs."""

import ctypes
import platform

# From glibc's malloc.h: which setting, and its value.
_SETTINGS = {
    "M_ARENA_MAX": (-8, 1),  # threads of their own arenas would map large blocks all the same
    "M_MMAP_MAX": (-4, 0),  # large blocks come from the heap, not from the system one by one
    "M_TRIM_THRESHOLD": (-1, -1),  # and stay there when they are freed
}


def keep_freed_memory() -> None:
    """Keep large blocks that were freed for the next use, where the C library is glibc.

    XLA's CPU backend asks for a program's temporary memory at each call and frees it afterwards. By
    default the system takes it back and clears it page by page at the next call: 196,000 page
    faults in a training step of W18-Small at 256x512, a fifth of its time (`make benchmark`).

    For programs, not for libraries: it holds for the whole process, and must come before jax
    starts its threads.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    library = ctypes.CDLL(None)
    for name, (setting, value) in _SETTINGS.items():
        if not library.mallopt(setting, value):
            raise RuntimeError(f"glibc's mallopt refused {name}={value}")
