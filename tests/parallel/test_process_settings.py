import ctypes
import gc
import platform
from pathlib import Path
from types import SimpleNamespace

import pytest

from hrnet_jax.parallel import process_settings
from hrnet_jax.parallel.process_settings import gc_disabled, gc_frozen, peak_memory, reset_peak
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


@pytest.mark.parametrize("name", ["glibc", "musl"])
def test_another_malloc_is_left_alone(name, monkeypatch):
    """As a library's that was loaded before glibc, or another system's."""

    def refuse(*_):
        raise AssertionError("asked for")

    other = ctypes.CFUNCTYPE(None)(lambda: None)
    loaded = SimpleNamespace(malloc=other, mallopt=refuse, malloc_trim=refuse)
    libraries = {None: loaded, "libc.so.6": ctypes.CDLL(None)}
    monkeypatch.setattr(platform, "libc_ver", lambda: (name, ""))
    monkeypatch.setattr(ctypes, "CDLL", libraries.get)
    process_settings.disable_malloc_trim()
    process_settings.return_freed_memory()


def test_the_collector_is_off_within_the_context():
    with gc_disabled():
        assert not gc.isenabled()
    assert gc.isenabled()


GROWTH = """
from hrnet_jax.parallel.process_settings import reset_peak, disable_malloc_trim, peak_memory

disable_malloc_trim()
bytearray(200_000_000)  # what was freed before counts as growth when it is used again
before = reset_peak()
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
    assert reset_peak() is None


def test_what_exists_is_left_alone_until_the_end_of_the_context():
    before = gc.get_freeze_count()
    with gc_frozen():
        assert gc.get_freeze_count() > before + 10_000
    assert gc.get_freeze_count() == 0
