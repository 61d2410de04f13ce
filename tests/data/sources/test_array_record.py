import io
import json
import pickle
import random
import resource
import sys
import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import scipy.io
from PIL import Image

from hrnet_jax.data.dataset import folder_dataset
from hrnet_jax.data.datasets import DATASETS
from hrnet_jax.data.decode import decode_label
from hrnet_jax.data.sources import array_record
from hrnet_jax.data.sources.array_record import ArrayRecordSource, checksum, prepared_folder, write
from hrnet_jax.data.sources.folder import Record
from hrnet_jax.data.sources.open import open_source

PETS = folder_dataset(classes=("cat", "dog"))


def record(name, *, label=b"\x89PNG no real one"):
    return Record(
        id=name, image=f"image {name}".encode(), label=label, image_path="i", label_path="l"
    )


@pytest.fixture
def written(tmp_path):
    records = {"train": [record("b/2"), record("a"), record("ä")], "val": [record("v")]}
    folder = tmp_path / "custom" / "1.0.0"
    write(records, PETS, folder=folder)
    return records, folder


def test_records_come_back_in_order_bit_for_bit_and_without_tensorflow(written):
    records, folder = written
    for split, expected in records.items():
        source = ArrayRecordSource(folder, PETS, split)
        assert len(source) == len(expected)
        for index, (found, given) in enumerate(zip(source, expected, strict=True)):
            assert (found.id, found.image, found.label) == (given.id, given.image, given.label)
            assert source.is_intact(index)
    assert source[0].image_path == f"{folder} val[0] v (image)"
    assert "tensorflow" not in sys.modules


def test_many_shards_keep_the_order_and_little_is_held_in_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(array_record, "_SHARD", 3)
    held: list[weakref.ref] = []

    def records():
        for number in range(10):
            new = record(f"{number}")
            held.append(weakref.ref(new))
            yield new
            del new
            assert sum(ref() is not None for ref in held) <= 1

    write({"train": records()}, PETS, folder=tmp_path / "new")
    assert len(list((tmp_path / "new").glob("*.array_record*"))) == 4
    source = ArrayRecordSource(tmp_path / "new", PETS, "train")
    assert [r.id for r in source] == [f"{number}" for number in range(10)]


def test_a_folder_at_home_is_found(home, written):
    (home / "data").symlink_to(written[1])
    assert len(ArrayRecordSource("~/data", PETS, "train")) > 0


def test_a_full_disk_is_an_error_of_the_folder(tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        noise = random.Random(0).randbytes(50_000)
        with pytest.raises(OSError, match=r"Cannot write to .*new: "):
            write({"train": [record("a", label=noise)] * 40}, PETS, folder=tmp_path / "new")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_threads_read_the_same(written):
    source = ArrayRecordSource(written[1], PETS, "train")
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(source.__getitem__, [0, 1, 2] * 50)) == list(source) * 50


def test_workers_read_the_same(written):
    source = ArrayRecordSource(written[1], PETS, "train")
    assert list(pickle.loads(pickle.dumps(source))) == list(source)


def test_a_root_above_the_version_is_enough(written, tmp_path):
    assert written[1] == tmp_path / "custom" / "1.0.0" == prepared_folder(tmp_path, PETS)
    assert isinstance(open_source(tmp_path, PETS, "train"), ArrayRecordSource)
    assert prepared_folder(tmp_path / "nowhere", PETS) is None


def test_of_several_prepared_datasets_the_named_one_is_read(tmp_path):
    for name in ("ade20k", "custom", "voc", ".custom.partial/custom", "custom/incomplete.X_1.0.0"):
        folder = tmp_path / name / "1.0.0"
        folder.mkdir(parents=True)
        (folder / "dataset_info.json").write_text("{}")
    assert prepared_folder(tmp_path, PETS) == tmp_path / "custom" / "1.0.0"
    # A dataset prepared with 60 classes serves Pascal Context's 59 too.
    assert prepared_folder(tmp_path / "voc", PETS) == tmp_path / "voc" / "1.0.0"
    assert prepared_folder(tmp_path / ".custom.partial" / "custom", PETS) is not None


def test_a_mat_label_is_stored_as_a_png_of_its_values(tmp_path):
    values = np.arange(20, dtype=np.uint8).reshape(4, 5)
    file = io.BytesIO()
    scipy.io.savemat(file, {"GTcls": {"Segmentation": values}})
    write({"train": [record("a", label=file.getvalue())]}, PETS, folder=tmp_path / "new")
    stored = ArrayRecordSource(tmp_path / "new", PETS, "train")[0].label
    assert stored.startswith(b"\x89PNG")
    np.testing.assert_array_equal(decode_label(stored, path="a"), values)


def test_a_checksum_covers_name_image_and_label():
    sums = {
        checksum(Record(id=i, image=a, label=b, image_path="", label_path=""))
        for i, a, b in [("x", b"1", b"2"), ("y", b"1", b"2"), ("x", b"3", b"2"), ("x", b"1", b"3")]
    }
    assert len(sums) == 4


