import dataclasses
import functools
import os
import signal
import time

import cv2
import numpy as np
import pytest

from hrnet_jax.data import pipeline, transforms
from hrnet_jax.data.dataset import folder_dataset
from hrnet_jax.data.order import example_index
from hrnet_jax.data.pipeline import eval_examples, train_batches
from hrnet_jax.data.sources.folder import Record
from hrnet_jax.data.watchdog import Watchdog
from hrnet_jax.evaluation.protocol import Protocol

DATASET = folder_dataset(classes=("cat", "dog"))
MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
TRAIN = transforms.train_transforms(
    image_size=(24, 96), crop_size=(16, 16), ratio_range=(0.5, 2.0), mean=MEAN, std=STD
)


@dataclasses.dataclass(frozen=True)
class MemorySource:
    """Records generated from their index.

    `broken` does not decode, `deadly` ends the process, `endless` never comes.
    """

    size: int
    broken: int = -1
    deadly: int = -1
    endless: int = -1

    def __len__(self):
        return self.size

    def paths(self, index):
        return f"{index}.jpg", f"{index}.png"

    def __getitem__(self, index):
        if index == self.deadly:
            os.kill(os.getpid(), signal.SIGKILL)
        if index == self.endless:
            time.sleep(600)
        rng = np.random.default_rng(index)
        image, label = rng.integers(0, 256, (20, 30, 3)), rng.integers(0, 2, (20, 30))
        return Record(
            id=str(index),
            image=png(image),
            label=b"not a label" if index == self.broken else png(label),
            image_path=f"{index}.jpg",
            label_path=f"{index}.png",
        )


def png(array):
    return cv2.imencode(".png", array.astype(np.uint8))[1].tobytes()


def stream_of(source, **options):
    options = dict(transforms=TRAIN, batch_size=4, seed=1, start_step=0, threads=1) | options
    return train_batches(source, DATASET, **options)


def batches(number, *, size=11, **options):
    stream = stream_of(MemorySource(size), **options)
    taken = [next(stream) for _ in range(number)]
    stream.close()
    return taken


def global_batches(number, *, hosts, **options):
    """Concatenate the batches of all hosts."""
    parts = [batches(number, host=host, hosts=hosts, **options) for host in range(hosts)]
    return [
        {key: np.concatenate([part[step][key] for part in parts]) for key in parts[0][step]}
        for step in range(number)
    ]


def assert_equal_batches(actual, expected):
    assert len(actual) == len(expected)
    for a, b in zip(actual, expected, strict=True):
        assert a.keys() == b.keys()
        for key in a:
            np.testing.assert_array_equal(a[key], b[key])


def order(steps, *, num_examples):
    """The examples of the first steps of `stream_of`."""
    sizes = dict(num_examples=num_examples, batch_size=4, seed=1, reference="v0")
    return [example_index(position, **sizes) for position in range(steps * 4)]


# Batches.


def test_a_batch_holds_normalised_crops_labels_and_ids():
    (batch,) = batches(1)
    assert batch["image"].shape == (4, 16, 16, 3)
    assert batch["image"].dtype == np.float32
    assert batch["label"].shape == (4, 16, 16)
    assert batch["label"].dtype == np.uint8
    expected = order(1, num_examples=11)
    assert batch["id"].tolist() == [str(index) for index in expected]


@pytest.mark.parametrize("reference", ["v0", "v1"])
@pytest.mark.parametrize("hosts", [2, 4])
def test_hosts_share_the_same_global_batches(hosts, reference):
    together = global_batches(5, hosts=hosts, reference=reference)
    assert_equal_batches(together, batches(5, reference=reference))


@pytest.mark.parametrize("reference", ["v0", "v1"])
def test_a_resumed_stream_continues_the_interrupted_one(reference):
    whole = batches(9, reference=reference)
    assert_equal_batches(batches(4, reference=reference, start_step=5), whole[5:])


def test_threads_do_not_change_the_stream():
    assert_equal_batches(batches(6, threads=4), batches(6))


def test_the_seed_changes_order_and_augmentation():
    one, two = (batches(3, size=1, seed=seed) for seed in (1, 2))
    assert all((a["image"] != b["image"]).any() for a, b in zip(one, two, strict=True))


def test_an_example_is_augmented_differently_at_every_position():
    first, second = batches(2, size=1, batch_size=1)
    assert first["id"] == second["id"]
    assert (first["image"] != second["image"]).any()


def test_a_batch_size_that_hosts_cannot_share_is_refused():
    with pytest.raises(ValueError, match=r"batch_size=6 .* 4 hosts; .* for example 8"):
        batches(1, batch_size=6, hosts=4)


def test_a_damaged_file_reaches_the_caller_by_name():
    stream = stream_of(MemorySource(4, broken=2))
    with pytest.raises(ValueError, match=r"Cannot decode the label 2\.png"):
        next(stream)
    stream.close()


