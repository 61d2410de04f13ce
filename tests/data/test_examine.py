"""Every planted fault is found and named; clean data of any kind stays unsuspected."""

import dataclasses
import io

import cv2
import numpy as np
import pytest
from PIL import Image as PILImage

from hrnet_jax.data.dataset import folder_dataset
from hrnet_jax.data.datasets.cityscapes import DATASET as CITYSCAPES
from hrnet_jax.data.examine import (
    SUGGESTIONS,
    class_weights,
    count_values,
    examine,
    spread,
    wrong_counts,
)
from hrnet_jax.data.sources.folder import FolderSource, Record

PETS = folder_dataset(classes=("cat", "dog", "owl"))
ADE_MAP = {0: 255} | {raw: raw - 1 for raw in range(1, 151)}
ADE = folder_dataset(classes=tuple(f"c{i}" for i in range(150)), label_map=ADE_MAP)
CONTEXT_59 = folder_dataset(
    classes=tuple(f"c{i}" for i in range(1, 60)),
    label_map={0: 255} | {raw: raw - 1 for raw in range(1, 60)},
)
CONTEXT_60 = folder_dataset(classes=("background", *(f"c{i}" for i in range(1, 60))))
VOC = folder_dataset(classes=("background", *(f"c{i}" for i in range(1, 21))))
PLAIN_19, PLAIN_150, PLAIN_59 = (
    folder_dataset(classes=tuple(f"c{i}" for i in range(count))) for count in (19, 150, 59)
)


@dataclasses.dataclass
class Memory:
    """A source of encoded files."""

    files: list[tuple[bytes, bytes]]
    name: str = "train"

    def __len__(self):
        return len(self.files)

    def paths(self, index):
        return f"{self.name}/{index}.jpg", f"{self.name}/{index}.png"

    def __getitem__(self, index):
        (image, label), (image_path, label_path) = self.files[index], self.paths(index)
        return Record(
            id=str(index), image=image, label=label, image_path=image_path, label_path=label_path
        )


def png(array):
    return cv2.imencode(".png", np.asarray(array))[1].tobytes()


def image(seed, height=12, width=17):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def labels(values, *, number=6, height=12, width=17):
    """Labels in which each value occurs."""
    drawn = np.resize(np.asarray(list(values), np.uint8), (number, height, width))
    shuffled = np.random.default_rng(0).permuted(drawn.reshape(number, -1), axis=1)
    return list(shuffled.reshape(drawn.shape))


def source(raws, *, name="train", first=0):
    return Memory([(png(image(first + i)), png(raw)) for i, raw in enumerate(raws)], name)


def findings(files, dataset=PETS, **others):
    return examine({"train": files, **others}, dataset, threads=2)[0]


def with_fault(*, image_bytes=None, label_bytes=None, at=3):
    files = source(labels([0, 1, 2, 255])).files
    files[at] = (image_bytes or files[at][0], label_bytes or files[at][1])
    return Memory(files)


# Faults of files.


def test_one_illegal_pixel_is_named_with_value_count_and_place():
    raws = labels([0, 1, 2, 255])
    raws[4][7, 5] = 99
    (finding,) = findings(source(raws))
    assert (finding.kind, finding.split, finding.files) == ("values", "train", ["train/4.png"])
    assert "value 99: 1 pixels, the first at (y=7, x=5)" in finding.details[0]
    assert "1 of 12 files hold values outside the label mapping, 1 pixels in all" in finding.problem
    assert "Legal values: 0-2, 255" in finding.details[0]


def test_the_worst_file_comes_first():
    raws = labels([0, 1, 2])
    raws[1][0, 0] = raws[5][0, :3] = raws[2][0, :2] = 50
    (finding,) = findings(source(raws))
    assert finding.files == ["train/5.png", "train/2.png", "train/1.png"]


def rotated(array):
    file, tags = io.BytesIO(), PILImage.Exif()
    tags[0x0112] = 6
    PILImage.fromarray(array).save(file, "JPEG", exif=tags)
    return file.getvalue()


