import dataclasses

import numpy as np
import pytest

from hrnet_jax import zoo
from hrnet_jax.commands import convert
from hrnet_jax.commands.convert import exported_state, report_table, to_checkpoint, to_file
from hrnet_jax.config import recipes
from hrnet_jax.config.load import predictor_of
from hrnet_jax.interop.pth import read_pth
from hrnet_jax.interop.safetensors import read_safetensors
from hrnet_jax.runs.stored_weights import load_weights
from tests.interop.tiny_files import NAMES, backbone_state, mmseg_state, official_state, write


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("converted")
    path = write(folder / "tiny.pth", mmseg_state(), PALETTE=[[1, 2, 3]] * 3)
    return path, folder / "run", to_checkpoint(path, folder / "run")


@pytest.fixture
def saved(monkeypatch):
    """What would be written as `meta`, without the seconds that Orbax takes."""
    metas: dict = {}

    def save(folder, params, batch_stats, *, meta):
        metas.update(meta)
        return folder

    monkeypatch.setattr(convert, "save_weights", save)
    return metas


def test_a_checkpoint_says_all_about_itself(converted):
    path, folder, report = converted
    meta = load_weights(folder).meta
    assert meta["variant"] == "tiny"
    assert meta["classes"] == list(NAMES)
    assert meta["palette"] == [[1, 2, 3]] * 3
    assert meta["mean"] == [123.675, 116.28, 103.53]
    assert meta["source"]["file"] == "tiny.pth"
    assert meta["source"]["sha256"] == read_pth(path).sha256 == report["SHA-256"]
    assert report["classes"] == "3 (road, sky, car), from the file"
    assert report["dropped"] == "nothing"


@pytest.mark.slow
def test_prediction_needs_nothing_else(converted):
    weights = load_weights(converted[1])
    assert weights.meta["config"]["eval"]["image_size"] == [512, 2048]
    weights.meta["config"]["eval"]["image_size"] = [32, 40]  # seconds less
    label = predictor_of(weights)(np.zeros((40, 50, 3), np.uint8))
    assert label.shape == (40, 50)
    assert label.max() < 3


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_there_and_back_is_bit_for_bit_the_same(converted, tmp_path, suffix):
    target = tmp_path / f"back{suffix}"
    to_file(converted[1], target)
    if suffix == ".pth":
        content = read_pth(target).content
        state = content["state_dict"]
        assert content["meta"]["CLASSES"] == list(NAMES)
        assert content["meta"]["dataset_meta"]["palette"] == [[1, 2, 3]] * 3
    else:
        state = read_safetensors(target).tensors
    before = mmseg_state()
    assert set(state) == set(before)
    for key, value in before.items():
        assert (state[key].dtype, state[key].shape) == (value.dtype, value.shape)
        assert state[key].tobytes() == value.tobytes(), key
    assert to_checkpoint(target, tmp_path / "again")["classes"].startswith("3 (road, sky, car)")
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_a_run_of_ours_has_counters_too(converted):
    weights = load_weights(converted[1])
    del weights.meta["batches_tracked"]
    assert exported_state(weights)["backbone.bn1.num_batches_tracked"] == 0


def test_other_endings_are_refused(converted, tmp_path):
    with pytest.raises(ValueError, match=r"model.onnx must end in .pth or .safetensors"):
        to_file(converted[1], tmp_path / "model.onnx")


def test_a_folder_with_a_checkpoint_is_not_overwritten(converted):
    with pytest.raises(ValueError, match="holds a checkpoint already; choose another folder"):
        to_checkpoint(converted[0], converted[1])


def test_a_backbone_becomes_a_checkpoint_to_train_from(tmp_path):
    path = write(tmp_path / "w18.pth", backbone_state())
    report = to_checkpoint(path, tmp_path / "run")
    assert report["classes"] == "none: a backbone"
    assert "incre_modules: 96 tensors" in report["dropped"]
    weights = load_weights(tmp_path / "run")
    assert set(weights.params) == {"backbone"}
    assert weights.meta["classes"] == []


def test_a_config_is_checked(saved, tmp_path):
    path = write(tmp_path / "a.pth", mmseg_state())
    for variant, message in (
        ("hr48", "looks like tiny with 3 classes, not hr48 with 19"),
        ("tiny", "looks like tiny with 3 classes, not tiny with 19"),
    ):
        with pytest.raises(ValueError, match=message):
            to_checkpoint(path, tmp_path / "a", config=recipes.minicity(variant=variant).to_dict())
    config = recipes.custom(variant="tiny")
    config.data.classes = ("sky", "road", "car")
    with pytest.raises(ValueError, match=r"has the classes 3 \(road, sky, car\), expected"):
        to_checkpoint(path, tmp_path / "a", config=config.to_dict())
    assert not saved
    config.data.classes, config.eval.image_size = NAMES, (64, 64)
    to_checkpoint(path, tmp_path / "a", config=config.to_dict())
    assert saved["config"]["eval"]["image_size"] == (64, 64)


