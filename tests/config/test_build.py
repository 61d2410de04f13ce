import io
import itertools
import json
import shutil

import cv2
import jax
import numpy as np
import pytest
from rich.console import Console

from hrnet_jax.config.build import Setup
from hrnet_jax.runs.terminal import Terminal
from tests.interop.tiny_files import backbone_state, mmseg_state, write
from tests.tiny_config import get_config


@pytest.fixture
def setup(tiny_city):
    config = get_config()
    config.data.root, config.model.variant = str(tiny_city), "tiny"
    return Setup(config, terminal=Terminal(Console(file=io.StringIO(), width=200)))


def test_a_compiled_shape_is_that_of_the_batches(setup, tmp_path):
    batches = setup.train_batches(0, workdir=tmp_path)
    batch = next(batches)
    for name, expected in setup.batch_shape().items():
        assert batch[name].shape == expected.shape
        assert batch[name].dtype == expected.dtype
    batches.close()


def test_the_step_is_the_position_in_the_data(setup, tmp_path):
    from_zero, from_two = (
        setup.train_batches(0, workdir=tmp_path),
        setup.train_batches(2, workdir=tmp_path),
    )
    for _ in range(2):
        next(from_zero)
    for _ in range(2):
        a, b = next(from_zero), next(from_two)
        np.testing.assert_array_equal(a["image"], b["image"])
        assert a["id"].tolist() == b["id"].tolist()
    from_zero.close()
    from_two.close()


def test_sizes_that_the_mesh_cannot_share_are_refused_before_anything_is_read(setup):
    setup.config.mesh.height = 2
    setup.config.data.root = "nowhere"
    with pytest.raises(ValueError, match=r"crop_size has 32 rows.* use a multiple of 64"):
        Setup(setup.config, terminal=setup.terminal).check_training()
    setup.config.train.crop_size = (64, 64)
    setup.config.train.accumulate = 4
    with pytest.raises(ValueError, match=r"batch_size=8 cannot .* use a multiple of 16"):
        Setup(setup.config, terminal=setup.terminal).check_training()


def test_a_config_that_cannot_work_is_refused_whoever_made_it(setup):
    setup.config.eval.stride = (500, 500)
    with pytest.raises(ValueError, match=r"config.eval.stride=\(500, 500\) must not exceed"):
        Setup(setup.config, terminal=setup.terminal)


def test_the_shapes_of_a_state_are_those_of_the_state(setup):
    optimizer, _ = setup.optimizer()
    state = setup.initial_state(optimizer)
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), state) == jax.tree.map(
        lambda leaf: (leaf.shape, leaf.dtype), setup.state_shape(optimizer)
    )


def test_float64_is_float64_throughout(default_precision, setup):
    setup.config.model.dtype = "float64"
    again = Setup(setup.config, terminal=setup.terminal)
    state = again.initial_state(again.optimizer()[0])
    assert {leaf.dtype.name for leaf in (state.weights, state.running)} == {"float64"}
    assert jax.config.jax_default_matmul_precision == "highest"


def test_a_checkpoint_says_all_that_prediction_needs(setup):
    meta = setup.meta()
    assert meta["variant"] == "tiny"
    assert len(meta["classes"]) == len(meta["palette"]) == 19
    assert meta["mean"] == (123.675, 116.28, 103.53)
    assert meta["config"]["eval"]["image_size"] == (64, 128)


def test_what_would_stop_training_is_found_first(setup):
    setup.config.data.root = "/nowhere"
    with pytest.raises(FileNotFoundError, match="/nowhere"):
        setup.check_training()


def test_a_zip_of_the_folder_is_a_root_as_well(setup, tiny_city, tmp_path):
    folder = next(setup.train_batches(0, workdir=tmp_path))
    setup.config.data.root = shutil.make_archive(str(tmp_path / "city"), "zip", tiny_city)
    packed = Setup(setup.config, terminal=setup.terminal)
    packed.check_training()
    np.testing.assert_array_equal(
        next(packed.train_batches(0, workdir=tmp_path))["image"], folder["image"]
    )


def test_a_run_introduces_itself(setup):
    setup.describe(start=0)
    text = setup.terminal.console.file.getvalue()
    for part in (
        "tiny",
        "19 classes",
        "random weights",
        "8 train and 4 val",
        "4.0 epochs",
        "8 cpu",
    ):
        assert part in text, part