def test_a_changed_example_is_detected(written, monkeypatch):
    source = ArrayRecordSource(written[1], PETS, "train")
    example = source._example(0)
    monkeypatch.setattr(source, "_example", lambda index: {**example, "image": b"other"})
    assert not source.is_intact(0)


def shard(folder, split):
    (path,) = folder.glob(f"*-{split}.array_record*")
    return path


def test_flipped_and_lost_bytes_name_the_example(written):
    path = shard(written[1], "train")
    good = path.read_bytes()
    for bad in (good.replace(b"image a", b"image q"), good[: len(good) // 2]):
        path.write_bytes(bad)
        source = ArrayRecordSource(written[1], PETS, "train")
        with pytest.raises(ValueError, match=r"Example \d of split 'train' in .* is damaged: .*"):
            list(source)


def test_a_missing_shard_is_named_at_once(written):
    shard(written[1], "val").unlink()
    with pytest.raises(FileNotFoundError, match=r"shard .*-val.* is missing: .* copied completely"):
        ArrayRecordSource(written[1], PETS, "val")


def edit(folder, **fields):
    path = folder / "dataset_info.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def test_an_unreadable_format_says_how_to_prepare_it(written):
    _, folder = written
    edit(folder, fileFormat="tfrecord")
    with pytest.raises(ValueError, match=r"holds tfrecord files.*without TensorFlow") as error:
        ArrayRecordSource(folder, DATASETS["cityscapes"], "train")
    assert "--mode prepare --config CONFIG --config.data.root=SOURCE" in str(error.value)


@pytest.mark.parametrize(
    ("name", "what"), [("scene_parse150", "instance masks"), ("voc", "for detection")]
)
def test_datasets_for_other_tasks_are_refused(written, name, what):
    edit(written[1], name=name, fileFormat="tfrecord")
    with pytest.raises(ValueError, match=f"TFDS's '{name}' .*{what}"):
        ArrayRecordSource(written[1], DATASETS["ade20k"], "train")


def test_another_dataset_and_another_split_are_refused(written):
    with pytest.raises(
        ValueError, match=r"prepared from 'custom' with other label values than 'cit"
    ):
        ArrayRecordSource(written[1], DATASETS["cityscapes"], "train")
    more = folder_dataset(classes=("cat", "dog"), splits=("train", "val", "test"))
    with pytest.raises(ValueError, match=r"no split 'test', only \['train', 'val'\]"):
        ArrayRecordSource(written[1], more, "test")


def tfds_builder(folder, features):
    """A folder like that of TFDS's builder cityscapes, with the given features."""
    import tensorflow_datasets as tfds

    class Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        name = "cityscapes"
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            return tfds.core.DatasetInfo(
                builder=self, features=tfds.features.FeaturesDict(features(tfds.features))
            )

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples(), "validation": self._generate_examples()}

        def _generate_examples(self):
            for i in range(3):
                values = {"image_left": b"\x89PNG i", "segmentation_label": b"\x89PNG l"}
                yield i, {"image_id": f"ulm_{i}", **{k: values[k] for k in self._features()}}

        def _features(self):
            return [key for key in self.info.features if key != "image_id"]

    tfds.disable_progress_bar()
    builder = Builder(data_dir=folder, file_format="array_record")
    builder.download_and_prepare()
    return folder / "cityscapes" / "1.0.0"


def test_cityscapes_prepared_by_tfds_is_read_too(tmp_path):
    folder = tfds_builder(
        tmp_path,
        lambda f: {
            "image_id": f.Text(),
            "image_left": f.Image(shape=(1024, 2048, 3), encoding_format="png"),
            "segmentation_label": f.Image(shape=(1024, 2048, 1), encoding_format="png"),
        },
    )
    source = open_source(folder, DATASETS["cityscapes"], "val")
    assert sorted(r.id for r in source) == ["ulm_0", "ulm_1", "ulm_2"]
    assert (source[0].image, source[0].label) == (b"\x89PNG i", b"\x89PNG l")
    with pytest.raises(ValueError, match=r"holds Cityscapes, but config.data.name is 'ade20k'"):
        ArrayRecordSource(folder, DATASETS["ade20k"], "val")


def test_a_folder_without_labels_is_refused(tmp_path):
    folder = tfds_builder(
        tmp_path, lambda f: {"image_id": f.Text(), "image_left": f.Image(shape=(1, 2, 3))}
    )
    with pytest.raises(ValueError, match=r"features \['image_id', 'image_left'\], but not"):
        ArrayRecordSource(folder, DATASETS["cityscapes"], "val")


def test_a_png_of_pillow_is_kept_as_it_is(tmp_path):
    file = io.BytesIO()
    Image.new("P", (3, 2), 1).save(file, "png")
    write({"train": [record("a", label=file.getvalue())]}, PETS, folder=tmp_path / "new")
    assert ArrayRecordSource(tmp_path / "new", PETS, "train")[0].label == file.getvalue()
