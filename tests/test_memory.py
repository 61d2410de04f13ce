"""Whether the system has to clear pages again and again."""

import gc
import platform
from pathlib import Path

import pytest

from hrnet_jax.memory import collector_off, forget_peak, peak, uncollected
from tests.command import run

PROGRAM = """
import resource, sys
from hrnet_jax.memory import keep_freed_memory

if sys.argv[1] == "kept":
    keep_freed_memory()

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    bytearray(100_000_000)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

faults()
print(faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
def test_a_large_block_that_was_freed_is_used_again():
    kept, returned = (int(run(how, module=("-c", PROGRAM)).stdout) for how in ("kept", "returned"))
    assert returned > 20_000  # 100 MB in pages of 4 kB
    assert kept < 1_000


PLACES = """
import ctypes, sys
from hrnet_jax.memory import Room, keep_freed_memory

if sys.argv[1] != "not kept":
    keep_freed_memory()
room = Room()
if sys.argv[1] != "without room":
    room.enlarge(90_000_000)
    room.enlarge(100_000_000)
library = ctypes.CDLL(None)
library.malloc.restype, library.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
library.memalign.restype, library.memalign.argtypes = ctypes.c_void_p, [ctypes.c_size_t] * 2
library.free.restype, library.free.argtypes = None, [ctypes.c_void_p]
ends = []
for number in range(40):
    size = (100_000_000, 40_000_000)[number % 2]
    with room.held(size):
        block = library.memalign(64, size)
        ends.append(block + size)
        library.malloc(300_000)  # what stays
        library.free(block)
    for small in (40, 56, 72, 88, 200_000):
        library.malloc(small)
print(max(ends) - min(ends))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
def test_blocks_end_at_one_place_but_for_pages_whatever_is_asked_for_beside():
    moved = {
        how: int(run(how, module=("-c", PLACES)).stdout)
        for how in ("with room", "without room", "not kept")
    }
    assert moved["with room"] < 40 * 4096 + 64
    assert moved["without room"] > 100_000_000
    assert moved["not kept"] != 0  # no error there


LIMITED = """
import resource
from hrnet_jax.memory import Room, keep_freed_memory

keep_freed_memory()
resource.setrlimit(resource.RLIMIT_AS, (4 * 2**30, 4 * 2**30))
room = Room()
room.enlarge(8 * 2**30)
with room.held(8 * 2**30):
    print("went on")
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
def test_without_addresses_enough_there_is_no_room_and_no_error():
    assert run(module=("-c", LIMITED)).stdout.strip() == "went on"


def test_the_collector_rests_and_goes_on():
    with collector_off():
        assert not gc.isenabled()
    assert gc.isenabled()


GROWTH = """
from hrnet_jax.memory import forget_peak, keep_freed_memory, peak

keep_freed_memory()
bytearray(200_000_000)  # what was freed before counts as growth when it is used again
before = forget_peak()
bytearray(50_000_000)
print(peak() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
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
    assert peak() is None
    assert forget_peak() is None


def test_what_exists_is_left_alone_until_the_end_of_the_context():
    before = gc.get_freeze_count()
    with uncollected():
        assert gc.get_freeze_count() > before + 10_000
    assert gc.get_freeze_count() == 0
