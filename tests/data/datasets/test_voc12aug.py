import io
import pickle
import zipfile

import numpy as np
import pytest
import scipy.io
from PIL import Image

from hrnet_jax.data.datasets.voc12aug import CLASSES, DATASET
from hrnet_jax.data.decode import decode, decode_label
from hrnet_jax.data.sources.open import open_source

LABEL = np.array([[0, 15, 15], [7, 7, 20]], np.uint8)


def test_names_and_colours_are_the_published_ones():
    assert len(CLASSES) == 21
    assert next(iter(CLASSES)) == "background"
    assert CLASSES["background"] == (0, 0, 0)
    assert CLASSES["tvmonitor"] == (0x00, 0x40, 0x80)
    assert CLASSES["person"] == (0xC0, 0x80, 0x80)
    assert DATASET.classes == tuple(CLASSES)
    assert DATASET.counts == {"train": 10582, "val": 1449}


def mat(values=LABEL, *, name="GTcls", **options):
    file = io.BytesIO()
    content = {"Boundaries": np.zeros(3), "Segmentation": values, "CategoriesPresent": [7]}
    scipy.io.savemat(file, {name: content}, **options)
    return file.getvalue()


def png(values):
    file = io.BytesIO()
    image = Image.fromarray(values).convert("P")
    image.putpalette(range(256 * 3 - 512))
    image.save(file, "png")
    return file.getvalue()


def write(root, **files):
    """Write files; a value of str is a list of stems."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)


@pytest.fixture
def root(tmp_path):
    jpeg = io.BytesIO()
    Image.new("RGB", (3, 2)).save(jpeg, "jpeg")
    # VOC trains on 1 and 2 and validates on 5; SBD has 2, 3, 4 and 5.
    write(tmp_path, **{f"JPEGImages/{n}.jpg": jpeg.getvalue() for n in "123456"})
    write(tmp_path, **{f"SegmentationClass/{n}.png": png(LABEL) for n in "125"})
    lists = {"train": "1\n2\n", "val": "5\n", "trainval": "1\n2\n5\n"}
    write(tmp_path, **{f"ImageSets/Segmentation/{k}.txt": v for k, v in lists.items()})
    return tmp_path


@pytest.fixture
def with_sbd(root):
    sbd = "benchmark_RELEASE/dataset"
    write(root, **{f"{sbd}/cls/{n}.mat": mat() for n in "2345"})
    write(root, **{f"{sbd}/train.txt": "4\n2\n", f"{sbd}/val.txt": "5\n3\n"})
    return root


def test_sbd_adds_only_images_outside_the_lists_of_voc(with_sbd):
    train = open_source(with_sbd, DATASET, "train")
    assert [record.id for record in train] == ["1", "2", "4", "3"]
    assert [record.label_path.rpartition(".")[2] for record in train] == [
        "png",
        "png",
        "mat",
        "mat",
    ]
    for record in train:
        np.testing.assert_array_equal(decode(record, DATASET)["label"], LABEL)
    assert [record.id for record in open_source(with_sbd, DATASET, "val")] == ["5"]


def test_pngs_made_from_sbd_are_preferred(with_sbd):
    write(with_sbd, **{"SegmentationClassAug/6.png": png(LABEL)})
    write(with_sbd, **{"ImageSets/Segmentation/aug.txt": "6\n"})
    train = open_source(with_sbd, DATASET, "train")
    assert [record.id for record in train] == ["1", "2", "6"]


def test_a_zip_of_the_folder_gives_the_same(with_sbd, tmp_path):
    path = tmp_path / "voc.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(with_sbd.rglob("*.*")):
            if file != path:
                archive.write(file, f"VOCdevkit/VOC2012/{file.relative_to(with_sbd)}")
    folder, packed = (open_source(place, DATASET, "train") for place in (with_sbd, path))
    assert [(r.id, r.image, r.label) for r in packed] == [(r.id, r.image, r.label) for r in folder]


def test_without_sbd_its_folder_is_named(root):
    with pytest.raises(FileNotFoundError, match=r"(?s)no folder .*dataset/cls.*benchmark\.tgz"):
        open_source(root, DATASET, "train")


@pytest.mark.parametrize("options", [{}, {"do_compression": True}])
def test_the_mat_files_of_sbd_are_labels(options):
    np.testing.assert_array_equal(decode_label(mat(**options), path="a.mat"), LABEL)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (mat(name="GTinst"), r"a\.mat \(\d+ bytes\): KeyError\('GTcls'\)\. A \.mat label must be"),
        (mat()[:-40], r"Cannot decode the label a\.mat"),
        (mat()[:100], r"Cannot decode the label a\.mat"),
        (b"MATLAB 7.3 MAT-file" + bytes(600), r"Cannot decode the label a\.mat"),
        (mat(LABEL.astype(float)), r"of shape \(2, 3\) and type float64; it must be"),
        (mat(np.zeros((2, 2, 2), np.uint8)), r"of shape \(2, 2, 2\) and type uint8"),
    ],
    # Not the bytes: they hold the time, and test processes must agree on names.
    ids=["another field", "cut late", "cut early", "version 7.3", "float", "three axes"],
)
def test_other_mat_files_are_refused(data, message):
    with pytest.raises(ValueError, match=message):
        decode_label(data, path="a.mat")


class Canary:
    def __reduce__(self):
        return exec, ("raise SystemExit('executed')",)


def test_nothing_in_a_mat_file_is_executed():
    data = b"MATLAB 5.0 MAT-file".ljust(128, b" ") + pickle.dumps(Canary())
    with pytest.raises(ValueError, match="Cannot decode the label"):
        decode_label(data, path="a.mat")
