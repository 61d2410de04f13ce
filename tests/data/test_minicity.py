import json
import platform
import re
import time
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest

from benchmarks.colour_table import CLASSES, best_colour_table
from hrnet_jax.data import minicity
from hrnet_jax.data.minicity import writing

SMALL = {"height": 64, "width": 128}
KNOWN_IDS = set(range(34))  # of Cityscapes; -1, the license plate, does not fit a uint8


def write(root: Path, **changes) -> Path:
    options = {"train": 2, "val": 1, "height": 32, "width": 64, **changes}
    minicity.write(root, **options)
    return root


def contents(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*.png")}


def draw(split: str, count: int, **size) -> list:
    return [minicity.Entry(split, i, 0).draw(**size) for i in range(count)]


@pytest.fixture(scope="module")
def train_scenes():
    return draw("train", 8, **SMALL)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write(tmp_path_factory.mktemp("data") / "minicity")


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(root, tmp_path):
    first, again = contents(root), contents(write(tmp_path / "again"))
    other = contents(write(tmp_path / "other", seed=1))
    assert first == again
    assert first.keys() == other.keys()
    assert all(first[name] != other[name] for name in first)


def test_no_two_scenes_are_alike(root):
    files = contents(root)
    assert len(set(files.values())) == len(files) == 6


def test_asking_for_more_scenes_leaves_the_earlier_ones_unchanged(root, tmp_path):
    few = contents(root)
    more = contents(write(tmp_path / "more", train=3, val=2))
    assert len(more) == len(few) + 4
    assert {name: more[name] for name in few} == few


def test_several_processes_write_the_same_bytes_as_one(root, tmp_path):
    assert contents(write(tmp_path / "minicity", workers=2)) == contents(root)


def test_names_follow_cityscapes(tmp_path):
    root = write(tmp_path / "minicity", train=2, val=2, height=16, width=32)
    pattern = re.compile(
        r"(leftImg8bit|gtFine)/(train|val)/([a-z]+)/"
        r"\3_\d{6}_\d{6}_(leftImg8bit|gtFine_labelIds)\.png"
    )
    matches = [pattern.fullmatch(name) for name in contents(root)]
    assert None not in matches
    pictures = {m[0].replace("leftImg8bit", "") for m in matches if m and m[1] == "leftImg8bit"}
    labels = {
        m[0].replace("gtFine_labelIds", "").replace("gtFine", "")
        for m in matches
        if m and m[1] == "gtFine"
    }
    assert pictures == labels
    assert len(pictures) == 4
    cities = {split: {m[3] for m in matches if m and m[2] == split} for split in ("train", "val")}
    assert len(cities["train"]) > 1
    assert len(cities["val"]) > 1
    assert not cities["train"] & cities["val"]


def test_files_hold_the_drawn_scenes(root):
    for split in ("train", "val"):
        entry = minicity.Entry(split, 0, 0)
        image, label = entry.draw(height=32, width=64)
        stored = cv2.imread(str(root / entry.path("leftImg8bit")), cv2.IMREAD_UNCHANGED)
        np.testing.assert_array_equal(stored[..., ::-1], image)
        stored = cv2.imread(str(root / entry.path("gtFine")), cv2.IMREAD_UNCHANGED)
        np.testing.assert_array_equal(stored, label)


def test_the_facts_are_recorded(root):
    assert json.loads((root / "minicity.json").read_text()) == {
        "name": "minicity", "version": minicity.VERSION, "seed": 0, "train": 2, "val": 1,
        "height": 32, "width": 64,
    }  # fmt: skip


def test_an_interrupted_write_leaves_nothing(tmp_path, monkeypatch):
    written = []

    def fail_at_third(path, pixels):
        written.append(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"half")
        if len(written) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(writing, "_write_png", fail_at_third)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "minicity")
    assert len(written) == 3
    assert list(tmp_path.iterdir()) == []


def test_an_existing_folder_is_not_touched(tmp_path):
    root = tmp_path / "minicity"
    root.mkdir()
    (root / "mine.txt").write_text("precious")
    with pytest.raises(FileExistsError, match="minicity"):
        write(root)
    assert [p.name for p in root.iterdir()] == ["mine.txt"]


def test_leftovers_of_a_killed_write_are_removed(tmp_path, monkeypatch):
    node = platform.node()
    left, foreign = tmp_path / f".minicity.{node}.11.tmp", tmp_path / ".minicity.elsewhere.11.tmp"
    alive = tmp_path / f".minicity.{node}.22.tmp"
    for folder in (left, foreign, alive):
        (folder / "gtFine").mkdir(parents=True)
    monkeypatch.setattr(writing, "has_ended", lambda path: path.name.split(".")[-2] == "11")
    write(tmp_path / "minicity")
    assert set(tmp_path.iterdir()) == {tmp_path / "minicity", foreign, alive}


def test_an_interrupt_does_not_wait_for_scenes_that_have_not_begun(tmp_path):
    scenes = minicity.entries(train=200, val=0, seed=0)
    done = writing._each(partial(_draw_slowly, root=tmp_path), scenes, workers=2)
    next(done)
    done.close()
    assert len(list(tmp_path.iterdir())) < 20


def _draw_slowly(entry: minicity.Entry, *, root: Path) -> None:
    (root / entry.name).touch()
    time.sleep(0.05)


def test_every_scene_is_tracked(tmp_path):
    seen = []

    def track(scenes):
        for scene in scenes:
            yield scene
            seen.append(len(list(tmp_path.rglob("*labelIds.png"))))

    write(tmp_path / "minicity", train=2, val=1, track=track)
    assert seen == [1, 2, 3]


@pytest.mark.parametrize(("height", "width"), [(256, 512), (33, 65)])
def test_images_and_labels_have_the_requested_size(height, width):
    image, label = minicity.draw_scene(np.random.default_rng(0), height=height, width=width)
    assert image.shape == (height, width, 3)
    assert label.shape == (height, width)
    assert image.dtype == label.dtype == np.uint8


def test_labels_are_known_and_every_class_is_frequent(train_scenes):
    present = [set(np.unique(label).tolist()) for _, label in train_scenes]
    assert set().union(*present) <= KNOWN_IDS
    frequency = {name: sum(i in ids for ids in present) for i, name in CLASSES.items()}
    assert min(frequency.values()) >= len(train_scenes) // 3, frequency


def test_ignored_ids_occur(train_scenes):
    present = set(np.unique([label for _, label in train_scenes]).tolist())
    assert {1, 4, 9} <= present - CLASSES.keys()


def test_colour_alone_does_not_solve_it(train_scenes):
    results = best_colour_table(train_scenes, draw("val", 4, **SMALL))
    assert max(float(np.nanmean(ious)) for ious in results.values()) < 0.2


def test_the_colour_table_solves_what_colour_alone_solves(train_scenes):
    """The test above can fail: images painted by their labels are solved."""
    painted = [(np.stack([label % 32 * 8, label // 32 * 8, label * 0], 2), label)
               for _, label in train_scenes]  # fmt: skip
    results = best_colour_table(painted, painted)
    np.testing.assert_array_equal(results["plain"], 1.0)
