import dataclasses
import os
import pickle
import re

import pytest

from hrnet_jax.data.dataset import Part, folder_dataset
from hrnet_jax.data.datasets.cityscapes import DATASET as CITYSCAPES
from hrnet_jax.data.sources.folder import First, Source
from hrnet_jax.data.sources.open import open_source

PETS = folder_dataset(classes=("cat", "dog"))


def write(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(name.encode())  # a file's content is its own name


def write_pairs(root, *stems, split="train"):
    for stem in stems:
        write(root, f"images/{split}/{stem}.jpg", f"labels/{split}/{stem}.png")


def ids(source):
    return [source[i].id for i in range(len(source))]


def test_images_are_listed_recursively_in_sorted_order(tmp_path):
    write_pairs(tmp_path, "b/2", "a", "b/10", "a-b")
    source = open_source(tmp_path, PETS, "train")
    assert ids(source) == ["a-b", "a", "b/10", "b/2"]  # sorted with the suffix
    assert isinstance(source, Source)


def test_a_record_holds_both_files_and_their_paths(tmp_path):
    write_pairs(tmp_path, "b/2")
    record = open_source(str(tmp_path), PETS, "train")[0]
    assert record.image == b"images/train/b/2.jpg"
    assert record.label == b"labels/train/b/2.png"
    assert record.image_path == str(tmp_path / "images/train/b/2.jpg")
    assert record.label_path == str(tmp_path / "labels/train/b/2.png")


def test_the_cityscapes_layout_pairs_files_by_city(tmp_path):
    write(
        tmp_path,
        "leftImg8bit/val/ulm/ulm_0_leftImg8bit.png",
        "gtFine/val/ulm/ulm_0_gtFine_labelIds.png",
        "gtFine/val/ulm/ulm_0_gtFine_color.png",
    )
    (record,) = open_source(tmp_path, CITYSCAPES, "val")
    assert record.id == "ulm/ulm_0"


def test_hidden_files_are_no_images_and_links_are_followed(tmp_path):
    write_pairs(tmp_path / "disk", "ulm/1")
    write_pairs(tmp_path, "a")
    write(tmp_path, "images/train/._a.jpg")
    for folder, kind in (("images", "images"), ("labels", "labels")):
        os.symlink(tmp_path / "disk" / kind / "train/ulm", tmp_path / folder / "train/ulm")
    assert ids(open_source(tmp_path, PETS, "train")) == ["a", "ulm/1"]


def test_a_list_file_chooses_and_orders_the_examples(tmp_path):
    write_pairs(tmp_path, "a", "b", "c")
    write(tmp_path, "images/train/unlabelled.jpg")
    (tmp_path / "train.txt").write_bytes(b"c\r\n\r\na\r\n")
    dataset = folder_dataset(classes=("cat", "dog"), list_file="{split}.txt")
    assert ids(open_source(tmp_path, dataset, "train")) == ["c", "a"]


def test_the_parts_of_a_split_follow_each_other(tmp_path):
    write(tmp_path, "images/a.jpg", "images/b.jpg", "fine/b.png", "coarse/a.png")
    (tmp_path / "fine.txt").write_text("b\n")
    (tmp_path / "coarse.txt").write_text("a\n")
    parts = tuple(
        Part(
            images="images",
            labels=kind,
            image_suffix=".jpg",
            label_suffix=".png",
            lists=(f"{kind}.txt",),
        )
        for kind in ("fine", "coarse")
    )
    dataset = dataclasses.replace(PETS, splits={"train": parts})
    source = open_source(tmp_path, dataset, "train")
    assert [record.label for record in source] == [b"fine/b.png", b"coarse/a.png"]


def test_a_source_survives_pickling_for_worker_processes(tmp_path):
    write_pairs(tmp_path, "a", "b")
    source = open_source(tmp_path, PETS, "train")
    assert list(pickle.loads(pickle.dumps(source))) == list(source)


def test_a_missing_root_is_named_with_instructions(tmp_path):
    with pytest.raises(FileNotFoundError) as error:
        open_source(tmp_path / "nowhere", CITYSCAPES, "train")
    message = str(error.value)
    assert f"there is no folder {tmp_path / 'nowhere'}" in message
    assert CITYSCAPES.obtain in message
    assert "--config.data.root=/path/to/cityscapes" in message
    assert "configs/hr18s_minicity.py" in message


def test_a_relative_root_is_reported_in_full(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=re.escape(str(tmp_path / "data/x"))):
        open_source("data/x", CITYSCAPES, "train")


def test_an_unknown_split_is_refused(tmp_path):
    with pytest.raises(
        ValueError, match=r"no split 'extra'; use one of \['test', 'train', 'val'\]"
    ):
        open_source(tmp_path, PETS, "extra")


def test_a_test_split_may_lack_labels_but_has_them_if_they_are_there(tmp_path):
    write(tmp_path, "images/test/b.jpg", "images/test/a.jpg")
    source = open_source(tmp_path, PETS, "test")
    assert ids(source) == ["a", "b"]
    assert source[0].image == b"images/test/a.jpg"
    assert source[0].label is None
    write(tmp_path, "labels/test/a.png", "labels/test/b.png")
    assert open_source(tmp_path, PETS, "test")[1].label == b"labels/test/b.png"
    write(tmp_path, "images/test/c.jpg")  # some labels, but not all
    with pytest.raises(ValueError, match="1 images of dataset 'custom' have no label: c"):
        open_source(tmp_path, PETS, "test")


def test_other_splits_need_their_labels(tmp_path):
    write(tmp_path, "images/val/a.jpg")
    with pytest.raises(FileNotFoundError, match=r"no folder .*labels/val"):
        open_source(tmp_path, PETS, "val")


def test_the_first_records_of_a_source(tmp_path):
    write_pairs(tmp_path, "a", "b", "c")
    source = open_source(tmp_path, PETS, "train")
    first = pickle.loads(pickle.dumps(First(source=source, count=2)))
    assert ids(first) == ["a", "b"]
    assert isinstance(first, Source)
    assert len(First(source=source, count=9)) == 3
