"""Every fault planted in a file is detected and named."""

import io

import numpy as np
import pytest
from PIL import Image as PILImage

from hrnet_jax.data.check_example import count_values
from hrnet_jax.data.findings import SUGGESTIONS
from tests.data.in_memory import PETS, Memory, findings, image, labels, png, source


def with_fault(*, image_bytes=None, label_bytes=None, at=3):
    files = source(labels([0, 1, 2, 255])).files
    files[at] = (image_bytes or files[at][0], label_bytes or files[at][1])
    return Memory(files)


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
    "colour label": (dict(label_bytes=png(image(9))), "format", "3.png", "not in the palette of"),
    "painted label": (
        dict(label_bytes=png(np.asarray(PETS.palette, np.uint8)[labels([0, 1, 2])[3]][..., ::-1])),
        "format", "3.png", "replace each colour by its class",
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


def test_files_that_are_gone_are_findings():
    class Gone(Memory):
        def __getitem__(self, index):
            if index == 2:
                raise FileNotFoundError(2, "No such file", "train/2.jpg")
            return super().__getitem__(index)

    (finding,) = findings(Gone(source(labels([0, 1])).files))
    assert finding.kind == "unreadable"
    assert finding.files == ["train/2.jpg"]


def test_counts_are_exact_beyond_what_a_float_holds():
    raw = np.zeros((4097, 4099), np.uint8)
    raw[0, 0] = 7
    counts = count_values(raw)
    assert (counts[0], counts[7]) == (4097 * 4099 - 1, 1)
