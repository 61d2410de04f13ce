"""Faults of single tensors are tested in `test_pth.py`, with whole files."""

import numpy as np
import pytest

from hrnet_jax.interop.pth import read_pth
from hrnet_jax.interop.untrusted import CorruptFileError
from tests.interop import hostile
from tests.interop.test_pth import GOLDEN


def test_shared_storages_share_memory_and_arrays_cannot_be_written():
    state_dict = read_pth(GOLDEN / "state_dict_zip.pth").content["state_dict"]
    assert np.shares_memory(state_dict["shared"], state_dict["transposed"])
    assert not np.shares_memory(state_dict["shared"], state_dict["float32"])
    with pytest.raises(ValueError, match="read-only"):
        state_dict["shared"][0, 0] = 1


def test_many_tensors_over_one_storage_are_refused(tmp_path):
    path = tmp_path / "a.pth"
    size = 1 << 16
    one = hostile.tensor(count=size, size=(size,), stride=(1,))
    path.write_bytes(hostile.pth(hostile.tupled(*[one] * 20), data=bytes(4 * size)))
    with pytest.raises(CorruptFileError, match="that repeats a storage"):
        read_pth(path)
