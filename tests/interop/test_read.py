import collections
import json

import numpy as np
import pytest

from hrnet_jax.interop.pickle_names import Placeholder
from hrnet_jax.interop.pth_write import write_pth
from hrnet_jax.interop.read import META_KEY, read_source, tensors_of
from hrnet_jax.interop.safetensors import write_safetensors
from hrnet_jax.interop.untrusted import CorruptFileError, UnsafeFileError
from hrnet_jax.interop.weights import load
from hrnet_jax.runs.paths import to_path
from hrnet_jax.runs.stored_weights import save_weights
from tests.interop.tiny_files import NAMES, backbone_state, mmseg_state, official_state, write

STATE = mmseg_state()
WEIGHTS = {key: value for key, value in STATE.items() if not key.endswith("_tracked")}


def same(tensors) -> bool:
    return set(tensors) == set(WEIGHTS) and all(
        np.array_equal(tensors[key], WEIGHTS[key]) for key in WEIGHTS
    )


CONTAINERS = {
    "flat": STATE,
    "ordered": collections.OrderedDict(STATE),
    "wrapped": {"state_dict": STATE},
    "module": {"state_dict": {f"module.{key}": value for key, value in STATE.items()}},
    "trained": {"state_dict": STATE, "optimizer": {"state": {0: {"lr": 1.0}}}, "meta": {}},
    "without counters": WEIGHTS,
}


@pytest.mark.parametrize("name", CONTAINERS)
def test_every_container_gives_the_same_tensors(tmp_path, name):
    write_pth(tmp_path / "a.pth", CONTAINERS[name])
    source = read_source(tmp_path / "a.pth")
    assert source.family == "mmsegmentation"
    assert same(source.tensors)
    assert len(source.counters) == (0 if name == "without counters" else 54)
    assert set(source.dropped) == ({"optimizer"} if name == "trained" else set())


def test_moving_averages_are_left_out_and_named(tmp_path):
    ema = {f"ema_{key.replace('.', '_')}": value for key, value in WEIGHTS.items()}
    write_pth(tmp_path / "a.pth", {"state_dict": STATE | ema, "ema_state_dict": {"steps": 3}})
    source = read_source(tmp_path / "a.pth")
    assert same(source.tensors)
    assert source.dropped["ema_*"] == f"{len(WEIGHTS)} tensors: moving averages of an EMA hook"
    assert "ema_state_dict" in source.dropped


@pytest.mark.parametrize("kind", ["pth", "safetensors"])
def test_an_imagenet_network_is_a_backbone_and_126_dropped_tensors(tmp_path, kind):
    path = tmp_path / f"hrnet_w18.{kind}"
    if kind == "pth":
        write_pth(path, backbone_state())
    else:
        write_safetensors(path, backbone_state())
    source = read_source(path)
    assert source.family == "ImageNet backbone"
    assert not source.has_head
    assert {group: text.split()[0] for group, text in source.dropped.items()} == {
        "incre_modules": "96", "downsamp_modules": "21", "final_layer": "7", "classifier": "2",
    }  # fmt: skip
    expected = {key for key in WEIGHTS if key.startswith("backbone.")}
    assert set(source.tensors) == expected


@pytest.mark.parametrize("wrapped", [True, False])
def test_the_official_heads_bias_goes_into_the_mean(tmp_path, wrapped):
    state = official_state()
    write_pth(tmp_path / "a.pth", {"state_dict": state} if wrapped else state)
    source = read_source(tmp_path / "a.pth")
    assert source.family == "official HRNet segmentation"
    assert set(source.tensors) == set(WEIGHTS)
    for key, value in WEIGHTS.items():
        np.testing.assert_allclose(source.tensors[key], value, atol=1e-7)
    assert source.dropped == {"loss": "1 tensors: class weights of the official loss"}
    assert "align_corners is False" in source.notes[0]


def test_class_names_of_both_generations(tmp_path):
    palette = [[1, 2, 3], [4, 5, 6], [7, 8, 9]]
    write(tmp_path / "old.pth", STATE, PALETTE=palette)
    new = {"dataset_meta": {"classes": list(NAMES), "palette": palette}}
    write_pth(tmp_path / "new.pth", {"meta": new, "state_dict": STATE})
    for name in ("old", "new"):
        source = read_source(tmp_path / f"{name}.pth")
        assert source.classes == NAMES
        assert source.palette == ((1, 2, 3), (4, 5, 6), (7, 8, 9))


@pytest.mark.parametrize("names", [None, "road", [1, 2, 3], ["a", "a", "b"], ["a", "b\n", "\x00"]])
def test_invalid_names_are_ignored(tmp_path, names):
    write(tmp_path / "a.pth", STATE, CLASSES=names, PALETTE=[[1, 2, 300]] * 3)
    source = read_source(tmp_path / "a.pth")
    assert source.classes is None
    assert source.palette is None


