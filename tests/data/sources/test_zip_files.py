import contextlib
import pickle
import re
import stat
import struct
import zipfile
from concurrent.futures import ThreadPoolExecutor

import pytest

from hrnet_jax.data.dataset import folder_dataset
from hrnet_jax.data.datasets.cityscapes import DATASET as CITYSCAPES
from hrnet_jax.data.sources import zip_files
from hrnet_jax.data.sources.folder import Source
from hrnet_jax.data.sources.open import open_source

PETS = folder_dataset(classes=("cat", "dog"))
LISTED = folder_dataset(classes=("cat", "dog"), list_file="{split}.txt")
NAMES = [
    f"{kind}/train/{stem}{suffix}"
    for kind, suffix in (("images", ".jpg"), ("labels", ".png"))
    for stem in ("b/2", "a", "b/10", "a-b")
]


def pack(path, names=NAMES, *, top="", method=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", method) as archive:
        for name in names:
            archive.writestr(top + name, name * 30)  # a file's content is its own name
    return path


def same(one, other):
    assert len(one) == len(other)
    for a, b in zip(one, other, strict=True):
        assert (a.id, a.image, a.label) == (b.id, b.image, b.label)


@pytest.mark.parametrize("top", ["", "Pets/", "Pets/2012/"])
@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_zip_gives_the_records_of_its_folder(tmp_path, top, method):
    path = pack(tmp_path / "pets.zip", [*NAMES, "images/train/._a.jpg"], top=top, method=method)
    with zipfile.ZipFile(path) as archive:
        archive.extractall(tmp_path / "unpacked")
    source = open_source(path, PETS, "train")
    assert isinstance(source, Source)
    same(source, open_source(tmp_path / "unpacked" / top, PETS, "train"))
    assert source[0].image_path == f"{path}/{top}images/train/a-b.jpg"


def test_a_list_file_in_a_zip_chooses_and_orders(tmp_path):
    path = pack(tmp_path / "pets.zip")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("train.txt", "b/2\na\n")
    assert [record.id for record in open_source(path, LISTED, "train")] == ["b/2", "a"]


def test_cityscapes_two_zips_are_one_dataset(tmp_path):
    images, labels = tmp_path / "leftImg8bit.zip", tmp_path / "gtFine.zip"
    pack(images, ["leftImg8bit/val/ulm/ulm_0_leftImg8bit.png", "README", "license.txt"])
    pack(labels, ["gtFine/val/ulm/ulm_0_gtFine_labelIds.png", "README", "license.txt"])
    (record,) = open_source(tmp_path, CITYSCAPES, "val")
    assert record.id == "ulm/ulm_0"
    assert str(images) in record.image_path
    assert str(labels) in record.label_path


def test_two_archives_with_one_file_are_refused(tmp_path):
    pack(tmp_path / "1.zip")
    pack(tmp_path / "2.zip")
    with pytest.raises(ValueError, match=r"is in two archives: .*1\.zip and .*2\.zip"):
        open_source(tmp_path, PETS, "train")


def test_missing_folders_and_labels_in_an_archive_are_named(tmp_path):
    path = pack(tmp_path / "pets.zip", NAMES[:4])
    with pytest.raises(FileNotFoundError, match=r"no folder labels/train in .*pets\.zip"):
        open_source(path, PETS, "train")
    path = pack(tmp_path / "more.zip", NAMES[:-1])
    with pytest.raises(ValueError, match=r"1 images of .* have no label: a-b\."):
        open_source(path, PETS, "train")


def test_workers_and_threads_read_the_same(tmp_path):
    source = open_source(pack(tmp_path / "pets.zip"), PETS, "train")
    same(pickle.loads(pickle.dumps(source)), source)
    with ThreadPoolExecutor(8) as pool:
        records = list(pool.map(source.__getitem__, [0, 1, 2, 3] * 50))
    assert records == list(source) * 50


# Hostile and damaged archives.


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("/etc/passwd", "is an absolute name"),
        ("C:/windows", "is an absolute name"),
        ("\\\\server\\x", "is an absolute name"),
        ("images/../../x", "leads out of the archive"),
        ("images\\..\\x", "leads out of the archive"),
    ],
)
def test_names_that_lead_out_of_the_archive_are_refused(tmp_path, name, problem):
    path = pack(tmp_path / "pets.zip", [*NAMES, name])
    message = rf"pets\.zip is refused: {re.escape(repr(name))} {problem}\. No archive of images"
    with pytest.raises(ValueError, match=message):
        open_source(path, PETS, "train")


