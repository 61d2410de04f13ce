"""Whether the system has to clear pages again and again."""

import ctypes
import gc
import platform
from pathlib import Path
from types import SimpleNamespace

import pytest

from hrnet_jax.parallel import process_settings as memory
from hrnet_jax.parallel.process_settings import forget_peak, gc_disabled, gc_frozen, peak_memory
from tests.command import run

glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")

PROGRAM = """
import resource, sys
from hrnet_jax.parallel.process_settings import disable_malloc_trim

if sys.argv[1] == "kept":
    disable_malloc_trim()

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    bytearray(100_000_000)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

faults()
print(faults())
"""


@glibc
def test_a_large_block_that_was_freed_is_used_again():
    kept, returned = (int(run(how, module=("-c", PROGRAM)).stdout) for how in ("kept", "returned"))
    assert returned > 20_000  # 100 MB in pages of 4 kB
    assert kept < 1_000


BLOCKS = """
import ctypes, resource, sys
from hrnet_jax.parallel.process_settings import Room, disable_malloc_trim

library = ctypes.CDLL(None)
library.malloc.restype, library.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
library.memalign.restype, library.memalign.argtypes = ctypes.c_void_p, [ctypes.c_size_t] * 2
library.free.restype, library.free.argtypes = None, [ctypes.c_void_p]

def end_of(size):
    with room.held(size):
        block = library.memalign(64, size)
        library.malloc(300_000)  # what stays
        library.free(block)
    for small in (40, 56, 72, 88, 3_000, 200_000):
        library.malloc(small)
    return block + size

def spread(ends):
    return max(ends) - min(ends)

disable_malloc_trim()
room = Room()
"""
PAGES = 50 * 4096  # one at most for each call, and what sizes are rounded to


def printed(program: str) -> list[int]:
    return [int(word) for word in run(module=("-c", BLOCKS + program)).stdout.split()]


SEEN = "2.36"  # the glibc that is known to move blocks otherwise
SIZES = "(100_000_000, 40_000_000, 99_999_488, 99_990_000)"


@glibc
@pytest.mark.parametrize(("first", "stays"), [("room.enlarge(90_000_000)", True), ("", False)])
def test_blocks_end_at_one_place_but_for_pages_whatever_is_asked_for_beside(first, stays):
    enlarged = f"{first}; room.enlarge(100_000_000)" if first else ""
    (moved,) = printed(f"{enlarged}\nprint(spread([end_of(n) for n in {SIZES} * 10]))")
    if stays or platform.libc_ver()[1] == SEEN:
        assert (moved < PAGES) == stays


@glibc
def test_a_room_outlives_what_goes_wrong_within():
    (moved,) = printed("""
room.enlarge(100_000_000)
ends = [end_of(100_000_000)]
try:
    with room.held(40_000_000):
        raise ValueError
except ValueError:
    pass
with room.held(100_000_000), room.held(100_000_000):
    pass
print(spread([*ends, *(end_of(100_000_000) for _ in range(10))]))
""")
    assert moved < PAGES


@glibc
def test_a_place_that_was_taken_is_left_for_another():
    (moved,) = printed("""
room.enlarge(100_000_000)
with room.held(100_000_000):
    library.malloc(100_000_000)  # what stays
print(spread([end_of(100_000_000) for _ in range(10)]))
""")
    assert moved < PAGES


@glibc
def test_an_interrupt_at_any_moment_leaves_no_block_in_two_hands():
    (stopped,) = printed("""
from hrnet_jax.parallel import process_settings as memory

real, stopped = memory._allocator(), 0

def interrupted_after(calls):
    def counting(function):
        def run(*arguments):
            nonlocal calls
            result, calls = function(*arguments), calls - 1
            if calls == 0:
                raise KeyboardInterrupt
            return result
        return run
    return [counting(function) for function in real]

for calls in range(1, 60):
    memory._allocator = lambda: real
    room = Room()
    room.enlarge(100_000_000)
    functions = interrupted_after(calls)
    memory._allocator = lambda: functions
    try:
        end_of(100_000_000)
        end_of(40_000_000)
        room.renew()
        room.enlarge(100_000_000 + calls * 4096)
    except KeyboardInterrupt:
        stopped += 1
    memory._allocator = lambda: real
    for size in (100_000_000, 40_000_000, 100_000_000):
        end_of(size)
    room.renew()
print(stopped)
""")
    assert stopped > 30


