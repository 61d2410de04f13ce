import platform

import jax
import pytest

from hrnet_jax.compiling import called, compiler_options, enable_compilation_cache
from tests.command import run


@pytest.mark.parametrize("saving_memory", [False, True])
def test_our_options_are_known_to_the_compiler(saving_memory):
    options = compiler_options(saving_memory=saving_memory)
    assert any("MEMORY" in value for value in options.values()) == saving_memory
    doubled = jax.jit(lambda x: x * 2, compiler_options=options)
    assert float(doubled(2.0)) == 4
    assert compiler_options("tpu", saving_memory=saving_memory) == {}


@pytest.mark.parametrize("platform", ["cpu", "tpu"])
def test_what_is_called_stays_apart_on_cpus_only(platform):
    def program(x):
        return 2 * called(lambda x: x[3:5], x, platform=platform) + 1

    compiled = jax.jit(program).lower(jax.numpy.arange(8.0)).compile()
    assert compiled(jax.numpy.arange(8.0)).tolist() == [7, 9]
    assert (" call(" in compiled.as_text()) == (platform == "cpu")


@pytest.fixture
def restored_cache():
    before = jax.config.jax_compilation_cache_dir
    yield
    jax.config.update("jax_compilation_cache_dir", before)


def test_the_cache_is_private_and_a_shared_one_is_refused(tmp_path, restored_cache):
    folder = enable_compilation_cache(tmp_path / "cache" / "xla")
    assert folder.stat().st_mode & 0o077 == 0
    folder.chmod(0o777)
    with pytest.raises(ValueError, match=r"others may write to it; run `chmod go-w"):
        enable_compilation_cache(folder)


STEP = """
import resource, sys
import jax, jax.numpy as jnp, numpy as np
from hrnet_jax.compiling import prepare_process
from hrnet_jax.sharding import make_mesh, replicate

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