def test_our_own_safetensors_name_their_classes(tmp_path):
    metadata = {META_KEY: json.dumps({"classes": NAMES, "palette": None})}
    write_safetensors(tmp_path / "a.safetensors", STATE, metadata=metadata)
    source = read_source(tmp_path / "a.safetensors")
    assert source.classes == NAMES
    assert same(source.tensors)


@pytest.mark.parametrize("text", ["{", 100_000 * "[", "[]"])
def test_invalid_metadata_is_ignored(tmp_path, text):
    write_safetensors(tmp_path / "a.safetensors", STATE, metadata={META_KEY: text})
    assert read_source(tmp_path / "a.safetensors").classes is None


def test_a_checkpoint_is_a_source_too(tmp_path):
    path = write(tmp_path / "a.pth", STATE)
    loaded = load(read_source(path))
    meta = {"classes": NAMES, "palette": [[0, 0, 0]] * 3, "source": {}}
    save_weights(tmp_path / "run", loaded.params, loaded.batch_stats, meta=meta)
    source = read_source(tmp_path / "run")
    assert source.family == "hrnet_jax checkpoint"
    assert source.classes == NAMES
    assert same(source.tensors)


OTHERS = {
    "OCRNet": (
        {"backbone.layer1.0.a": 0, "decode_head.1.object_context_block.x": 0},
        "is an OCRNet",
    ),
    "ResNet": (
        {"conv1.weight": 0, "layer2.0.conv1.weight": 0},
        "is not an HRNet: it has no stages",
    ),
    "nothing": ({}, "is not an HRNet"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_networks_are_named(tmp_path, name):
    keys, message = OTHERS[name]
    write_pth(tmp_path / "a.pth", {"state_dict": {key: np.zeros(1, np.float32) for key in keys}})
    with pytest.raises(ValueError, match=message):
        read_source(tmp_path / "a.pth")


def test_a_list_is_no_state_dict(tmp_path):
    write_pth(tmp_path / "a.pth", [1, 2])
    with pytest.raises(ValueError, match=r"holds a list, not a state dict; save model.state_dict"):
        read_source(tmp_path / "a.pth")


def test_one_name_with_and_without_a_prefix_is_refused(tmp_path):
    twice = STATE | {"module.backbone.conv1.weight": STATE["backbone.conv1.weight"]}
    write_pth(tmp_path / "a.pth", twice)
    with pytest.raises(ValueError, match=r"two tensors for backbone.conv1.weight"):
        read_source(tmp_path / "a.pth")


def test_a_file_that_holds_more_than_tensors_is_refused_by_name(tmp_path):
    write_pth(tmp_path / "a.pth", {"state_dict": STATE | {"lr": 0.1}})
    with pytest.raises(ValueError, match=r"a.pth: The state dict's 'lr' is a float"):
        read_source(tmp_path / "a.pth")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no weight file or checkpoint .*nowhere.pth"):
        read_source(tmp_path / "nowhere.pth")


@pytest.mark.parametrize("kind", ["pth", "safetensors"])
def test_a_file_in_a_bucket_gives_the_same_tensors(bucket, tmp_path, kind):
    (write_pth if kind == "pth" else write_safetensors)(tmp_path / f"a.{kind}", WEIGHTS)
    bucket.upload(tmp_path, "weights")
    local, remote = (
        read_source(tmp_path / f"a.{kind}"),
        read_source(f"gs://bucket/weights/a.{kind}"),
    )
    assert same(remote.tensors)
    assert (remote.sha256, remote.size) == (local.sha256, local.size)
    assert str(remote.path) == f"gs://bucket/weights/a.{kind}"


def test_a_damaged_file_in_a_bucket_is_named(bucket):
    bucket.put("weights/a.safetensors", b"nothing")
    with pytest.raises(ValueError, match=r"^gs://bucket/weights/a\.safetensors: "):
        read_source("gs://bucket/weights/a.safetensors")
    with pytest.raises(FileNotFoundError, match=r"no weight file or checkpoint gs://bucket/b\.pth"):
        read_source(to_path("gs://bucket/b.pth"))


def test_a_state_dict_holds_nothing_but_tensors_by_name():
    tensor = np.zeros(2)
    assert tensors_of({"a": tensor}) == {"a": tensor}
    with pytest.raises(UnsafeFileError, match=r"'b' is a numpy.dtype, which is not read"):
        tensors_of({"a": tensor, "b": Placeholder("numpy.dtype")})
    with pytest.raises(CorruptFileError, match=r"'b' is a dict, not a named tensor"):
        tensors_of({"a": tensor, "b": {}})
    with pytest.raises(CorruptFileError, match=r"state dict's 3 is a ndarray"):
        tensors_of({3: tensor})
