import dataclasses
from pathlib import Path

import jax
import ml_dtypes
import numpy as np
import pytest

from hrnet_jax import models
from hrnet_jax.interop.keys import torch_state_dict
from hrnet_jax.interop.read import Source, read_source
from hrnet_jax.interop.weights import load, start_from, template
from hrnet_jax.models import split
from tests.interop.tiny_files import NAMES, backbone_state, mmseg_state, write
from tests.published import published_tensor

CONV, SCALE = "backbone.conv2.weight", "backbone.bn1.weight"
SEG = "decode_head.conv_seg.weight"


def changed(**changes) -> Source:
    """The tiny network's file with some tensors replaced (by None: removed)."""
    state = mmseg_state() | {key.replace("__", "."): value for key, value in changes.items()}
    return source(state)


def source(state) -> Source:
    kept = {key: value for key, value in state.items() if value is not None}
    counters = {key: kept.pop(key) for key in list(kept) if key.endswith("num_batches_tracked")}
    return Source(path=Path("tiny.pth"), sha256="", size=0, format="", family="mmsegmentation",
                  tensors=kept, counters=counters, classes=NAMES)  # fmt: skip


@pytest.fixture(scope="module")
def fresh() -> tuple[dict, dict]:
    return split(models.build("tiny", num_classes=4, seed=1))[1:]


def test_the_template_is_the_network():
    _, params, batch_stats = split(models.build("tiny", num_classes=3))
    expected = torch_state_dict(params, batch_stats)
    found = template("tiny", 3)
    assert set(found) == {key for key in expected if not key.endswith("_tracked")}
    for key, (_, shape) in found.items():
        assert shape == expected[key].shape


def test_every_tensor_arrives_bit_for_bit():
    loaded = load(changed())
    state = torch_state_dict(loaded.params, loaded.batch_stats)
    assert all(np.array_equal(state[key], mmseg_state()[key]) for key in template("tiny", 3))
    assert loaded.origin == f"{len(template('tiny', 3))} tensors from tiny.pth"


def test_arrays_do_not_keep_the_file_in_memory():
    loaded = load(changed())
    leaves = [
        leaf for tree in (loaded.params, loaded.batch_stats) for leaf in jax.tree.leaves(tree)
    ]
    assert all(leaf.base is None and leaf.flags.c_contiguous for leaf in leaves)


FAULTS = {
    "missing": ({CONV: None}, "1 missing:\n    backbone.conv2.weight"),
    "extra": ({"backbone.conv9.weight": np.ones(1, np.float32)},
              "1 not of this network:\n    backbone.conv9.weight"),
    "transposed": ({SEG: mmseg_state()[SEG].transpose(1, 0, 2, 3)},
                   r"decode_head.conv_seg.weight is \(60, 3, 1, 1\), not"),
    "wrong dtype": ({SCALE: mmseg_state()[SCALE].astype(np.float16)},
                    "backbone.bn1.weight is float16, not float32"),
    "integer": ({SCALE: mmseg_state()[SCALE].astype(np.int64)}, "is int64, not float32"),
    "NaN": ({CONV: np.full_like(mmseg_state()[CONV], np.nan)},
            r"1 not finite:\n    backbone.conv2.weight has 36864 of 36864"),
    "infinite": ({"backbone.bn1.bias": np.full(64, np.inf, np.float32)}, "has 64 of 64"),
    "a counter too few": ({"backbone.bn1.num_batches_tracked": None},
                          "1 missing:\n    backbone.bn1.num_batches_tracked"),
    "a counter too many": ({"backbone.bn9.num_batches_tracked": np.asarray(1)}, "backbone.bn9"),
    "a strange counter": ({"backbone.bn1.num_batches_tracked": np.ones(2)}, "not a count"),
}  # fmt: skip


@pytest.mark.parametrize("fault", [name for name in FAULTS if name != "transposed"])
def test_one_fault_is_named(fault):
    changes, message = FAULTS[fault]
    with pytest.raises(ValueError, match=message):
        load(source(mmseg_state() | changes))


def test_a_transposed_classifier_has_another_number_of_classes():
    with pytest.raises(ValueError, match=r"decode_head.conv_seg.bias is \(3,\), not \(60,\)"):
        load(source(mmseg_state() | FAULTS["transposed"][0]))


def test_a_transposed_convolution_is_named():
    kernel = mmseg_state()["backbone.conv1.weight"].transpose(1, 0, 2, 3)
    with pytest.raises(ValueError, match=r"conv1.weight is \(3, 64, 3, 3\), not \(64, 3, 3, 3\)"):
        load(source(mmseg_state() | {"backbone.conv1.weight": kernel}))


