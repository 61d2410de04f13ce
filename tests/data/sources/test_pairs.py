"""Every incomplete pair is reported when a source is opened."""

import re

import pytest

from hrnet_jax.data.dataset import folder_dataset
from hrnet_jax.data.sources.open import open_source

PETS = folder_dataset(classes=("cat", "dog"))


def write(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def write_pairs(root, *stems):
    for stem in stems:
        write(root, f"images/train/{stem}.jpg", f"labels/train/{stem}.png")


def test_a_missing_folder_is_named(tmp_path):
    write(tmp_path, "images/train/a.jpg")
    with pytest.raises(FileNotFoundError, match=re.escape(str(tmp_path / "labels/train"))):
        open_source(tmp_path, PETS, "train")


def test_a_missing_list_file_is_named(tmp_path):
    write_pairs(tmp_path, "a")
    dataset = folder_dataset(classes=("cat", "dog"), list_file="{split}.txt")
    with pytest.raises(FileNotFoundError, match=r"no list file .*train\.txt"):
        open_source(tmp_path, dataset, "train")


def test_images_without_label_are_counted_and_named(tmp_path):
    write_pairs(tmp_path, "ok")
    write(tmp_path, *(f"images/train/{i}.jpg" for i in range(5)))
    with pytest.raises(ValueError, match=r"5 images of .* have no label: 0, 1, 2, \.\.\."):
        open_source(tmp_path, PETS, "train")


def test_labels_without_image_are_counted_and_named(tmp_path):
    write_pairs(tmp_path, "ok")
    write(tmp_path, "labels/train/x/1.png", "labels/train/2.png")
    with pytest.raises(ValueError, match=r"2 labels of .* have no image: 2, x/1\."):
        open_source(tmp_path, PETS, "train")


def test_listed_but_missing_images_are_named(tmp_path):
    write_pairs(tmp_path, "a")
    (tmp_path / "train.txt").write_text("a\nb\n")
    dataset = folder_dataset(classes=("cat", "dog"), list_file="{split}.txt")
    with pytest.raises(ValueError, match=r"1 images of .* are listed but missing: b"):
        open_source(tmp_path, dataset, "train")


def test_repeated_list_entries_are_refused(tmp_path):
    write_pairs(tmp_path, "a", "b")
    (tmp_path / "train.txt").write_text("a\nb\na\n")
    dataset = folder_dataset(classes=("cat", "dog"), list_file="{split}.txt")
    with pytest.raises(ValueError, match="lists 1 names more than once: a"):
        open_source(tmp_path, dataset, "train")


def test_complete_pairs_are_read_if_the_problems_are_only_reported(tmp_path):
    write(tmp_path, "images/train/a.jpg", "images/train/b.jpg")
    write(tmp_path, "labels/train/a.png", "labels/train/c.png")
    reported = []
    files = open_source(
        tmp_path, PETS, "train", on_problem=lambda problem, names: reported.append((problem, names))
    )
    assert [names for _, names in reported] == [["c"], ["b"]]
    assert "labels of dataset 'custom' have no image: c." in reported[0][0]
    assert "images of dataset 'custom' have no label: b." in reported[1][0]
    assert [files.paths(i)[0][-5:] for i in range(len(files))] == ["a.jpg"]


def test_an_empty_split_reports_the_files_it_saw(tmp_path):
    write(tmp_path, "images/train/a.PNG", "images/train/b.PNG")
    (tmp_path / "labels/train").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"(?s)is empty.*'\.jpg'.*found: 2 x '\.PNG'"):
        open_source(tmp_path, PETS, "train")