def changed_bit(data):
    damaged = bytearray(data)
    damaged[len(data) // 2] ^= 1
    return bytes(damaged)


FAULTS = {
    "empty image": (dict(image_bytes=b" "), "unreadable", "3.jpg", "damaged or no image"),
    "cut image": (dict(image_bytes=png(image(3))[:-99]), "unreadable", "3.jpg", "ends too early"),
    "flipped bit": (
        dict(image_bytes=changed_bit(png(image(3)))), "unreadable", "3.jpg", "bits have changed",
    ),
    "cut label": (
        dict(label_bytes=png(labels([0, 1])[3])[:-20]), "unreadable", "3.png", "ends too early",
    ),
    "text": (dict(image_bytes=b"<html>"), "unreadable", "3.jpg", "web page"),
    "colour label": (dict(label_bytes=png(image(9))), "format", "3.png", "colours, not those of"),
    "painted label": (
        dict(label_bytes=png(np.asarray(PETS.palette, np.uint8)[labels([0, 1, 2])[3]][..., ::-1])),
        "format", "3.png", "replace each by its class's value",
    ),
    "grey as RGB": (
        dict(label_bytes=png(np.dstack([labels([0, 1, 2])[3]] * 3))),
        "format", "3.png", "keep one of them",
    ),
    "wide values": (
        dict(label_bytes=png(np.full((12, 17), 300, np.uint16))), "values", "3.png", "up to 300",
    ),
    "black 16 bit": (
        dict(image_bytes=png(np.full((12, 17), 99, np.uint16))), "format", "3.jpg", "almost black",
    ),
    "other size": (dict(image_bytes=png(image(3, 13, 17))), "size", "3.png", "13 x 17"),
    "transposed": (dict(image_bytes=png(image(3, 17, 12))), "size", "3.png", "transposed"),
    "rotated": (dict(image_bytes=rotated(image(3))), "size", "3.png", "EXIF rotation"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_found(fault):
    planted, kind, path, text = FAULTS[fault]
    (finding,) = findings(with_fault(**planted))
    assert finding.kind == kind
    assert finding.files == [f"train/{path}"]
    assert text in finding.details[0]
    assert finding.suggestion == SUGGESTIONS[kind]
    assert finding.stops_training


def test_a_dataset_of_painted_labels_is_one_finding():
    painted = [np.asarray(PETS.palette, np.uint8)[raw][..., ::-1] for raw in labels([0, 1, 2])]
    (finding,) = findings(source(painted))
    assert finding.kind == "format"
    assert len(finding.files) == 6


def test_copies_within_and_across_splits_are_named():
    files = source(labels([0, 1, 2]))
    files.files[5] = (files.files[0][0], files.files[5][1])
    val = source(labels([0, 1, 2]), name="val", first=100)
    val.files[2] = (files.files[4][0], val.files[2][1])
    twice, overlap = findings(files, val=val)
    assert (twice.kind, twice.files) == ("twice", ["train/5.jpg"])
    assert (overlap.kind, overlap.files) == ("overlap", ["val/2.jpg"])
    assert overlap.details == ["val/2.jpg\n  is also train/4.jpg"]
    assert "images of val that are in train too, byte for byte: 1" in overlap.problem


def test_files_that_are_gone_are_findings(tmp_path):
    class Gone(Memory):
        def __getitem__(self, index):
            if index == 2:
                raise FileNotFoundError(2, "No such file", "train/2.jpg")
            return super().__getitem__(index)

    (finding,) = findings(Gone(source(labels([0, 1])).files))
    assert finding.kind == "unreadable"
    assert finding.files == ["train/2.jpg"]


def test_all_problems_with_pairs_are_heard_and_the_rest_is_read(tmp_path):
    layout = {"images/train": ("a.jpg", "b.jpg"), "labels/train": ("a.png", "c.png")}
    for folder, names in layout.items():
        (tmp_path / folder).mkdir(parents=True)
        for name in names:
            (tmp_path / folder / name).touch()
    heard = []
    files = FolderSource(
        tmp_path, PETS, "train", on_problem=lambda problem, names: heard.append((problem, names))
    )
    assert [names for _, names in heard] == [["c"], ["b"]]
    assert "labels of dataset 'custom' have no image: c." in heard[0][0]
    assert "images of dataset 'custom' have no label: b." in heard[1][0]
    assert [files.paths(i)[0][-5:] for i in range(len(files))] == ["a.jpg"]


def test_only_official_counts_can_be_wrong():
    official = dataclasses.replace(PETS, counts={"train": 6, "val": 3})
    train, val = source(labels([0, 1, 2])), source(labels([0, 1, 2], number=2))
    assert wrong_counts(PETS, {"train": train, "val": val}) == []  # none are known
    assert wrong_counts(official, {"train": train}) == []
    (finding,) = wrong_counts(official, {"train": train, "val": val})
    assert (finding.kind, finding.split, finding.stops_training) == ("count", "val", False)
    assert finding.problem == "2 examples, but custom has 3 officially"
    assert finding.suggestion == SUGGESTIONS["count"]
    by_default = dataclasses.replace(official, counts_are_official=False)
    assert wrong_counts(by_default, {"train": train, "val": val}) == []


# What all labels together tell.

MEANINGS = {
    "binary mask": ([0, 255], PETS, "0 and 255 only: binary masks?"),
    "binary mask, one class more": (
        [0, 255], folder_dataset(classes=("no", "yes"), label_map={0: 0, 1: 1}), "binary masks?",
    ),
    "scaled for the eye": ([0, 85, 170], PETS, "multiples of 85"),
    "one value": ([1], PETS, "every pixel of every label is 1"),
    "labelIds for trainIds": ([0, 7, 8, 11, 21, 23, 26], PLAIN_19, "Cityscapes' labelIds"),
    "trainIds for labelIds": (range(19), CITYSCAPES, "look like class indices"),
    "trainIds with 255": ([*range(19), 255], CITYSCAPES, "look like class indices"),
    "classes from 1": ([0, 1, 2, 3], PETS, "classes counted from 1, with 0 for unlabelled"),
    "ADE20K as indices": (range(151), PLAIN_150, "as in ADE20K's files"),
    "some of ADE20K as indices": ([0, 1, 4, 17], PLAIN_150, "look like ADE20K's own files"),
    "ADE20K mapped twice": ([0, 3, 149, 255], ADE, "look already mapped"),
    "Context 60 as 59": (range(60), PLAIN_59, "as in Pascal Context's 60 classes"),
    "Context 59 as 60": ([0, 5, 58, 255], CONTEXT_60, "look like Pascal Context's 59 classes"),
    "Context 59 mapped twice": ([0, 5, 58, 255], CONTEXT_59, "look already mapped"),
}  # fmt: skip


@pytest.mark.parametrize("meaning", MEANINGS)
def test_labels_of_another_meaning_get_the_right_proposal(meaning):
    values, dataset, text = MEANINGS[meaning]
    (finding,) = [f for f in findings(source(labels(values)), dataset) if f.kind == "meaning"]
    assert text in finding.problem
    assert not finding.stops_training
    assert finding.suggestion


CLEAN = {
    "pets": ([0, 1, 2, 255], PETS),
    "pets without 255": ([0, 1, 2], PETS),
    "rare last class": ([0, 1], PETS),
    "VOC": ([0, 3, 15, 255], VOC),
    "cityscapes": ([0, 1, 7, 8, 11, 21, 23, 26], CITYSCAPES),
    "ADE20K": ([0, 1, 3, 17, 150], ADE),
    "some of ADE20K": ([0, 1, 3, 17], ADE),
    "ADE20K, mapped": ([0, 3, 17, 149, 255], PLAIN_150),
    "Context 60": ([0, 3, 15, 59], CONTEXT_60),
    "Context 59": ([0, 3, 15, 59], CONTEXT_59),
    "mask": ([0, 1], folder_dataset(classes=("no", "yes"))),
    "mask of 255": (
        [0, 255], folder_dataset(classes=("no", "yes"), label_map={0: 0, 255: 1}),
    ),
}  # fmt: skip


@pytest.mark.parametrize("clean", CLEAN)
def test_clean_data_raises_no_alarm(clean):
    values, dataset = CLEAN[clean]
    val = source(labels(values, number=3), name="val", first=100)
    assert findings(source(labels(values)), dataset, val=val) == []


def test_minicity_is_clean(tiny_city):
    dataset = dataclasses.replace(CITYSCAPES, name="minicity")
    sources = {split: FolderSource(tiny_city, dataset, split) for split in ("train", "val")}
    found, statistics = examine(sources, dataset)
    assert found == []
    assert statistics["train"].examples == 8
    assert statistics["train"].sizes == {(64, 128): 8}
    assert statistics["val"].image_kinds == {"PNG": 4}


# Statistics.


def test_statistics_count_every_pixel_by_value_and_by_class():
    dataset = folder_dataset(classes=("a", "b"), label_map={0: 0, 5: 0, 1: 1, 9: 255})
    raws = [np.array([[0, 5, 5, 1]], np.uint8), np.array([[9, 9, 1, 1]], np.uint8)]
    files = Memory([(png(image(i, 1, 4)), png(raw)) for i, raw in enumerate(raws)])
    _, statistics = examine({"train": files}, dataset)
    assert {v: n for v, n in enumerate(statistics["train"].pixels) if n} == {0: 1, 1: 3, 5: 2, 9: 2}
    assert statistics["train"].class_pixels.tolist() == [3, 3]
    assert statistics["train"].class_labels.tolist() == [1, 2]


def test_counts_are_exact_beyond_what_a_float_holds():
    raw = np.zeros((4097, 4099), np.uint8)
    raw[0, 0] = 7
    counts = count_values(raw)
    assert (counts[0], counts[7]) == (4097 * 4099 - 1, 1)


def test_class_weights_are_one_on_average_and_rare_classes_weigh_more():
    pixels = np.array([900, 100, 0])
    weights = class_weights(pixels)
    np.testing.assert_allclose((pixels / 1000 * weights).sum(), 1)
    np.testing.assert_allclose(weights[1] / weights[0], 3)  # the square root of 9
    assert weights[2] == weights[1]


def test_a_sample_is_spread_evenly_and_deterministically():
    assert spread(10, 3) == [0, 3, 6]
    assert list(spread(3, 10)) == list(spread(3, None)) == [0, 1, 2]
    files = source(labels([0, 1, 2], number=20))
    _, statistics = examine({"train": files, "val": files}, PETS, limit=9)
    assert [sums.examples for sums in statistics.values()] == [5, 5]
