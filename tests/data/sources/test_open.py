import zipfile

import pytest

from hrnet_jax.data.dataset import folder_dataset
from hrnet_jax.data.sources.open import open_source

PETS = folder_dataset(classes=("cat", "dog"))


def write(root):
    for name in ("images/train/a.jpg", "labels/train/a.png"):
        (root / name).parent.mkdir(parents=True)
        (root / name).write_bytes(name.encode())
    return root


def pack(root, *, kinds=("images", "labels"), name="pets.zip"):
    with zipfile.ZipFile(root / name, "w") as archive:
        for kind in kinds:
            suffix = {"images": ".jpg", "labels": ".png"}[kind]
            archive.writestr(f"{kind}/train/a{suffix}", f"{kind}/train/a{suffix}")
    return root / name


def test_folder_zip_and_folder_of_zips_are_recognised(tmp_path):
    for name in ("folder", "one", "two"):
        (tmp_path / name).mkdir()
    folder = open_source(write(tmp_path / "folder"), PETS, "train")
    one = open_source(pack(tmp_path / "one"), PETS, "train")
    pack(tmp_path / "two", kinds=["images"], name="images.zip")
    pack(tmp_path / "two", kinds=["labels"], name="labels.zip")
    two = open_source(str(tmp_path / "two"), PETS, "train")
    assert "folder/images/train/a.jpg" in folder[0].image_path
    assert "pets.zip/images/train/a.jpg" in one[0].image_path
    assert "images.zip/images/train/a.jpg" in two[0].image_path
    assert len({(s[0].id, s[0].image, s[0].label) for s in (folder, one, two)}) == 1


def test_an_unpacked_dataset_is_preferred_to_zips_in_its_folder(tmp_path):
    pack(write(tmp_path))
    assert open_source(tmp_path, PETS, "train")[0].image_path == f"{tmp_path}/images/train/a.jpg"


def test_a_tar_says_how_to_unpack_it(tmp_path):
    (tmp_path / "VOC.tar").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"unpack it with 'tar xf VOC\.tar'"):
        open_source(tmp_path / "VOC.tar", PETS, "train")


def test_nothing_at_all_is_reported_as_a_missing_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        open_source(tmp_path / "nowhere", PETS, "train")
    with pytest.raises(FileNotFoundError, match=r"there is no folder .*images/train"):
        open_source(tmp_path, PETS, "train")
    with pytest.raises(ValueError, match="no split 'extra'"):
        open_source(tmp_path, PETS, "extra")


def test_a_root_above_the_layout_names_the_right_folder(tmp_path):
    write(tmp_path / "devkit" / "VOC")
    with pytest.raises(FileNotFoundError, match=r"but a folder in it does: .*root=.*/devkit/VOC$"):
        open_source(tmp_path, PETS, "train")
