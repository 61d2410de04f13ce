import contextlib
import json
import pathlib
import random
import struct
import tracemalloc

import ml_dtypes
import numpy as np
import pytest

from hrnet_jax.interop.safetensors import read_safetensors, write_safetensors
from hrnet_jax.interop.untrusted import CorruptFileError

GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "state_dict.safetensors"
TENSORS = {
    "float32": np.arange(6, dtype=np.float32).reshape(2, 3),
    "float16": np.arange(3, dtype=np.float16),
    "bfloat16": np.arange(3, dtype=ml_dtypes.bfloat16),
    "transposed": np.arange(6).reshape(2, 3).T,
    "scalar": np.array(7),
    "empty": np.zeros((0, 3), np.float32),
    "bool": np.array([True, False, True]),
}
WEIGHT = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


def file_of(header: object, data: bytes = bytes(8)) -> bytes:
    encoded = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(encoded)) + encoded + data


def test_a_written_file_is_read_back(tmp_path):
    path = tmp_path / "a.safetensors"
    write_safetensors(path, TENSORS, metadata={"format": "pt"})
    file = read_safetensors(path)
    assert file.metadata == {"format": "pt"}
    assert set(file.tensors) == set(TENSORS)
    for name, array in TENSORS.items():
        found = file.tensors[name]
        assert (found.dtype, found.shape) == (array.dtype, array.shape)
        assert found.flags.aligned
        np.testing.assert_array_equal(found, array)


def test_arrays_cannot_be_written_to(tmp_path):
    write_safetensors(tmp_path / "a", TENSORS)
    with pytest.raises(ValueError, match="read-only"):
        read_safetensors(tmp_path / "a").tensors["float32"][0] = 1


def test_a_file_of_the_official_library_is_read():
    file = read_safetensors(GOLDEN)
    assert file.metadata == {"a": "b"}
    assert len(file.tensors) == 17
    base = np.arange(24, dtype=np.float32).reshape(4, 6) / 8
    np.testing.assert_array_equal(file.tensors["transposed"], base.T)
    np.testing.assert_array_equal(file.tensors["num_batches_tracked"], 7)
    assert file.tensors["bfloat16"].dtype == ml_dtypes.bfloat16


def test_badly_aligned_tensors_are_copied(tmp_path):
    header = {
        "flag": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]},
        "weight": {"dtype": "F32", "shape": [1], "data_offsets": [1, 5]},
    }
    (tmp_path / "a").write_bytes(file_of(header, b"\1" + struct.pack("<f", 2.5)))
    weight = read_safetensors(tmp_path / "a").tensors["weight"]
    assert weight.flags.aligned
    np.testing.assert_array_equal(weight, [2.5])


