import jax
import pytest

from hrnet_jax.compiling import compiler_options, enable_compilation_cache


def test_our_options_are_known_to_the_compiler():
    assert compiler_options()
    doubled = jax.jit(lambda x: x * 2, compiler_options=compiler_options())
    assert float(doubled(2.0)) == 4


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
