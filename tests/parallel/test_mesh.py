from unittest.mock import Mock

import jax
import numpy as np
import pytest

from hrnet_jax.parallel.mesh import check_batch_size, check_height, make_mesh, replicate, to_global


def random_batch():
    return {
        "image": np.random.default_rng(0).standard_normal((16, 4, 4, 3)).astype(np.float32),
        "label": np.zeros((16, 4, 4), np.uint8),
        "id": np.array(["name"] * 16),
    }


def test_a_batch_is_split_over_all_devices():
    batch = random_batch()
    placed = to_global(batch, mesh=make_mesh())
    assert set(placed) == {"image", "label"}
    assert {shard.data.shape for shard in placed["image"].addressable_shards} == {(2, 4, 4, 3)}
    np.testing.assert_array_equal(placed["image"], batch["image"])


def test_rows_are_split_over_the_height_axis():
    batch = random_batch()
    placed = to_global(batch, mesh=make_mesh(height=2))
    assert {shard.data.shape for shard in placed["image"].addressable_shards} == {(4, 2, 4, 3)}
    assert {shard.data.shape for shard in placed["label"].addressable_shards} == {(4, 2, 4)}
    np.testing.assert_array_equal(placed["image"], batch["image"])


def test_neighbouring_devices_share_an_image():
    ids = [[device.id for device in row] for row in make_mesh(height=4).devices]
    assert ids == [[0, 1, 2, 3], [4, 5, 6, 7]]


def test_parameters_lie_on_every_device():
    (leaf,) = jax.tree.leaves(replicate({"a": np.ones(3)}, mesh=make_mesh(height=2)))
    assert len(leaf.addressable_shards) == 8
    assert leaf.is_fully_replicated


def test_a_height_that_does_not_divide_the_devices_is_refused():
    message = r"height=3 does not divide the number of devices, 8; use one of 1, 2, 4, 8\."
    with pytest.raises(ValueError, match=message):
        make_mesh(height=3)


def test_images_are_not_cut_between_processes():
    devices = [Mock(spec=jax.Device, process_index=n // 2) for n in range(8)]
    with pytest.raises(
        ValueError,
        match=r"config.mesh.height=4 would split images between processes, but each process reads "
        r"whole images; use a divisor of the 2 devices of a process\.",
    ):
        make_mesh(height=4, devices=devices)


def test_a_batch_that_devices_cannot_share_is_refused():
    with pytest.raises(
        ValueError,
        match=r"config.train.batch_size=12 cannot be split over 8 devices; use a multiple of 8, "
        r"for example 8 or 16\.",
    ):
        check_batch_size(12, field="config.train.batch_size", mesh=make_mesh())
    with pytest.raises(
        ValueError,
        match=r"=6 cannot be split over the mesh's data axis of 4 devices in "
        r"config.train.accumulate=2 micro-batches; use a multiple of 8, for example 8\.",
    ):
        check_batch_size(6, field="", mesh=make_mesh(height=2), accumulate=2)
    check_batch_size(16, field="x", mesh=make_mesh())
    check_batch_size(16, field="x", mesh=make_mesh(height=4), accumulate=8)


def test_a_height_that_devices_cannot_share_is_refused():
    with pytest.raises(
        ValueError,
        match=r"config.train.crop_size has 769 rows, which config.mesh.height=4 devices cannot "
        r"share at stride 32; use a multiple of 128, for example 768 or 896\.",
    ):
        check_height(769, field="config.train.crop_size", mesh=make_mesh(height=4))
    check_height(769, field="x", mesh=make_mesh())
    check_height(768, field="x", mesh=make_mesh(height=4))