def test_all_faults_are_reported_together():
    state = mmseg_state()
    renamed = {CONV: None, "backbone.convolution.weight": state[CONV]}
    with pytest.raises(ValueError, match=r"looks like tiny, but") as error:
        load(source(state | renamed | {
            SCALE: state[SCALE].astype(np.float16),
            "backbone.bn1.bias": np.full(64, np.nan, np.float32),
            "backbone.bn2.bias": state["backbone.bn2.bias"][:3],
        }))  # fmt: skip
    for text in ("1 missing", "1 not of this network", "1 of another shape", "1 of another type",
                 "1 not finite"):  # fmt: skip
        assert text in str(error.value)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float64])
def test_a_file_of_one_other_precision_is_read_as_float32(tmp_path, dtype):
    state = {
        key: value if key.endswith("_tracked") else value.astype(dtype)
        for key, value in mmseg_state().items()
    }
    found = read_source(write(tmp_path / "a.pth", state))
    assert f"{np.dtype(dtype)}, read as float32." in found.notes
    loaded = load(found)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(loaded.params)} == {"float32"}


def test_float64_beyond_float32_is_named(tmp_path):
    state = {
        key: value if key.endswith("_tracked") else value.astype(np.float64)
        for key, value in mmseg_state().items()
    }
    state[CONV][0, 0, 0, 0] = 1e300
    with pytest.raises(
        ValueError, match=r"1 not finite:\n    backbone.conv2.weight has 1 of 36864"
    ):
        load(read_source(write(tmp_path / "a.pth", state)))


def test_a_head_without_a_classifier_is_no_backbone():
    changes = {SEG: None, "decode_head.conv_seg.bias": None}
    with pytest.raises(ValueError, match="2 missing"):
        load(source(mmseg_state() | changes))


def test_the_expected_network_is_checked():
    with pytest.raises(ValueError, match="looks like tiny with 3 classes, not hr18s with 19"):
        load(changed(), variant="hr18s", num_classes=19)


def test_a_backbone_loads_without_a_head(tmp_path):
    loaded = load(read_source(write(tmp_path / "a.pth", backbone_state())))
    assert set(loaded.params) == set(loaded.batch_stats) == {"backbone"}


def head_of(loaded) -> dict[str, np.ndarray]:
    state = torch_state_dict(loaded.params, loaded.batch_stats)
    return {key: value for key, value in state.items() if key.startswith("decode_head.")}


def test_a_strict_head_takes_no_other_classes(fresh):
    with pytest.raises(ValueError, match=r"expected are 4 .* match to keep the classes"):
        start_from(changed(), *fresh, variant="tiny", classes=("a", "b", "c", "d"))


def test_a_new_head_keeps_the_backbone_only(fresh):
    loaded = start_from(changed(), *fresh, variant="tiny", classes=("a", "b", "c", "d"), head="new")
    before = torch_state_dict(*fresh)
    for key, value in head_of(loaded).items():
        np.testing.assert_array_equal(value, before[key])
    kernel = torch_state_dict(loaded.params, {})[CONV]
    np.testing.assert_array_equal(kernel, published_tensor(CONV, kernel.shape))
    assert loaded.origin == (
        "tiny.pth (mmsegmentation): 265 tensors of the backbone; the 7 of the head are random"
    )


def test_a_matched_head_keeps_classes_of_equal_names(fresh):
    classes = ("car", "new", "road", "other")
    loaded = start_from(changed(), *fresh, variant="tiny", classes=classes, head="match")
    head, before, file = head_of(loaded), torch_state_dict(*fresh), mmseg_state()
    for key in (SEG, "decode_head.conv_seg.bias"):
        np.testing.assert_array_equal(head[key][0], file[key][2])
        np.testing.assert_array_equal(head[key][2], file[key][0])
        for index in (1, 3):
            np.testing.assert_array_equal(head[key][index], before[key][index])
    name = "decode_head.convs.0.conv.weight"
    np.testing.assert_array_equal(head[name], file[name])
    assert "7 of the head (2 of 4 classes by name)" in loaded.origin


def test_nameless_classes_cannot_be_matched(fresh):
    nameless = dataclasses.replace(changed(), classes=None)
    with pytest.raises(ValueError, match="does not name its 3 classes"):
        start_from(nameless, *fresh, variant="tiny", classes=("a", "b", "c", "d"), head="match")


def test_a_backbone_starts_training(tmp_path, fresh):
    backbone = read_source(write(tmp_path / "w18.pth", backbone_state()))
    loaded = start_from(backbone, *fresh, variant="tiny", classes=("a", "b", "c", "d"))
    assert "w18.pth (ImageNet backbone): 265 tensors of the backbone; the 7" in loaded.origin
    assert jax.tree.structure((loaded.params, loaded.batch_stats)) == jax.tree.structure(fresh)
