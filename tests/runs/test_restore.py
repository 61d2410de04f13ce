"""Runs of version 0.1.0, whose state was three vectors."""

import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

from hrnet_jax.models import split
from hrnet_jax.parallel.mesh import make_mesh, replicate
from hrnet_jax.runs.checkpoint import Checkpoints
from hrnet_jax.runs.stored_weights import FOLDER
from hrnet_jax.training.optim import sgd
from hrnet_jax.training.state import initial_state
from tests.tiny import Toy

OLD_RUN = Path(__file__).parents[1] / "golden" / "run_0_1_0"  # a step 2 that version 0.1.0 saved


def test_a_run_of_version_0_1_0_is_resumed(tmp_path):
    _, params, batch_stats = split(Toy())
    optimizer = sgd(lambda step: 0.1, momentum=0.9, weight_decay=0.0)
    state = replicate(initial_state(params, batch_stats, optimizer=optimizer), mesh=make_mesh())
    shutil.copytree(OLD_RUN / FOLDER, tmp_path / FOLDER)
    with Checkpoints(tmp_path, keep_newest=2, warn=pytest.fail) as checkpoints:
        step, restored, meta = checkpoints.restore_latest(like=state)
    assert (step, int(restored.step), meta["variant"]) == (2, 2, "toy")
    assert jax.tree.structure(restored) == jax.tree.structure(state)
    momentum = [leaf for leaf in jax.tree.leaves(restored.opt_state) if leaf.ndim]
    with np.load(OLD_RUN / "expected.npz") as expected:
        for name, tree in {
            "weights": restored.params,
            "running": restored.batch_stats,
            "momentum": momentum,
        }.items():
            vector = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])
            np.testing.assert_array_equal(vector, expected[name])


def test_a_checkpoint_of_another_network_is_no_state_of_this_one(tmp_path):
    shutil.copytree(OLD_RUN / FOLDER, tmp_path / FOLDER)
    _, params, batch_stats = split(Toy(num_classes=5))
    optimizer = sgd(lambda step: 0.1, momentum=0.9, weight_decay=0.0)
    state = replicate(initial_state(params, batch_stats, optimizer=optimizer), mesh=make_mesh())
    with (
        Checkpoints(tmp_path, keep_newest=2, warn=lambda _: None) as checkpoints,
        pytest.raises(ValueError, match=r"None of the checkpoints \[2\] in .* can be read"),
    ):
        checkpoints.restore_latest(like=state)
