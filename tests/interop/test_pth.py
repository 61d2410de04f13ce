import hashlib
import os
import pathlib
import pickle
import random
from collections import OrderedDict

import ml_dtypes
import numpy as np
import pytest

from hrnet_jax.interop import pth, unpickle
from hrnet_jax.interop.pth import read_pth
from hrnet_jax.interop.read import tensors_of
from hrnet_jax.interop.untrusted import CorruptFileError, UnsafeFileError
from tests.interop import hostile

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"
LAYOUTS = ("zip", "legacy")


def expected_state_dict() -> dict[str, np.ndarray]:
    """The formulas of `tests/golden/make_pth_golden.py`."""
    base = np.arange(24, dtype=np.float32).reshape(4, 6) / 8
    sevenths = np.arange(4, dtype=np.float32) / np.float32(7)
    return {
        "float32": base,
        "float64": np.arange(3.0) / 3,
        "float16": sevenths.astype(np.float16),
        "bfloat16": sevenths.astype(ml_dtypes.bfloat16),
        "int64": np.arange(-2, 2),
        "int32": np.arange(-2, 2, dtype=np.int32),
        "int16": np.arange(-2, 2, dtype=np.int16),
        "int8": np.arange(-2, 2, dtype=np.int8),
        "uint8": np.arange(3, dtype=np.uint8),
        "bool": np.array([True, False, True]),
        "num_batches_tracked": np.array(7),
        "empty": np.zeros((0, 3), np.float32),
        "shared": base,
        "transposed": base.T,
        "window": base[1:3, 2:5],
        "every_other": base[:, ::2],
        "parameter": np.ones((2, 2), np.float32),
    }


def assert_same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert list(found) == list(expected)
    for name, array in expected.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape), name
        np.testing.assert_array_equal(found[name], array, err_msg=name)


@pytest.mark.parametrize("name", ["state_dict_zip", "state_dict_legacy", "state_dict_protocol4"])
def test_every_type_and_view_of_pytorch_is_read(name):
    file = read_pth(GOLDEN / f"{name}.pth")
    assert file.format == ("legacy" if name.endswith("legacy") else "zip")
    state_dict = file.content["state_dict"]
    assert isinstance(state_dict, OrderedDict)
    assert_same(tensors_of(state_dict), expected_state_dict())
    assert all(array.flags.aligned for array in state_dict.values())


@pytest.mark.parametrize("layout", LAYOUTS)
def test_meta_is_plain_and_config_text_stays_text(layout):
    meta = read_pth(GOLDEN / f"state_dict_{layout}.pth").content["meta"]
    assert meta["torch_version"] == "2.13.0+cpu"
    assert meta["PALETTE"] == [[128, 64, 128], [244, 35, 232]]
    assert (meta["seed"], meta["large"], meta["loss"]) == (None, 2**40, 0.5)
    assert meta["config"].startswith("import os\nos.system(")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_other_objects_of_a_training_checkpoint_become_placeholders(layout):
    content = read_pth(GOLDEN / f"training_{layout}.pth").content
    assert content["state_dict"]["0.weight"].shape == (2, 1, 3, 3)
    momentum = content["optimizer"]["state"][0]["momentum_buffer"]
    assert momentum.shape == (2, 1, 3, 3)
    others = content["message_hub"]
    assert others["size"] == (2, 3)
    names = {key: value.name for key, value in others.items() if key != "size"}
    assert names["history"] == "mmengine.logging.history_buffer.HistoryBuffer"
    assert names["objects"] == "numpy._core.multiarray._reconstruct"
    assert names["bytes"] == "_codecs.encode"  # which is not called


def test_the_sha256_of_the_file_is_returned(tmp_path):
    path = tmp_path / "a.pth"
    path.write_bytes(hostile.pth(hostile.entry("weight", hostile.tensor())))
    file = read_pth(path)
    assert file.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    np.testing.assert_array_equal(file.content["weight"], [[1, 2], [3, 4]])