def test_training_starts_from_a_file_and_says_so(setup, tmp_path):
    state = mmseg_state(19)
    setup.config.init_from = str(write(tmp_path / "start.pth", state, CLASSES=None))
    first = setup.initial_state(setup.optimizer()[0])
    kernel = first.params["backbone"]["conv1"]["kernel"]
    np.testing.assert_array_equal(
        np.asarray(kernel).transpose(3, 2, 0, 1), state["backbone.conv1.weight"]
    )
    setup.describe(start=0)
    text = setup.terminal.console.file.getvalue()
    assert "from start.pth (mmsegmentation): 265 tensors of the backbone, 7 of the head" in text


def test_a_backbone_leaves_the_head_random(setup, tmp_path):
    random = setup.initial_state(setup.optimizer()[0]).params["decode_head"]
    setup.config.init_from = str(write(tmp_path / "w18.pth", backbone_state()))
    first = setup.initial_state(setup.optimizer()[0])
    jax.tree.map(np.testing.assert_array_equal, first.params["decode_head"], random)
    setup.describe(start=0)
    assert "the 7 of the head are random" in setup.terminal.console.file.getvalue()


def test_a_resumed_run_does_not_read_the_file_again(setup):
    setup.config.init_from = "/nowhere.pth"
    setup.initial_state(setup.optimizer()[0], resuming=True)
    with pytest.raises(FileNotFoundError, match=r"/nowhere.pth"):
        setup.initial_state(setup.optimizer()[0])


def test_a_published_recipe_without_its_backbone_is_a_loud_start(setup):
    setup.initial_state(setup.optimizer()[0])
    assert "Warning" not in setup.terminal.console.file.getvalue()
    with setup.config.unlocked():
        setup.config.data.name = "cityscapes"
    setup.initial_state(setup.optimizer()[0])
    text = setup.terminal.console.file.getvalue()
    assert "Warning: training starts from random weights" in text
    assert "--config.init_from=FILE" in text


def test_training_validates_on_the_validation_split_only(setup):
    setup.config.eval.split = "train"
    assert len(setup.validation) == 8
    with pytest.raises(ValueError, match=r"eval.split='train' is for --mode eval; training valid"):
        setup.check_training()


def test_a_limit_shortens_what_is_evaluated(setup):
    setup.config.eval.limit = 3
    names = [example["id"] for example in setup.validation_examples()]
    assert names == [setup.validation[index].id for index in range(3)]
    assert len(setup.validation) == 3


def plant(setup, tmp_path, *, split, number=0):
    """Give the setup a copy of its data in which one label has an illegal pixel."""
    root = tmp_path / "city"
    shutil.copytree(setup.config.data.root, root)
    setup.config.data.root = str(root)
    path = sorted((root / "gtFine" / split).rglob("*labelIds.png"))[number]
    raw = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    raw[5, 6] = 99
    cv2.imwrite(str(path), raw)
    return path


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_sample_of_the_labels_is_examined_before_training(setup, tmp_path, split):
    path = plant(setup, tmp_path, split=split)
    with pytest.raises(ValueError, match="holds values outside") as error:
        setup.check_training()
    for text in (str(path), "value 99: 1 pixels, the first at (y=5, x=6)", "--mode doctor"):
        assert text in str(error.value)


def test_a_clean_sample_is_examined_in_silence(setup):
    setup.check_training()
    assert setup.terminal.console.file.getvalue() == ""


def test_quarantine_trains_without_the_file_and_lists_it_once(setup, tmp_path):
    path = plant(setup, tmp_path, split="train")
    with pytest.raises(ValueError, match="value 99"):
        list(itertools.islice(setup.train_batches(0, workdir=tmp_path), 2))
    setup.config.data.on_error = "quarantine"
    setup.check_training()
    for _ in range(2):  # a resumed run knows what is listed
        batches = setup.train_batches(0, workdir=tmp_path)
        for batch in itertools.islice(batches, 3):
            assert path.name.removesuffix("_gtFine_labelIds.png") not in "".join(batch["id"])
        batches.close()
    (line,) = (tmp_path / "quarantine.jsonl").read_text().splitlines()
    entry = json.loads(line)
    assert entry["bad"] == entry["label"] == str(path)
    assert "value 99" in entry["reason"]
    assert "lists 1 so far" in setup.terminal.console.file.getvalue()


def test_quarantine_does_not_cover_the_validation_split(setup, tmp_path):
    plant(setup, tmp_path, split="val")
    setup.config.data.on_error = "quarantine"
    with pytest.raises(ValueError, match="holds values outside"):
        setup.check_training()