@glibc
def test_where_addresses_are_limited_a_smaller_room_stays():
    (moved,) = printed("""
room.enlarge(100_000_000)
resource.setrlimit(resource.RLIMIT_AS, (4 * 2**30, 4 * 2**30))
room.enlarge(8 * 2**30)
with room.held(8 * 2**30):
    pass
print(spread([end_of(100_000_000) for _ in range(10)]))
""")
    assert moved < PAGES


@glibc
def test_other_threads_have_no_room():
    (moved,) = printed("""
import threading
room.enlarge(100_000_000)
ends = [end_of(100_000_000)]

def elsewhere():
    room.enlarge(200_000_000)
    with room.held(100_000_000):
        pass

thread = threading.Thread(target=elsewhere)
thread.start()
thread.join()
print(spread([*ends, *(end_of(100_000_000) for _ in range(10))]))
""")
    assert moved < PAGES


@glibc
def test_what_a_room_holds_counts_as_growth_again():
    (growth,) = printed("""
from hrnet_jax.parallel.process_settings import ROOM, forget_peak, peak_memory

room = ROOM
room.enlarge(100_000_000)

def fill():
    with room.held(100_000_000):
        block = library.memalign(64, 100_000_000)
        ctypes.memset(block, 1, 100_000_000)
        library.free(block)

fill()
before = forget_peak()
fill()
print(peak_memory() - before)
""")
    assert growth == pytest.approx(100e6, rel=0.05)


@pytest.mark.parametrize("name", ["glibc", "musl"])
def test_another_malloc_is_let_be(name, monkeypatch):
    """As of a library that was loaded before glibc: its realloc may move what it shrinks."""
    other = ctypes.CFUNCTYPE(None)(lambda: None)
    libraries = {None: SimpleNamespace(malloc=other), "libc.so.6": ctypes.CDLL(None)}
    monkeypatch.setattr(platform, "libc_ver", lambda: (name, ""))
    monkeypatch.setattr(ctypes, "CDLL", libraries.get)
    monkeypatch.setattr(memory, "_keeps_freed_memory", False)
    memory.disable_malloc_trim()
    room = memory.Room()
    room.enlarge(100_000_000)
    with room.held(100_000_000):
        pass
    memory.return_freed_memory()
    assert not memory._keeps_freed_memory


def test_the_collector_rests_and_goes_on():
    with gc_disabled():
        assert not gc.isenabled()
    assert gc.isenabled()


GROWTH = """
from hrnet_jax.parallel.process_settings import forget_peak, disable_malloc_trim, peak

disable_malloc_trim()
bytearray(200_000_000)  # what was freed before counts as growth when it is used again
before = forget_peak()
bytearray(50_000_000)
print(peak_memory() - before)
"""


@glibc
def test_the_peak_is_that_since_it_was_forgotten():
    assert int(run(module=("-c", GROWTH)).stdout) == pytest.approx(50e6, rel=0.05)


@pytest.mark.parametrize("status", ["VmRSS:\t  100 kB\n", None], ids=["no peak", "no Linux"])
def test_a_system_that_does_not_tell_is_no_error(status, monkeypatch):
    def read(path):
        if status is None:
            raise FileNotFoundError(path)
        return status

    monkeypatch.setattr(Path, "read_text", read)
    monkeypatch.setattr(Path, "write_text", lambda path, text: len(text))
    assert peak_memory() is None
    assert forget_peak() is None


def test_what_exists_is_left_alone_until_the_end_of_the_context():
    before = gc.get_freeze_count()
    with gc_frozen():
        assert gc.get_freeze_count() > before + 10_000
    assert gc.get_freeze_count() == 0
