import dataclasses
import io
import itertools
import json
import re
import shutil

import numpy as np
import pytest
from rich.console import Console

from hrnet_jax.commands import prepare as prepare_module
from hrnet_jax.commands.prepare import prepare
from hrnet_jax.data.context_labels import ANNOTATIONS
from hrnet_jax.data.datasets import DATASETS
from hrnet_jax.data.pipeline import train_batches
from hrnet_jax.data.sources.folder import FileSource
from hrnet_jax.data.sources.open import open_source
from hrnet_jax.data.transforms import train_transforms
from hrnet_jax.runs.paths import to_path
from hrnet_jax.runs.terminal import Terminal

MINICITY = DATASETS["minicity"]
MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


@pytest.fixture
def terminal():
    return Terminal(Console(file=io.StringIO(), width=200))


def said(terminal):
    return terminal.console.file.getvalue()


def test_the_prepared_form_gives_the_examples_of_the_folder(tiny_city, tmp_path, terminal):
    prepare(tiny_city, MINICITY, output=tmp_path, terminal=terminal)
    for split in ("train", "val"):
        folder, prepared = (open_source(root, MINICITY, split) for root in (tiny_city, tmp_path))
        assert [(r.id, r.image, r.label) for r in prepared] == [
            (r.id, r.image, r.label) for r in folder
        ]
    text = said(terminal)
    assert "officially" not in text  # it may be drawn in any number
    assert "train: 8 examples, every CRC-32 correct" in text
    assert f"--config.data.root={tmp_path}/minicity/1.0.0" in text
    assert [path.name for path in tmp_path.iterdir()] == ["minicity"]


def test_wrong_counts_are_warned_of(tiny_city, tmp_path, terminal):
    prepare(tiny_city, DATASETS["cityscapes"], output=tmp_path, terminal=terminal)
    text = said(terminal).replace("\n", " ")
    assert "Warning: train: 8 examples, but cityscapes has 2975 officially. Unpack the" in text
    assert "Warning: val: 4 examples, but cityscapes has 500 officially." in text


def test_folder_zip_and_shards_give_the_same_batches_bit_for_bit(tiny_city, tmp_path, terminal):
    prepare(tiny_city, MINICITY, output=tmp_path, terminal=terminal)
    packed = shutil.make_archive(str(tmp_path / "city"), "zip", tiny_city)
    transforms = train_transforms(
        image_size=(64, 128), crop_size=(32, 64), ratio_range=(0.5, 2.0), mean=MEAN, std=STD
    )

    def batches(root):
        stream = train_batches(
            open_source(root, MINICITY, "train"),
            MINICITY,
            transforms=transforms,
            batch_size=2,
            seed=3,
            start_step=1,
        )
        return list(itertools.islice(stream, 5))

    folder, *others = (batches(root) for root in (tiny_city, packed, tmp_path / "minicity"))
    for other in others:
        for one, two in zip(folder, other, strict=True):
            for key in ("image", "label", "id"):
                np.testing.assert_array_equal(one[key], two[key])


def test_what_is_there_already_is_checked_not_written(tiny_city, tmp_path, terminal):
    prepare(tiny_city, MINICITY, output=tmp_path, terminal=terminal)
    (shard,) = tmp_path.glob("minicity/1.0.0/*-val*")
    before = shard.stat().st_mtime_ns
    prepare(tiny_city, MINICITY, output=tmp_path, terminal=terminal)
    assert "exists already; checking it." in said(terminal)
    assert shard.stat().st_mtime_ns == before
    shard.write_bytes(shard.read_bytes()[:-5000])
    with pytest.raises(ValueError, match="damaged"):
        prepare(tiny_city, MINICITY, output=tmp_path, terminal=terminal)