def test_a_head_for_other_classes(saved, tmp_path):
    path = write(tmp_path / "a.pth", mmseg_state())
    config = recipes.minicity(variant="tiny").to_dict()
    report = to_checkpoint(path, tmp_path / "a", config=config, head="match")
    assert "(3 of 19 classes by name)" in report["from"]
    assert len(saved["classes"]) == 19
    with pytest.raises(ValueError, match="head policy new needs a config"):
        to_checkpoint(path, tmp_path / "b", head="new")


def test_official_weights_tell_what_differs(saved, tmp_path):
    path = write(tmp_path / "a.pth", official_state())
    report = to_checkpoint(path, tmp_path / "a")
    assert "align_corners is False" in report["note"]
    report_table(report, title="Converted")


@pytest.mark.parametrize(
    ("count", "dataset", "size"),
    [
        (19, "cityscapes", (1024, 2048)),
        (60, "pascal_context", (520, 520)),
    ],
)
def test_the_number_of_classes_decides_the_evaluation_size(saved, tmp_path, count, dataset, size):
    path = write(tmp_path / "a.pth", mmseg_state(count), CLASSES=None)
    to_checkpoint(path, tmp_path / "a")
    assert saved["dataset"] == dataset
    assert saved["config"]["eval"]["image_size"] == size


@pytest.fixture
def tiny_row(monkeypatch):
    old, new = (
        zoo.Upload("20200601_000000-0badcafe", 1.0, 2.0),
        zoo.Upload("20210801_000000-", 3.0, 4.0),
    )
    row = zoo.Row("tiny", "cityscapes", "80k", new, older=(old,))

    def publish(sha256):
        upload = dataclasses.replace(new, mark=f"20210801_000000-{sha256[:8]}")
        published = dataclasses.replace(row, upload=upload)
        monkeypatch.setattr(zoo, "ROWS", (published,))
        return published

    return publish


def test_a_file_of_the_zoo_is_known_whatever_its_name(saved, tiny_row, tmp_path):
    path = write(tmp_path / "renamed.pth", mmseg_state(19), CLASSES=["a"] * 19)
    row = tiny_row(read_pth(path).sha256)
    report = to_checkpoint(path, tmp_path / "a")
    assert saved["zoo"] == {"name": row.name, "file": row.file()}
    assert saved["config"] == recipes.of_row(row).to_dict()
    assert (saved["dataset"], saved["classes"][:2]) == ("cityscapes", ("road", "sidewalk"))
    assert report["published"] == "fcn_tiny_512x1024_80k_cityscapes: mIoU 3.00, ms+flip 4.00"


def test_an_older_upload_keeps_its_own_figures(saved, tiny_row, tmp_path):
    row = tiny_row("f" * 64)
    path = write(tmp_path / row.file(row.older[0]), mmseg_state(19))
    with pytest.raises(ValueError, match="0badcafe"):
        to_checkpoint(path, tmp_path / "a")
    report = to_checkpoint(path, tmp_path / "a", any_hash=True)
    assert saved["zoo"]["file"] == path.name
    assert "mIoU 1.00, ms+flip 2.00" in report["published"]


def test_a_name_of_the_zoo_on_another_network_is_not_believed(saved, tiny_row, tmp_path):
    row = tiny_row("f" * 64)
    path = write(tmp_path / row.file(), mmseg_state(3))
    assert "published" not in to_checkpoint(path, tmp_path / "a", any_hash=True)
    assert "zoo" not in saved


def test_with_another_head_the_published_figures_mean_nothing(saved, tiny_row, tmp_path):
    path = write(tmp_path / "a.pth", mmseg_state(19), CLASSES=None)
    row = tiny_row(read_pth(path).sha256)
    config = recipes.of_row(row).to_dict()
    to_checkpoint(path, tmp_path / "a", config=config)
    assert saved.pop("zoo")["name"] == row.name
    to_checkpoint(path, tmp_path / "a", config=config, head="new")
    assert "zoo" not in saved


def test_a_bucket_keeps_a_converted_checkpoint_and_gives_it_back(bucket, tmp_path):
    path = write(tmp_path / "tiny.pth", mmseg_state())
    report = to_checkpoint(path, "gs://bucket/run")
    assert report["written"] == "gs://bucket/run/checkpoints/0"
    report = to_file("gs://bucket/run", "gs://bucket/back.pth")
    content = bucket.objects["back.pth"][0]
    assert report["bytes"] == f"{len(content):,}"
    (tmp_path / "back.pth").write_bytes(content)
    state = read_pth(tmp_path / "back.pth").content["state_dict"]
    assert all(np.array_equal(state[key], value) for key, value in mmseg_state().items())