@pytest.mark.parametrize(
    ("kind", "problem"),
    [(stat.S_IFLNK, "is a link"), (stat.S_IFCHR, "is a device"), (stat.S_IFIFO, "is a device")],
)
def test_links_and_devices_are_refused(tmp_path, kind, problem):
    path = pack(tmp_path / "pets.zip")
    entry = zipfile.ZipInfo("images/train/c.jpg")
    entry.create_system = 3
    entry.external_attr = (kind | 0o777) << 16
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(entry, "/etc/passwd")
    with pytest.raises(ValueError, match=rf"'images/train/c\.jpg' {problem}"):
        open_source(path, PETS, "train")


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_name_that_occurs_twice_is_refused(tmp_path):
    path = pack(tmp_path / "pets.zip", [*NAMES, NAMES[0]])
    with pytest.raises(ValueError, match=r"'images/train/b/2\.jpg' is in it twice"):
        open_source(path, PETS, "train")


def test_a_declared_bomb_is_refused_before_it_is_unpacked(tmp_path, monkeypatch):
    path = pack(tmp_path / "pets.zip")
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("images/train/bomb.jpg", bytes(200_000))
    monkeypatch.setattr(zip_files, "MAX_FILE_BYTES", 100_000)
    with pytest.raises(
        ValueError, match=r"bomb\.jpg' unpacks to 200,000 bytes, over the limit of 100,000"
    ):
        open_source(path, PETS, "train")


def directory_entry(data, name):
    """The offset of a file in the central directory."""
    return data.index(name.encode(), data.index(b"PK\1\2")) - 46


def test_a_bomb_with_a_false_size_is_stopped(tmp_path):
    path = pack(tmp_path / "pets.zip")
    data = bytearray(path.read_bytes())
    struct.pack_into("<I", data, directory_entry(data, "images/train/a.jpg") + 24, 10)
    path.write_bytes(data)
    source = open_source(path, PETS, "train")
    with pytest.raises(ValueError, match=r"damaged at images/train/a\.jpg: size or checksum"):
        list(source)


@pytest.mark.parametrize("entries", [1_000_000, 2**40])
def test_a_million_entries_are_refused_unread(tmp_path, entries):
    path = tmp_path / "pets.zip"
    end = struct.pack("<4sQHHIIQQQQ", b"PK\6\6", 44, 45, 45, 0, 0, entries, entries, 46, 0)
    locator = struct.pack("<4sIQI", b"PK\6\7", 0, 0, 1)
    short = struct.pack("<4sHHHHIIH", b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, 2**32 - 1, 2**32 - 1, 0)
    path.write_bytes(end + locator + short)
    with pytest.raises(ValueError, match=rf"is refused: it has {entries:,} entries in 46 bytes"):
        open_source(path, PETS, "train")


def test_a_large_central_directory_is_refused_whatever_its_count(tmp_path):
    path = pack(tmp_path / "pets.zip")
    data = bytearray(path.read_bytes())
    struct.pack_into("<I", data, data.index(b"PK\5\6") + 12, 2**30)
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"8 entries in 1,073,741,824 bytes, over the limit"):
        open_source(path, PETS, "train")


def test_encrypted_and_rare_packings_are_refused(tmp_path):
    path = pack(tmp_path / "rare.zip", method=zipfile.ZIP_LZMA)
    with pytest.raises(ValueError, match="is packed by another method than stored or deflated"):
        open_source(path, PETS, "train")
    path = pack(tmp_path / "secret.zip")
    data = bytearray(path.read_bytes())
    data[directory_entry(data, "images/train/a.jpg") + 8] |= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match="is encrypted"):
        open_source(path, PETS, "train")


def test_a_truncated_download_is_reported(tmp_path):
    path = pack(tmp_path / "pets.zip")
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(ValueError, match=r"pets\.zip is not a zip file, or damaged: .* again"):
        open_source(path, PETS, "train")
    path.write_bytes(b"")
    with pytest.raises(ValueError, match="is not a zip file"):
        open_source(path, PETS, "train")


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_flipped_byte_of_a_file_is_found(tmp_path, method):
    path = pack(tmp_path / "pets.zip", ["images/train/a.jpg", "labels/train/a.png"], method=method)
    good = path.read_bytes()
    record, harmless = open_source(path, PETS, "train")[0], 0
    for place in range(0, good.index(b"PK\1\2"), 7):  # up to the central directory
        bad = bytearray(good)
        bad[place] ^= 0x10
        path.write_bytes(bad)
        with contextlib.suppress(ValueError):
            # What is read is right; nothing depends on some bytes, such as those of a time.
            assert open_source(path, PETS, "train")[0] == record
            harmless += 1
    assert harmless < 40
