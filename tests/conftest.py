"""What all tests share: eight simulated devices, and small datasets of real files."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")

from pathlib import Path

import jax
import pytest

from hrnet_jax.data import minicity

jax.config.update("jax_num_cpu_devices", 8)


@pytest.fixture(scope="session")
def tiny_city(tmp_path_factory) -> Path:
    """Minicity with 8 train and 4 val scenes of 64x128."""
    root = tmp_path_factory.mktemp("data") / "minicity"
    minicity.write(root, train=8, val=4, height=64, width=128)
    return root
