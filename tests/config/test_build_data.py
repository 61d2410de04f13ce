import io
import itertools
import json
import shutil

import cv2
import numpy as np
import pytest
from rich.console import Console

from hrnet_jax.config.build_data import build_data, check_some_examples, open_split
from hrnet_jax.config.build_training import build_training
from hrnet_jax.runs.terminal import Terminal
from tests.tiny_config import get_config


@pytest.fixture
def config(tiny_city):
    config = get_config()
    config.data.root = str(tiny_city)
    return config


@pytest.fixture
def terminal():
    return Terminal(Console(file=io.StringIO(), width=200))


def check(config, terminal):
    validation = open_split(config, "val", terminal=terminal)
    check_some_examples(build_data(config, terminal=terminal), validation=validation)


def first_batch(config, terminal, workdir):
    batches = build_data(config, terminal=terminal).batches(0, workdir=workdir)
    batch = next(batches)
    batches.close()
    return batch


def test_batches_have_the_shape_that_the_step_is_compiled_for(config, terminal, tmp_path):
    batch = first_batch(config, terminal, tmp_path)
    for name, expected in build_training(config).batch_shape.items():
        assert batch[name].shape == expected.shape
        assert batch[name].dtype == expected.dtype


def test_the_step_is_the_position_in_the_data(config, terminal, tmp_path):
    data = build_data(config, terminal=terminal)
    from_zero, from_two = (data.batches(step, workdir=tmp_path) for step in (0, 2))
    for _ in range(2):
        next(from_zero)
    for _ in range(2):
        a, b = next(from_zero), next(from_two)
        np.testing.assert_array_equal(a["image"], b["image"])
        assert a["id"].tolist() == b["id"].tolist()
    from_zero.close()
    from_two.close()


def test_an_epoch_has_as_many_steps_as_there_are_batches(config, terminal):
    assert build_data(config, terminal=terminal).steps_per_epoch == 1


def test_missing_data_are_named(config, terminal):
    config.data.root = "/nowhere"
    with pytest.raises(FileNotFoundError, match="/nowhere"):
        build_data(config, terminal=terminal)


def test_a_zip_of_the_folder_is_a_root_as_well(config, terminal, tiny_city, tmp_path):
    folder = first_batch(config, terminal, tmp_path)
    config.data.root = shutil.make_archive(str(tmp_path / "city"), "zip", tiny_city)
    check(config, terminal)
    packed = first_batch(config, terminal, tmp_path)
    np.testing.assert_array_equal(packed["image"], folder["image"])


def plant(config, tmp_path, *, split):
    """Give the config a copy of its data in which one label has an illegal pixel."""
    root = tmp_path / "city"
    shutil.copytree(config.data.root, root)
    config.data.root = str(root)
    path = sorted((root / "gtFine" / split).rglob("*labelIds.png"))[0]
    raw = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    raw[5, 6] = 99
    cv2.imwrite(str(path), raw)
    return path


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_sample_of_the_labels_is_examined_before_training(config, terminal, tmp_path, split):
    path = plant(config, tmp_path, split=split)
    with pytest.raises(ValueError, match="holds values outside") as error:
        check(config, terminal)
    for text in (str(path), "value 99: 1 pixels, the first at (y=5, x=6)", "--mode doctor"):
        assert text in str(error.value)


def test_a_clean_sample_is_examined_in_silence(config, terminal):
    check(config, terminal)
    assert terminal.console.file.getvalue() == ""


def test_quarantine_trains_without_the_file_and_lists_it_once(config, terminal, tmp_path):
    path = plant(config, tmp_path, split="train")
    stopping = build_data(config, terminal=terminal)
    with pytest.raises(ValueError, match="value 99"):
        list(itertools.islice(stopping.batches(0, workdir=tmp_path), 2))
    config.data.on_error = "quarantine"
    check(config, terminal)
    for _ in range(2):  # a resumed run knows what is listed
        batches = build_data(config, terminal=terminal).batches(0, workdir=tmp_path)
        for batch in itertools.islice(batches, 3):
            assert path.name.removesuffix("_gtFine_labelIds.png") not in "".join(batch["id"])
        batches.close()
    (line,) = (tmp_path / "quarantine.jsonl").read_text().splitlines()
    entry = json.loads(line)
    assert entry["bad"] == entry["label"] == str(path)
    assert "value 99" in entry["reason"]
    assert "lists 1 so far" in terminal.console.file.getvalue()


def test_quarantine_does_not_cover_the_validation_split(config, terminal, tmp_path):
    plant(config, tmp_path, split="val")
    config.data.on_error = "quarantine"
    with pytest.raises(ValueError, match="holds values outside"):
        check(config, terminal)