def test_worker_processes_give_the_same_batches_and_errors():
    *expected, last = batches(4, size=40)
    broken = int(last["id"][0])
    stream = stream_of(MemorySource(40, broken=broken), workers=2)
    assert_equal_batches([next(stream) for _ in expected], expected)
    with pytest.raises(ValueError, match=rf"Cannot decode the label {broken}\.png"):
        next(stream)
    stream.close()


# Bad files.


def with_replacements(source, number, **options):
    reported = []
    stream = stream_of(source, on_bad_file=reported.append, **options)
    taken = [next(stream) for _ in range(number)]
    stream.close()
    return taken, reported


def test_a_bad_example_is_replaced_by_the_next_one():
    taken, reported = with_replacements(MemorySource(11, broken=3), 3)
    expected = order(3, num_examples=11)
    assert 3 in expected
    ids = [int(name) for batch in taken for name in batch["id"]]
    assert ids == [4 if index == 3 else index for index in expected]
    assert taken[0].keys() == {"image", "label", "id"}
    assert {(entry["bad"], entry["image"]) for entry in reported} == {("3.png", "3.jpg")}
    assert "Cannot decode the label 3.png" in reported[0]["reason"]


def test_replacements_depend_on_neither_resuming_nor_hosts():
    whole, _ = with_replacements(MemorySource(11, broken=3), 6)
    resumed, _ = with_replacements(MemorySource(11, broken=3), 2, start_step=4)
    assert_equal_batches(resumed, whole[4:])
    halves = [
        with_replacements(MemorySource(11, broken=3), 6, host=host, hosts=2)[0] for host in (0, 1)
    ]
    for step, batch in enumerate(whole):
        parts = [half[step]["image"] for half in halves]
        np.testing.assert_array_equal(np.concatenate(parts), batch["image"])


def test_a_missing_file_is_replaced_too():
    class Holey(MemorySource):
        def __getitem__(self, index):
            if index == 5:
                raise FileNotFoundError(2, "No such file", "5.jpg")
            return super().__getitem__(index)

    _, reported = with_replacements(Holey(11), 3)
    assert reported[0]["bad"] == "5.jpg"


def test_ten_bad_examples_in_a_row_stop_the_run():
    @dataclasses.dataclass(frozen=True)
    class Rubbish(MemorySource):
        def __getitem__(self, index):
            return dataclasses.replace(super().__getitem__(index), image=b"")

    with pytest.raises(ValueError, match="10 examples in a row cannot be used: is the disk"):
        with_replacements(Rubbish(40), 1)


def test_workers_and_hosts_may_change_in_the_middle_of_a_run():
    run = batches(2)
    run += batches(2, start_step=2, workers=1, threads=2)
    run += global_batches(2, start_step=4, hosts=4)
    assert_equal_batches(run, batches(6))


# Evaluation.


def evaluated(size, **options):
    chain = [transforms.ResizeViews(sizes=Protocol(image_size=(40, 80)).view_sizes)]
    return list(eval_examples(MemorySource(size), DATASET, transforms=chain, **options))


def test_evaluation_reads_every_example_once_in_order():
    examples = evaluated(5)
    assert [example["id"] for example in examples] == ["0", "1", "2", "3", "4"]
    for index, example in enumerate(examples):
        assert example["image"].shape == (20, 30, 3)
        assert [view.shape for view in example["views"]] == [(40, 60, 3)]
        rng = np.random.default_rng(index)
        rng.integers(0, 256, (20, 30, 3))
        np.testing.assert_array_equal(example["label"], rng.integers(0, 2, (20, 30)))


def test_hosts_share_an_evaluation_without_repetition():
    shares = [[example["id"] for example in evaluated(5, host=h, hosts=3)] for h in range(3)]
    assert shares == [["0", "3"], ["1", "4"], ["2"]]
    assert evaluated(1, host=2, hosts=3) == []


# Workers.


@pytest.mark.skipif(os.name != "posix", reason="has no SIGKILL")
def test_a_killed_worker_names_its_files():
    expected = [int(batch["id"][0]) for batch in batches(6, size=40)]
    source = MemorySource(40, broken=expected[0], deadly=expected[-1])
    begin, reported = time.monotonic(), []
    with pytest.raises(ChildProcessError, match=rf"reading\n  {source.deadly}\.jpg\n") as error:
        list(stream_of(source, workers=2, on_bad_file=reported.append))
    assert "memory ran out (use fewer workers with --config.data.workers)" in str(error.value)
    assert time.monotonic() - begin < 60
    assert [entry["bad"] for entry in reported] == [f"{source.broken}.png"]


@pytest.mark.skipif(os.name != "posix", reason="has no SIGKILL")
def test_a_stuck_worker_is_killed_and_names_its_files(monkeypatch):
    monkeypatch.setattr(pipeline, "Watchdog", functools.partial(Watchdog, limit=2.0))
    endless = int(batches(3, size=40)[-1]["id"][0])
    begin = time.monotonic()
    with pytest.raises(ChildProcessError, match=rf"Worker process \d+ .*reading\n  {endless}\.jpg"):
        list(stream_of(MemorySource(40, endless=endless), workers=1))
    assert time.monotonic() - begin < 60
