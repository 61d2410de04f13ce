"""Real processes on this machine: the same command as one, the same numbers."""

import json
import os
import re
import shutil
import signal
import time

import numpy as np
import pytest

from hrnet_jax.parallel import processes
from hrnet_jax.runs.metrics_log import read_metrics
from tests.cluster import finished, start
from tests.command import TINY, run


def numbers(workdir) -> list[dict]:
    of_the_clock = {"time", "images_per_second", "data_wait"}
    return [
        {name: value for name, value in entry.items() if name not in of_the_clock}
        for entry in read_metrics(workdir / "metrics.jsonl")
    ]


def together(count: int, *arguments: str, devices: int = 4, module=TINY):
    results = finished(start(count, arguments, devices=devices, module=module))
    for code, out, err in results:
        assert code == 0, out + err
    return results


@pytest.fixture(scope="module")
def one_and_two(tiny_city, tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes")
    data = f"--config.data.root={tiny_city}"
    run(data, f"--workdir={folder / 'one'}", module=TINY)
    results = together(2, data, f"--workdir={folder / 'two'}")
    return folder, results


def test_two_processes_give_the_numbers_of_one(one_and_two):
    folder, _ = one_and_two
    one, two = numbers(folder / "one"), numbers(folder / "two")
    assert [entry["step"] for entry in two] == [entry["step"] for entry in one]
    for a, b in zip(one, two, strict=True):
        for name, value in a.items():
            assert b[name] == pytest.approx(value, rel=2e-4, abs=0.05 if name[0] == "m" else 0)


@pytest.mark.slow
def test_four_processes_give_them_too(one_and_two, tiny_city):
    folder, _ = one_and_two
    together(4, f"--config.data.root={tiny_city}", f"--workdir={folder / 'four'}", devices=2)
    one, four = numbers(folder / "one"), numbers(folder / "four")
    assert [e["loss"] for e in four if "loss" in e] == pytest.approx(
        [e["loss"] for e in one if "loss" in e], rel=2e-4
    )


@pytest.mark.slow
def test_two_processes_share_a_bucket(one_and_two, tiny_city, bucket, tmp_path):
    folder, _ = one_and_two
    together(2, f"--config.data.root={tiny_city}", "--workdir=gs://bucket/two")
    assert numbers(bucket.download("two", tmp_path)) == numbers(folder / "two")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        path.name for path in (folder / "two").iterdir() if path.name != ".lock"
    )
    assert bucket.written.count("two/config.json") == 1


def test_one_of_them_speaks_and_writes(one_and_two, tiny_city):
    folder, ((_, first, _), (_, second, _)) = one_and_two
    assert "8 cpu devices" in first
    # XLA's collectives introduce themselves, two at once into one line; we say nothing.
    theirs = "Gloo Rank is connected to peer ranks Expected number of connected peer ranks is"
    expected = second.count("Expected") * theirs.split()
    assert sorted(re.findall(r"[A-Za-z]+", second)) == sorted(expected)
    assert sorted(path.name for path in (folder / "two").iterdir()) == sorted(
        path.name for path in (folder / "one").iterdir()
    )


@pytest.mark.slow
def test_two_processes_go_on_with_a_run_of_one(tiny_city, tmp_path):
    recording = ("-m", "tests.recording", *TINY[2:])
    arguments = (f"--config.data.root={tiny_city}", f"--workdir={tmp_path}")
    run(*arguments, module=recording)
    expected, examples = numbers(tmp_path), read_metrics(tmp_path / "ids.jsonl")
    shutil.rmtree(tmp_path / "checkpoints" / "4")
    (tmp_path / "ids.jsonl").unlink()
    (_, out, _), _ = together(2, *arguments, module=recording)
    assert "resumed at step 2" in out
    shares = [read_metrics(tmp_path / name) for name in ("ids.jsonl", "ids_1.jsonl")]
    for one, first, second in zip(examples[2:], *shares, strict=True):
        assert first["step"] == second["step"] == one["step"]
        assert first["ids"] + second["ids"] == one["ids"]
    assert [e["loss"] for e in numbers(tmp_path) if "loss" in e] == pytest.approx(
        [e["loss"] for e in expected if "loss" in e], rel=1e-5
    )


@pytest.mark.slow
def test_their_checkpoint_is_read_by_one_process(one_and_two, tiny_city):
    folder, _ = one_and_two
    arguments = (
        "--mode=eval",
        f"--config.data.root={tiny_city}",
        f"--checkpoint={folder / 'two' / 'checkpoints' / '4'}",
    )
    run(*arguments, f"--workdir={folder / 'by one'}", module=TINY)
    together(2, *arguments, f"--workdir={folder / 'by two'}")
    one, two = (
        json.loads((folder / name / "eval" / "scores.json").read_text())
        for name in ("by one", "by two")
    )
    for name in ("confusion", "images", "data", "weights", "mIoU"):
        assert one[name] == two[name], name
    assert one["mIoU"] == numbers(folder / "two")[-1]["mIoU"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "which"),
    [(signal.SIGKILL, 1), (signal.SIGSTOP, 1), (signal.SIGSTOP, 0)],
    ids=["killed", "stalled", "first stalled"],
)
def test_a_process_that_dies_or_stalls_ends_the_others(number, which, tiny_city, tmp_path):
    """Within the configured time, with a message; the first one is who watches over the others."""
    timeout = 10
    pair = start(
        2,
        [
            f"--config.data.root={tiny_city}", f"--workdir={tmp_path}",
            "--config.train.steps=100000", f"--config.mesh.timeout={timeout}",
        ],
    )  # fmt: skip
    while not (tmp_path / "checkpoints" / "2").exists():
        assert pair[0].poll() is None, pair[0].communicate()
        time.sleep(0.1)
    os.kill(pair[which].pid, number)
    begin = time.monotonic()
    ((code, out, err),) = finished(pair[1 - which : 2 - which])
    assert time.monotonic() - begin < 2 * timeout
    assert code != 0
    assert "JAX distributed service detected fatal errors" in err, out + err
    pair[which].send_signal(signal.SIGCONT)
    ((code, *_),) = finished(pair[which : which + 1])  # one that wakes up does not go on alone
    assert code != 0


@pytest.mark.slow
def test_sigterm_to_one_saves_the_same_step_in_all(tiny_city, tmp_path):
    pair = start(
        2,
        [f"--config.data.root={tiny_city}", f"--workdir={tmp_path}", "--config.train.steps=100000"],
    )
    while not (tmp_path / "checkpoints" / "2").exists():
        assert pair[0].poll() is None, pair[0].communicate()
        time.sleep(0.1)
    os.kill(pair[1].pid, signal.SIGTERM)
    results = finished(pair)
    assert [code for code, *_ in results] == [143, 143], results
    assert "Stopped by SIGTERM" in results[0][1]


def test_alone_nothing_is_gathered():
    assert processes.gather(b"x") == [b"x"]
    counts = np.arange(6, dtype=np.int64).reshape(2, 3) + 2**40
    np.testing.assert_array_equal(processes.total(counts), counts)
    processes.wait_for_all("nobody")
    assert processes.is_first()


def test_half_an_address_is_refused():
    environment = {"JAX_COORDINATOR_ADDRESS": "localhost:1"}
    done = run("--config=configs/hr18s_minicity.py", check=False, environment=environment)
    assert done.returncode == 1
    assert "Set JAX_NUM_PROCESSES and JAX_PROCESS_ID" in done.stderr