@pytest.mark.parametrize("failure", [KeyboardInterrupt, OSError("No space left on device")])
def test_an_interrupted_run_leaves_nothing_and_the_next_one_succeeds(
    tiny_city, tmp_path, terminal, monkeypatch, failure
):
    read = FileSource.__getitem__

    def interrupted(source, index):
        if index == 5:
            raise failure
        return read(source, index)

    monkeypatch.setattr(FileSource, "__getitem__", interrupted)
    with pytest.raises((KeyboardInterrupt, OSError)):
        prepare(tiny_city, MINICITY, output=tmp_path, terminal=terminal)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.undo()
    prepare(tiny_city, MINICITY, output=tmp_path, terminal=terminal)
    assert len(open_source(tmp_path, MINICITY, "train")) == 8


def test_what_a_killed_run_left_is_no_obstacle(tiny_city, tmp_path, terminal):
    left = tmp_path / ".minicity.partial" / "minicity" / "incomplete.1"
    left.mkdir(parents=True)
    prepare(tiny_city, MINICITY, output=tmp_path, terminal=terminal)
    assert [path.name for path in tmp_path.iterdir()] == ["minicity"]


def test_what_was_written_wrongly_never_gets_its_name(tiny_city, tmp_path, terminal, monkeypatch):
    def changing(records, dataset, *, folder):
        def changed(split):
            for record in records[split]:
                yield record
                if split == "val":
                    return  # the others are lost

        return write({split: changed(split) for split in records}, dataset, folder=folder)

    write = prepare_module.write
    monkeypatch.setattr(prepare_module, "write", changing)
    with pytest.raises(ValueError, match=r"holds 1 examples of val, not the 4 of the source"):
        prepare(tiny_city, MINICITY, output=tmp_path, terminal=terminal)
    assert list(tmp_path.iterdir()) == []


def test_a_checksum_that_does_not_match_names_the_example(
    tiny_city, tmp_path, terminal, monkeypatch
):
    monkeypatch.setattr(
        prepare_module.ArrayRecordSource, "is_intact", lambda source, index: index != 2
    )
    source = open_source(tiny_city, MINICITY, "train")
    with pytest.raises(ValueError, match=rf"1 examples of train .*{re.escape(source[2].id)}"):
        prepare(tiny_city, MINICITY, output=tmp_path, terminal=terminal)
    assert list(tmp_path.iterdir()) == []


def test_without_an_output_there_must_be_labels_to_make(tiny_city, tmp_path, terminal):
    with pytest.raises(ValueError, match="--output is missing"):
        prepare(tiny_city, MINICITY, output=None, terminal=terminal)
    image = {"image_id": 1, "file_name": "a.jpg", "height": 1, "width": 1}
    content = {
        "images": [{**image, "phase": "train"}, {**image, "phase": "val", "file_name": "b.jpg"}],
        "annos_segmentation": [],
    }
    (tmp_path / ANNOTATIONS).write_text(json.dumps(content))
    (tmp_path / "JPEGImages").mkdir()
    for name in ("a.jpg", "b.jpg"):
        (tmp_path / "JPEGImages" / name).write_bytes(b"x")
    dataset = dataclasses.replace(DATASETS["pascal_context_59"])
    prepare(tmp_path, dataset, output=None, terminal=terminal)
    assert [r.id for r in open_source(tmp_path, dataset, "val")] == ["b"]
    assert "2 label files" in said(terminal)
    with pytest.raises(ValueError, match="--output is missing"):
        prepare(tmp_path, dataset, output=None, terminal=terminal)


def test_buckets_are_refused_with_what_to_do(bucket, tiny_city, terminal):
    for root, output in ((tiny_city, "gs://bucket/a"), ("gs://bucket/a", tiny_city)):
        with pytest.raises(ValueError, match=r"gs://bucket/a is in a bucket.*gcloud storage cp"):
            prepare(root, MINICITY, output=to_path(output), terminal=terminal)
    assert not bucket.objects
    with pytest.raises(ValueError, match=r"gs://bucket/a is in a bucket; copy it"):
        open_source("gs://bucket/a", MINICITY, "train")
