import io
import pickle
import tracemalloc
from collections import OrderedDict

import pytest

from hrnet_jax.interop.pickle_names import Placeholder
from hrnet_jax.interop.unpickle import unpickle
from hrnet_jax.interop.untrusted import UnsafeFileError


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_plain_values_equal_pickles(protocol):
    shared = ["x"]
    values = {
        "none": None,
        "numbers": [0, -1, 255, 65535, 2**31, -(2**63), 2**80, 1.5, True],
        "text": ["", "a" * 300, "\N{SNOWMAN}"],
        "tuples": [(), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)],
        "nested": {"a": {1: [{}]}, ("a", 1): shared, "again": shared},
        "ordered": OrderedDict(b=1, a=2),
        "many": list(range(3000)),
    }
    file = io.BytesIO(b"??" + pickle.dumps(values, protocol) + b"!!")
    file.seek(2)
    content = unpickle(file)
    assert content == values
    assert file.read() == b"!!"
    assert content["nested"]["again"] is content["nested"][("a", 1)]


def test_bytes_are_bytes_if_the_protocol_has_them():
    for block in (b"a", b"a" * 300):
        assert unpickle(io.BytesIO(pickle.dumps(block, 3))) == block
    old = unpickle(io.BytesIO(pickle.dumps(b"a", 2)))
    assert old == Placeholder("_codecs.encode")


def test_sets_are_placeholders():
    for protocol in (2, 4):
        content = unpickle(io.BytesIO(pickle.dumps({1, 2}, protocol)))
        assert content.name.endswith(".set")


def test_an_attribute_of_an_ordered_dict_is_dropped():
    state_dict = OrderedDict(a=1)
    state_dict._metadata = {"version": 1}
    content = unpickle(io.BytesIO(pickle.dumps(state_dict, 2)))
    assert content == OrderedDict(a=1)
    assert not hasattr(content, "_metadata")


def test_tensors_are_refused_where_none_belong():
    with pytest.raises(UnsafeFileError, match="where no tensor belongs"):
        unpickle(io.BytesIO(b"\x80\x02X\x01\0\0\0xQ."))


def test_a_giant_memo_index_takes_no_memory():
    tracemalloc.start()
    try:
        assert unpickle(io.BytesIO(b"\x80\x02Nr\xff\xff\xff\xff.")) is None
        assert tracemalloc.get_traced_memory()[1] < 1e6
    finally:
        tracemalloc.stop()
