import zipfile
from collections import OrderedDict

import ml_dtypes
import numpy as np
import pytest

from hrnet_jax.interop.pth import read_pth
from hrnet_jax.interop.pth_write import write_pth
from hrnet_jax.interop.read import tensors_of


def content():
    weight = np.arange(6, dtype=np.float32).reshape(2, 3)
    state_dict = OrderedDict(
        float32=weight,
        tied=weight,
        float16=np.arange(3, dtype=np.float16),
        bfloat16=np.arange(3, dtype=ml_dtypes.bfloat16),
        transposed=weight.T,
        big_endian=np.arange(3, dtype=">f4"),
        num_batches_tracked=np.array(7),
        empty=np.zeros((0, 3), np.float32),
        bool=np.array([True, False]),
    )
    meta = {
        "classes": ["road"],
        "shape": (1, 2**40, -1),
        "seed": None,
        "lr": 0.5,
        "ok": True,
        3: "",
    }
    return {"meta": meta, "state_dict": state_dict, "empty": {}, "list": [], "tuple": ()}


def test_a_written_file_is_read_back(tmp_path):
    path = tmp_path / "a.pth"
    write_pth(path, content())
    found, expected = read_pth(path).content, content()
    tensors = tensors_of(found.pop("state_dict"))
    for name, array in expected.pop("state_dict").items():
        assert tensors[name].shape == array.shape, name
        assert tensors[name].dtype == array.dtype.newbyteorder("="), name
        np.testing.assert_array_equal(tensors[name], array)
    assert found == expected
    assert type(found["meta"]["ok"]) is bool
    assert np.shares_memory(tensors["float32"], tensors["tied"])


def test_numbers_and_text_of_numpy_are_written_as_pythons(tmp_path):
    write_pth(tmp_path / "a.pth", [np.float64(0.5), np.str_("a")])
    assert [type(value) for value in read_pth(tmp_path / "a.pth").content] == [float, str]


def test_the_same_content_makes_the_same_bytes(tmp_path):
    write_pth(tmp_path / "a.pth", content())
    write_pth(tmp_path / "b.pth", content())
    assert (tmp_path / "a.pth").read_bytes() == (tmp_path / "b.pth").read_bytes()


def test_storages_are_aligned_for_readers_that_map_the_file(tmp_path):
    path = tmp_path / "a.pth"
    write_pth(path, content())
    whole = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        for info in archive.infolist():
            name_and_extra = whole[info.header_offset + 26 : info.header_offset + 30]
            sizes = np.frombuffer(name_and_extra, "<u2")
            assert (info.header_offset + 30 + int(sizes.sum())) % 64 == 0, info.filename


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (np.zeros(2, np.complex64), r"content\['meta'\]\[0\] is an array of complex64"),
        (np.array(["a"], object), r"an array of object"),
        (b"bytes", r"content\['meta'\]\[0\] is a bytes"),
        (2**64, "is a int"),
        ({1.5: 0}, "is a dict"),
        (np.float32(1), "is a float32"),
    ],
)
def test_values_that_pytorch_refuses_are_not_written(tmp_path, value, text):
    path = tmp_path / "a.pth"
    path.write_bytes(b"the file before")
    with pytest.raises(ValueError, match=text):
        write_pth(path, {"meta": [value]})
    assert path.read_bytes() == b"the file before"
    assert list(tmp_path.iterdir()) == [path]
