import platform

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hrnet_jax.parallel.compiling import (
    compiler_options,
    enable_compilation_cache,
    inference_options,
    set_precision,
)
from tests.command import run


@pytest.mark.parametrize("saving_memory", [False, True])
def test_our_options_are_known_to_the_compiler(saving_memory):
    options = compiler_options(saving_memory=saving_memory)
    assert any("MEMORY" in value for value in options.values()) == saving_memory
    doubled = jax.jit(lambda x: x * 2, compiler_options=options)
    assert float(doubled(2.0)) == 4
    assert compiler_options("tpu", saving_memory=saving_memory) == {}


def test_convolutions_of_small_images_are_eigens():
    def program(x, kernel):
        return jax.lax.conv_general_dilated(
            x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    rng = np.random.default_rng(0)
    x, kernel = (
        rng.standard_normal(s).astype(np.float32) for s in ((1, 32, 48, 18), (3, 3, 18, 18))
    )
    lowered = jax.jit(program).lower(x, kernel)
    small, large = (lowered.compile(inference_options(s)) for s in ((512, 512), (512, 513)))
    assert "ynn" not in small.as_text()
    if "ynn" not in large.as_text():
        pytest.skip("XLA has no YNN on this kind of processor: all convolutions are Eigen's")
    ours, theirs = small(x, kernel), large(x, kernel)
    np.testing.assert_allclose(ours, theirs, atol=1e-5 * abs(theirs).max())
    assert inference_options((8, 8), "tpu") == {}


@pytest.mark.parametrize(
    ("dtype", "is_wide", "product"),
    [("float32", False, "highest"), ("float64", True, "highest"), ("bfloat16", False, None)],
)
def test_jax_computes_as_precisely_as_a_dtype_needs(default_precision, dtype, is_wide, product):
    set_precision(dtype)
    assert jax.config.jax_default_matmul_precision == product
    assert (jnp.zeros(1, float).dtype == jnp.float64) == is_wide


def test_precision_that_something_needs_is_not_taken_back(default_precision):
    for dtype in ("float64", "float32", "bfloat16"):
        set_precision(dtype)
    assert jax.config.jax_default_matmul_precision == "highest"
    assert jax.config.jax_enable_x64


RETURNED = """
import re
from pathlib import Path
import jax, jax.numpy as jnp
from hrnet_jax.parallel.compiling import compile_program, prepare_process

def resident():
    return int(re.search(r"VmRSS:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])

prepare_process()
jnp.zeros(3).block_until_ready()
blocks = [bytearray(500_000) for _ in range(600)]  # as a compiler, 300 MB in pieces
del blocks[::2], blocks[1:]  # one of which stays
held = resident()
compile_program(jax.jit(lambda x: 2 * x), jnp.zeros(3))
print(held - resident())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
def test_what_the_compiler_leaves_goes_back_to_the_system():
    assert int(run(module=("-c", RETURNED)).stdout) > 200_000  # kB


@pytest.fixture
def restored_cache():
    before = jax.config.jax_compilation_cache_dir
    yield
    jax.config.update("jax_compilation_cache_dir", before)


def test_the_cache_is_private_and_a_shared_one_is_refused(tmp_path, restored_cache):
    folder = tmp_path / "cache" / "xla"
    enable_compilation_cache(folder)
    assert folder.stat().st_mode & 0o077 == 0
    folder.chmod(0o777)
    with pytest.raises(ValueError, match=r"other users may write to it; .*run `chmod go-w"):
        enable_compilation_cache(folder)


STEP = """
import resource, sys
import jax, jax.numpy as jnp, numpy as np
from hrnet_jax.parallel.compiling import prepare_process
from hrnet_jax.parallel.mesh import make_mesh, replicate

if sys.argv[1] == "prepared":
    prepare_process()
mesh = make_mesh(devices=jax.devices()[:1])
memory = np.zeros(4_000_128, np.uint8)
host = memory[-memory.ctypes.data % 64 + 16 :][:4_000_000]  # what lies askew is copied

@jax.jit
def program(x):  # 100 MB that only live within it
    image, kernel = jnp.full((1, 2500, 2500, 4), x[-1] / 255), jnp.ones((3, 3, 4, 1))
    return jax.lax.conv_general_dilated(
        image, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    ).sum()

def faults():
    on_device = replicate(host, mesh=mesh)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    program(on_device).block_until_ready()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

for _ in range(6):  # until small blocks that stay have found their places
    faults()
print(sorted(faults() for _ in range(5))[2])  # other threads may ask for memory as well
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
def test_a_program_finds_its_temporary_memory_again():
    prepared, as_always = (
        int(run(how, module=("-c", STEP), devices=1).stdout) for how in ("prepared", "as always")
    )
    assert as_always > 20_000  # 100 MB in pages of 4 kB
    assert prepared < 1_000
