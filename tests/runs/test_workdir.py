import errno
import json
import os
import platform
import re
import signal
import subprocess
import sys

import pytest

from hrnet_jax.runs.paths import to_path, write_text
from hrnet_jax.runs.workdir import _owner, check_same_config, lock_workdir
from tests.command import ROOT

OWNER = """
import sys, time
from pathlib import Path
from hrnet_jax.runs.workdir import lock_workdir
with lock_workdir(Path(sys.argv[1]), warn=print):
    print("owned", flush=True)
    time.sleep(60)
"""


@pytest.mark.skipif(os.name != "posix", reason="sends POSIX signals")
def test_a_second_run_is_refused_until_the_first_is_dead(tmp_path):
    workdir = tmp_path / "a run"
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER, str(workdir)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    with owner:
        assert owner.stdout.readline() == "owned\n"
        message = (
            rf"{re.escape(str(workdir))} is in use by process {owner.pid} on "
            rf"{re.escape(platform.node())} since \d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d[+-]\d\d:\d\d\..*"
            r"another --workdir"
        )
        with pytest.raises(ValueError, match=message), lock_workdir(workdir, warn=pytest.fail):
            pass
        owner.send_signal(signal.SIGKILL)
        owner.wait()
        (workdir / "pictures").mkdir()
        halves = [workdir / ".curves.png.1.tmp", workdir / "pictures" / ".a.png.1.tmp"]
        for path in (*halves, workdir / "pictures" / "a.png"):
            path.touch()
        with lock_workdir(workdir, warn=pytest.fail):
            assert not any(path.exists() for path in halves)
            assert (workdir / "pictures" / "a.png").exists()
        with lock_workdir(workdir, warn=pytest.fail):
            assert json.loads((workdir / ".lock").read_text())["pid"] == os.getpid()
    with lock_workdir(workdir, warn=pytest.fail):
        pass


def test_a_file_system_without_locks_gets_a_warning(tmp_path, monkeypatch):
    fcntl = pytest.importorskip("fcntl")

    def no_locks(*_):
        raise OSError(errno.ENOTSUP, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    warnings = []
    with lock_workdir(tmp_path, warn=warnings.append):
        assert "file system without locks (Operation not supported)" in warnings[0]


def same(workdir, *, lines_to=pytest.fail, **config):
    """Check a config of which `log` and nothing else may change."""
    check_same_config(
        workdir,
        config,
        changes=lambda old: (
            [f"seed: {old['seed']} -> {config['seed']}"] * (old["seed"] != config["seed"]),
            [f"log: {old['log']} -> {config['log']}"] * (old["log"] != config["log"]),
        ),
        log=lines_to,
    )


def test_a_workdir_keeps_its_config_once_it_has_a_checkpoint(tmp_path):
    same(tmp_path, seed=0, log=50)
    same(tmp_path, seed=1, log=50)  # nothing was trained yet
    (tmp_path / "checkpoints" / "5").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"(?s)another config:\n  seed: 1 -> 2\nGive the old"):
        same(tmp_path, seed=2, log=50)
    lines = []
    same(tmp_path, seed=1, log=7, lines_to=lines.append)
    assert lines == ["Changed since the last start: log: 50 -> 7."]
    assert json.loads((tmp_path / "config.json").read_text()) == {"seed": 1, "log": 7}


def test_a_damaged_config_is_named(tmp_path):
    (tmp_path / "checkpoints" / "5").mkdir(parents=True)
    (tmp_path / "config.json").write_text('{"seed": ')
    with pytest.raises(ValueError, match=r"config\.json is damaged \(.*another --workdir"):
        same(tmp_path, seed=0, log=50)


def test_the_owner_of_a_lock_that_was_just_taken_is_not_known_yet(tmp_path):
    write_text(tmp_path / ".lock", "")
    assert _owner(tmp_path / ".lock") == "another run"


def test_a_bucket_is_owned_with_a_warning(bucket):
    warnings = []
    with lock_workdir(to_path("gs://bucket/run"), warn=warnings.append):
        assert warnings == [
            "gs://bucket/run cannot be locked: make sure that no other run uses it."
        ]
    assert not bucket.objects


def test_a_bucket_belongs_to_one_config(bucket):
    workdir = to_path("gs://bucket/run")
    same(workdir, seed=0, log=50)
    same(workdir, seed=0, log=50)
    bucket.put("run/checkpoints/2/files.json", b"")
    with pytest.raises(ValueError, match=r"gs://bucket/run belongs to a run with another config"):
        same(workdir, seed=1, log=50)
