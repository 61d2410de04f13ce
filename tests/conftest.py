"""What all tests share: eight simulated devices and small datasets of real files."""

import os
from collections.abc import Iterator
from pathlib import Path

import jax
import pytest

from hrnet_jax.data import minicity
from hrnet_jax.parallel.compiling import enable_compilation_cache, set_precision
from hrnet_jax.runs.paths import cache_folder
from tests import tiny
from tests.google_storage import Storage, serving

os.environ["JAX_PLATFORMS"] = "cpu"
# Processes that tests start share it too: each program is compiled once.
os.environ["XDG_CACHE_HOME"] = str(Path(__file__).parent.parent / ".pytest_cache" / "xdg")
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 8)
set_precision("float32")
enable_compilation_cache(cache_folder() / "xla")
assert "tiny" in tiny.VARIANTS  # for every test file, even when it runs alone


def pytest_collection_modifyitems(items):
    """Run the longest files first, so that the processes finish at about the same time."""
    longest = (
        "test_processes.py",
        "test_runs.py",
        "test_main.py",
        "test_recipes_run.py",
        "test_evaluator.py",
        "test_ragged.py",
    )
    items.sort(key=lambda item: longest.index(item.path.name) if item.path.name in longest else 9)


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    """An empty folder that ~ stands for."""
    for name in ("HOME", "USERPROFILE"):  # the second on Windows
        monkeypatch.setenv(name, str(tmp_path))
    return tmp_path


@pytest.fixture
def default_precision() -> Iterator[None]:
    """jax with its defaults, as a user of the library finds it; restored after the test."""
    default = {"jax_enable_x64": False, "jax_default_matmul_precision": None}
    before = {name: getattr(jax.config, name) for name in default}
    for name, value in default.items():
        jax.config.update(name, value)
    yield
    for name, value in before.items():
        jax.config.update(name, value)


@pytest.fixture(scope="session")
def tiny_city(tmp_path_factory) -> Path:
    """Minicity with 8 train and 4 val scenes of 64x128."""
    root = tmp_path_factory.mktemp("data") / "minicity"
    minicity.write(root, train=8, val=4, height=64, width=128)
    return root


@pytest.fixture(scope="session")
def _storage() -> Iterator[Storage]:
    with serving() as storage, pytest.MonkeyPatch.context() as patch:
        for name, value in storage.environment.items():
            patch.setenv(name, value)
        yield storage


@pytest.fixture
def bucket(_storage) -> Storage:
    """An empty bucket: gs://bucket in this process and in those it starts."""
    _storage.clear()
    return _storage