def test_a_pickled_model_is_refused():
    with pytest.raises(UnsafeFileError, match=r"'torch.nn.modules.linear.Linear'.*state_dict\(\)"):
        read_pth(GOLDEN / "whole_model.pth")


def test_the_canary_of_the_hostile_files_works(tmp_path):
    canary = tmp_path / "canary"
    payload = hostile.call("posix", "system", hostile.plain(f"touch {canary}"))
    pickle.loads(hostile.whole(payload))  # as the hostile files would with Python's own reader
    assert canary.exists()


@pytest.mark.parametrize("name", hostile.CASES)
def test_a_hostile_file_is_refused_with_its_reason(name, tmp_path):
    case = hostile.CASES[name]
    canary, path = tmp_path / "canary", tmp_path / "hostile.pth"
    path.write_bytes(case.make(f"touch {canary}"))
    with pytest.raises((UnsafeFileError, CorruptFileError)) as caught:
        read_pth(path)
    message = str(caught.value)
    assert case.text in message
    assert type(caught.value) is case.error, message
    assert message.startswith(f"{path}: ")
    assert any(advice in message for advice in (" again", "Save ", "Load "))
    assert not canary.exists()


def test_an_endless_list_of_operations_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(unpickle, "MAX_OPERATIONS", 100)
    path = tmp_path / "a.pth"
    path.write_bytes(hostile.pth(200 * b"N"))
    with pytest.raises(UnsafeFileError, match="more than 100 operations"):
        read_pth(path)


def test_a_giant_pickle_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(pth, "MAX_PICKLE_BYTES", 1000)
    path = tmp_path / "a.pth"
    path.write_bytes(hostile.pth(hostile.plain("x" * 2000)))
    with pytest.raises(CorruptFileError, match="expected 2000 bytes"):
        read_pth(path)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_file_cut_anywhere_is_refused(layout, tmp_path):
    whole = (GOLDEN / f"state_dict_{layout}.pth").read_bytes()
    path = tmp_path / "cut.pth"
    for end in [*range(0, len(whole), len(whole) // 10), *range(len(whole) - 30, len(whole))]:
        path.write_bytes(whole[:end])
        with pytest.raises(CorruptFileError, match=r"cut.pth: .*again"):
            read_pth(path)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", ["state_dict", "training"])
def test_flipped_bits_give_a_clear_error_or_tensors(name, layout, tmp_path):
    whole = (GOLDEN / f"{name}_{layout}.pth").read_bytes()
    original = read_pth(GOLDEN / f"{name}_{layout}.pth").content["state_dict"]
    path = tmp_path / "flipped.pth"
    refused = 0
    rng = random.Random(0)
    for _ in range(80):
        flipped = bytearray(whole)
        flipped[rng.randrange(len(whole))] ^= 1 << rng.randrange(8)
        path.write_bytes(flipped)
        try:
            found = read_pth(path).content
        except (UnsafeFileError, CorruptFileError):
            refused += 1
        else:
            if layout == "zip":  # it has checksums, so only padding may change
                assert_same(found["state_dict"], original)
    assert refused > 20


def test_every_flip_in_the_tensors_of_a_zip_file_is_found(tmp_path):
    whole = hostile.pth(hostile.entry("weight", hostile.tensor()))
    begin = whole.index(hostile.DATA)
    path = tmp_path / "flipped.pth"
    for bit in range(8 * len(hostile.DATA)):
        flipped = bytearray(whole)
        flipped[begin + bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        with pytest.raises(CorruptFileError, match="Bad CRC-32 for file 'a/data/0'"):
            read_pth(path)


def test_missing_files_folders_and_pipes_do_not_hang(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_pth(tmp_path / "absent.pth")
    with pytest.raises(OSError, match=r"directory|denied"):
        read_pth(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(CorruptFileError, match="pipe: It is not a regular file"):
        read_pth(tmp_path / "pipe")


def test_a_giant_file_is_refused_before_it_is_read(tmp_path):
    path = tmp_path / "giant.pth"
    with path.open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(CorruptFileError, match="over the limit"):
        read_pth(path)
