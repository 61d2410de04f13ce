import json
import time

from hrnet_jax.runs.metrics_log import MetricsWriter, read_metrics
from hrnet_jax.runs.paths import to_path


def test_a_resumed_run_rewrites_what_came_after_its_checkpoint(tmp_path):
    writer = MetricsWriter(tmp_path, start=0)
    for step in (10, 20, 30):
        writer.write(step, {"loss": step / 10})
    writer.close()
    with writer.path.open("a") as file:
        file.write('{"step": 40, "lo')  # killed while writing
    resumed = MetricsWriter(tmp_path, start=20)
    resumed.write(30, {"loss": float("nan")})
    resumed.close()
    entries = read_metrics(tmp_path / "metrics.jsonl")
    assert [(e["step"], e["loss"]) for e in entries] == [(10, 1.0), (20, 2.0), (30, None)]
    assert all(json.loads(line) for line in resumed.path.read_text().splitlines())
    assert list((tmp_path / "tensorboard").iterdir())


def test_a_run_in_a_bucket_is_written_as_one_on_a_disk(bucket, tmp_path, monkeypatch):
    monkeypatch.setattr("hrnet_jax.runs.metrics_log._COPY_SECONDS", 0)
    for workdir in (tmp_path, to_path("gs://bucket/run")):
        writer = MetricsWriter(workdir, start=0)
        writer.write(10, {"loss": 1.0})
        writer.write(20, {"loss": 2.0})
        writer.write_bad_step(20, {"loss": float("inf")}, ids=["a"])
        if workdir != tmp_path:  # all of it is there before the run ends
            assert len(read_metrics(workdir / "metrics.jsonl")) == 2
            (events,) = (workdir / "tensorboard").iterdir()
            assert b"loss" in events.read_bytes()
        writer.close()
        MetricsWriter(workdir, start=10).close()
    local, remote = (read_metrics(w / "metrics.jsonl") for w in (tmp_path, workdir))
    assert [e["step"] for e in local] == [e["step"] for e in remote] == [10]
    heads = {name.partition("/")[0] for name in bucket.below("run")}
    assert heads == {"bad_steps.jsonl", "metrics.jsonl", "tensorboard"}


def test_scores_that_are_to_be_had_again_are_left_out(tmp_path):
    writer = MetricsWriter(tmp_path, start=0)
    for step in (10, 20):
        writer.write(step, {"loss": 1.0})
        writer.write(step, {"mIoU": 50.0})
    writer.close()
    MetricsWriter(tmp_path, start=20, scored=False).close()
    entries = read_metrics(tmp_path / "metrics.jsonl")
    assert [(e["step"], "mIoU" in e) for e in entries] == [(10, False), (10, True), (20, False)]


def test_a_clock_that_jumps_back_loses_nothing(tmp_path, monkeypatch):
    writer = MetricsWriter(tmp_path, start=0)
    begin = time.time()
    for step, jump in enumerate((0, -3600, 1)):
        monkeypatch.setattr("time.time", lambda jump=jump: begin + jump)
        writer.write(step, {"loss": 1.0})
    writer.close()
    MetricsWriter(tmp_path, start=2).close()
    assert [entry["step"] for entry in read_metrics(writer.path)] == [0, 1, 2]


def test_bad_steps_are_listed_until_they_are_run_again(tmp_path):
    writer = MetricsWriter(tmp_path, start=0)
    for step in (3, 5):
        path = writer.write_bad_step(step, {"loss": float("nan")}, ids=["ä", "b"])
    writer.close()
    MetricsWriter(tmp_path, start=4).close()
    assert [json.loads(line) for line in path.read_text().splitlines()] == [
        {"step": 3, "loss": "nan", "ids": ["ä", "b"]}
    ]