ENCODED = json.dumps(WEIGHT).encode()
INVALID = "not a valid safetensors file"  # followed by a text of the library
HOSTILE = {
    "empty": (b"", INVALID),
    "cut_size": (b"\1\0\0", INVALID),
    "vast_header": (struct.pack("<Q", 2**63) + b"{}", "header claims 9223372036854775808 bytes"),
    "large_header": (struct.pack("<Q", 5 << 20) + bytes(6 << 20), "the limit is 4194304"),
    "space_first": (file_of(b" {}"), INVALID),
    "list": (file_of(b"[]"), INVALID),
    "text_after": (file_of(b"{} x"), INVALID),
    "deep": (file_of(b'{"a":' + 100_000 * b"["), INVALID),
    "vast_number": (file_of(b'{"a":' + 5000 * b"1" + b"}"), INVALID),
    "utf16": (file_of('{"a":1}'.encode("utf-16-le")), INVALID),
    "double_field": (file_of(b'{"a":{"x":1,"x":1}}'), INVALID),
    "double_name": (file_of(b'{"a":%b,"a":%b}' % (ENCODED, ENCODED)), "'a' occurs twice"),
    "double_metadata": (
        file_of(b'{"a":%b,"__metadata__":{"x":"1","x":"2"}}' % ENCODED),
        "'x' occurs twice",
    ),
    "number": (file_of({"a": 1}), INVALID),
    "more_fields": (file_of({"a": WEIGHT | {"more": 1}}), "more than dtype, shape and"),
    "float_shape": (file_of({"a": WEIGHT | {"shape": [2.0]}}), INVALID),
    "bool_shape": (file_of({"a": WEIGHT | {"shape": [True, 2]}}), INVALID),
    "negative_shape": (file_of({"a": WEIGHT | {"shape": [-1, -2]}}), INVALID),
    "many_dimensions": (file_of({"a": WEIGHT | {"shape": [2, *[1] * 98]}}), "too large for an"),
    "negative_offset": (file_of({"a": WEIGHT | {"data_offsets": [-8, 0]}}), INVALID),
    "three_offsets": (file_of({"a": WEIGHT | {"data_offsets": [0, 8, 9]}}), INVALID),
    "other_type": (
        file_of({"a": WEIGHT | {"dtype": "F8_E4M3", "shape": [8]}}),
        "is of type 'F8_E4M3'",
    ),
    "unknown_type": (file_of({"a": WEIGHT | {"dtype": "X"}}), INVALID),
    "shape_beyond": (file_of({"a": WEIGHT | {"shape": [3]}}), INVALID),
    "overflow": (file_of({"a": WEIGHT | {"shape": [2**39, 2**39]}}), INVALID),
    "empty_but_vast": (
        file_of({"a": WEIGHT | {"shape": [0, 2**39, 2**39], "data_offsets": [0, 0]}}, b""),
        "too large for an array",
    ),
    "backwards": (file_of({"a": WEIGHT | {"data_offsets": [8, 0]}}), INVALID),
    "cut": (file_of({"a": WEIGHT}, bytes(7)), INVALID),
    "overlap": (file_of({"a": WEIGHT, "b": WEIGHT}), INVALID),
    "hole": (file_of({"a": WEIGHT | {"data_offsets": [4, 12]}}, bytes(12)), INVALID),
    "appended": (file_of({"a": WEIGHT}, bytes(9)), INVALID),
    "appended_to_nothing": (file_of({}, bytes(1)), INVALID),
    "odd_bool": (
        file_of({"a": WEIGHT | {"dtype": "BOOL", "shape": [8]}}, b"\2" * 8),
        "values other than",
    ),
    "metadata_number": (file_of({"a": WEIGHT, "__metadata__": {"x": 1}}), INVALID),
    "metadata_list": (file_of({"a": WEIGHT, "__metadata__": []}), INVALID),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_refused_with_its_reason(name, tmp_path):
    content, message = HOSTILE[name]
    path = tmp_path / "hostile"
    path.write_bytes(content)
    tracemalloc.start()
    try:
        with pytest.raises(CorruptFileError) as caught:
            read_safetensors(path)
        assert tracemalloc.get_traced_memory()[1] < 50e6
    finally:
        tracemalloc.stop()
    assert message in str(caught.value)
    assert str(caught.value).startswith(f"{path}: ")


def test_flipped_bits_give_a_clear_error_or_tensors(tmp_path):
    whole, path, rng = GOLDEN.read_bytes(), tmp_path / "flipped", random.Random(0)
    for _ in range(200):
        flipped = bytearray(whole)
        flipped[rng.randrange(len(whole))] ^= 1 << rng.randrange(8)
        path.write_bytes(flipped)
        with contextlib.suppress(CorruptFileError):
            read_safetensors(path)


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [("a", np.zeros(1, np.complex64), "array of complex64"), ("__metadata__", np.zeros(1), "name")],
)
def test_unsupported_types_are_not_written(tmp_path, name, array, message):
    with pytest.raises(ValueError, match=message):
        write_safetensors(tmp_path / "a", {name: array})
    assert not list(tmp_path.iterdir())
