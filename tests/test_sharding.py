import jax
import numpy as np
import pytest

from hrnet_jax.sharding import check_batch_size, make_mesh, replicate, to_global


def test_a_batch_is_split_over_all_devices():
    mesh = make_mesh()
    batch = {
        "image": np.random.default_rng(0).standard_normal((16, 4, 4, 3)).astype(np.float32),
        "label": np.zeros((16, 4, 4), np.uint8),
        "id": np.array(["name"] * 16),
    }
    placed = to_global(batch, mesh=mesh)
    assert set(placed) == {"image", "label"}
    assert {shard.data.shape for shard in placed["image"].addressable_shards} == {(2, 4, 4, 3)}
    np.testing.assert_array_equal(placed["image"], batch["image"])


def test_parameters_lie_on_every_device():
    (leaf,) = jax.tree.leaves(replicate({"a": np.ones(3)}, mesh=make_mesh()))
    assert len(leaf.addressable_shards) == 8
    assert leaf.is_fully_replicated


def test_a_batch_that_devices_cannot_share_is_refused():
    with pytest.raises(
        ValueError,
        match=r"config.train.batch_size=12 cannot be split over 8 devices; use a multiple of 8, "
        r"for example 8 or 16\.",
    ):
        check_batch_size(12, field="config.train.batch_size", mesh=make_mesh())
    check_batch_size(16, field="x", mesh=make_mesh())
