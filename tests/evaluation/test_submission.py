import numpy as np
import pytest
from PIL import Image

from hrnet_jax.data.dataset import folder_dataset
from hrnet_jax.data.datasets.cityscapes import DATASET as CITYSCAPES
from hrnet_jax.evaluation.submission import Predictions, Submission, submitted_values

ADE = folder_dataset(classes=tuple(f"class {i}" for i in range(150)), name="ade20k")


def example(name):
    return {"id": name, "image": np.zeros((2, 3, 3), np.uint8), "label": np.zeros((2, 3), np.uint8)}


def test_cityscapes_wants_the_ids_of_its_own_label_files(tmp_path):
    predicted = np.array([[0, 1, 18], [10, 13, 16]], np.uint8)
    submission = Submission(tmp_path, CITYSCAPES, "cityscapes")
    submission(example("berlin/berlin_000000_000019"), predicted)
    (path,) = tmp_path.iterdir()
    assert submission.stale_files() == []
    (tmp_path / "old.png").touch()
    assert submission.stale_files() == ["old.png"]
    assert path.name == "berlin_000000_000019_leftImg8bit.png"
    written = Image.open(path)
    assert written.mode == "L"
    np.testing.assert_array_equal(np.asarray(written), [[7, 8, 33], [23, 26, 31]])


def test_every_submitted_id_is_read_back_as_its_class():
    values, (table, _) = submitted_values(CITYSCAPES, "cityscapes"), CITYSCAPES.lookup_table()
    np.testing.assert_array_equal(table[values[:19]], np.arange(19))


def test_ade20k_wants_the_index_plus_one(tmp_path):
    Submission(tmp_path, ADE, "ade20k")(
        example("ADE_test_00000001"), np.array([[0, 1], [2, 149]], np.uint8)
    )
    written = np.asarray(Image.open(tmp_path / "ADE_test_00000001.png"))
    np.testing.assert_array_equal(written, [[1, 2], [3, 150]])


@pytest.mark.parametrize(
    ("dataset", "form", "message"),
    [
        (
            CITYSCAPES,
            "ade20k",
            r"--submission=ade20k is for its 150 classes, but cityscapes has 19",
        ),
        (
            ADE,
            "cityscapes",
            r"34 ids and 19 classes of its label files, but ade20k has 151 and 150",
        ),
    ],
)
def test_a_submission_of_other_classes_is_refused(dataset, form, message):
    with pytest.raises(ValueError, match=message):
        submitted_values(dataset, form)


def test_two_images_may_not_become_one_file(tmp_path):
    submission = Submission(tmp_path, ADE, "ade20k")
    submission(example("x/1"), np.zeros((2, 3), np.uint8))
    with pytest.raises(ValueError, match=r"x/1 and y/1 would both become 1\.png"):
        submission(example("y/1"), np.zeros((2, 3), np.uint8))


def test_predictions_hold_indices_and_colours_in_the_folders_of_their_images(tmp_path):
    predicted = np.array([[0, 18]], np.uint8)
    Predictions(tmp_path, CITYSCAPES)(example("ulm/1"), predicted)
    written = Image.open(tmp_path / "ulm" / "1.png")
    np.testing.assert_array_equal(np.asarray(written), predicted)
    np.testing.assert_array_equal(np.asarray(written.convert("RGB"))[0, 1], [119, 11, 32])


def test_nothing_is_written_outside_of_the_folder(tmp_path):
    with pytest.raises(ValueError, match=r"\.\./evil\.png would lie outside of .*inside"):
        Predictions(tmp_path / "inside", CITYSCAPES)(example("../evil"), np.zeros((1, 1), np.uint8))
    assert not list(tmp_path.rglob("*.png"))
