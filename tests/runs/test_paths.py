import importlib.util
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hrnet_jax.runs.paths import (
    absolute,
    append_text,
    atomic_write,
    cache_folder,
    files_below,
    has_ended,
    is_remote,
    make_folder,
    move_folder,
    size_of,
    to_local_path,
    to_path,
    write_json,
    write_text,
)


@pytest.fixture(params=["disk", "bucket"])
def folder(request, tmp_path):
    """A place of either kind."""
    if request.param == "disk":
        return tmp_path
    request.getfixturevalue("bucket")
    return to_path("gs://bucket/a folder/\u0142\xf3d\u017a")


def test_the_cache_lies_where_the_user_wants_it(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "hrnet_jax"
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    assert cache_folder() == Path.home() / ".cache" / "hrnet_jax"


def test_the_home_folder_is_known_and_a_bucket_is_no_local_disk(home, bucket):
    assert to_path("~/a") == to_local_path("~/a") == to_local_path(Path("~/a")) == home / "a"
    with pytest.raises(ValueError, match=r"^gs://bucket/a is in a bucket; copy it to a local disk"):
        to_local_path("gs://bucket/a")


def test_a_failed_write_leaves_the_old_file_and_no_other(folder):
    path = folder / "a"
    path.write_bytes(b"old")
    with pytest.raises(TypeError), atomic_write(path) as file:
        file.writelines([b"half of", "the new"])  # text where bytes belong
    assert path.read_bytes() == b"old"
    with atomic_write(path) as file:
        file.write(b"new")
    assert path.read_bytes() == b"new"
    assert list(folder.iterdir()) == [path]


def test_text_is_written_as_utf8(folder):
    write_text(folder / "a", "Stra\xdfe")
    assert (folder / "a").read_bytes() == "Stra\xdfe".encode()


def test_json_is_for_people_and_for_every_reader(folder):
    write_json(folder / "a.json", {"mIoU": 22.5, "classes": ["road"]})
    text = (folder / "a.json").read_text()
    assert json.loads(text) == {"mIoU": 22.5, "classes": ["road"]}
    assert text.splitlines()[1] == '  "mIoU": 22.5,'
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(folder / "a.json", math.nan)
    assert (folder / "a.json").read_text() == text


def test_text_is_added_to_what_is_there(folder):
    for line in ("a\n", "\xe4\n", "c\n"):
        append_text(folder / "lines", line)
    assert (folder / "lines").read_text() == "a\n\xe4\nc\n"


def test_a_folder_is_listed_and_moved_in_place_of_another(folder):
    make_folder(folder / "run" / "deep")
    for name in ("run/deep/b", "run/c"):
        write_text(folder / name, name)
    make_folder(folder / "old" / "run")
    write_text(folder / "old" / "run" / "c", "in the way")
    assert [p.relative_to(folder).as_posix() for p in files_below(folder / "run")] == [
        "run/c",
        "run/deep/b",
    ]
    assert size_of(folder / "run" / "deep" / "b") == len("run/deep/b")
    move_folder(folder / "run", folder / "old" / "run")
    assert not (folder / "run").exists()
    assert (folder / "old" / "run" / "deep" / "b").read_text() == "run/deep/b"
    assert (folder / "old" / "run" / "c").read_text() == "run/c"


def test_what_another_program_wrote_is_seen_at_once(bucket):
    folder = to_path("gs://bucket/run")
    write_text(folder / "a", "1")
    assert len(list(folder.iterdir())) == 1
    bucket.put("run/b", b"2")  # as Orbax does, past gcsfs
    assert sorted(path.name for path in folder.iterdir()) == ["a", "b"]
    bucket.objects.clear()
    assert not folder.exists()


def test_every_object_was_written_whole_and_once(bucket):
    write_text(to_path("gs://bucket/small"), "x")
    write_text(to_path("gs://bucket/large"), "x" * 7_000_000)  # more than gcsfs sends at once
    assert bucket.written == ["small", "large"]
    assert len(bucket.objects["large"][0]) == 7_000_000


def test_a_users_text_becomes_a_path(bucket, monkeypatch):
    assert to_path("~/runs/a") == Path.home() / "runs" / "a"
    assert to_path("runs") == Path("runs")
    assert to_path("~no-such-user.mp4") == Path("~no-such-user.mp4")  # a file of this name
    local, remote = to_path("a/b"), to_path("gs://bucket/a/b")
    assert isinstance(local, Path)
    assert [is_remote(path) for path in (local, remote)] == [False, True]
    assert str(remote / "c") == os.fspath(to_path(remote) / "c") == "gs://bucket/a/b/c"
    assert absolute(local) == Path.cwd() / "a" / "b"
    assert absolute(remote) == remote
    make_folder(remote)  # there are none
    assert not bucket.written


def test_addresses_that_cannot_be_read_are_refused(monkeypatch):
    with pytest.raises(ValueError, match=r"^s3://b/c is an address of a kind.*gs://BUCKET/FOLDER"):
        to_path("s3://b/c")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"without the package gcsfs; pip install 'hrnet-jax\[gcs"):
        to_path("gs://b/c")


def test_a_bucket_that_is_not_there_is_named(bucket):
    with pytest.raises(
        OSError, match=r"^gs://nobody/a could not be written.*the bucket exists and that"
    ):
        write_text(to_path("gs://nobody/a"), "")


def test_a_folder_that_cannot_be_had_is_named_with_what_to_do(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    advice = r"; choose another place with --workdir or --output, or"
    with pytest.raises(
        OSError, match=rf"^the folder \S+/file cannot be made, .* this name{advice}"
    ):
        make_folder(tmp_path / "file")
    with pytest.raises(OSError, match=rf"^the folder \S+/b cannot be made \(Not a dir.*\){advice}"):
        make_folder(tmp_path / "file" / "b")
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(OSError, match=rf"^the folder {tmp_path} cannot be written to .*{advice}"):
        make_folder(tmp_path)


def test_what_ended_processes_left_is_told_from_what_is_being_written():
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        path = Path(f".a.png.{process.pid}.tmp")
        assert not has_ended(path)
        process.communicate(b"\n")
    assert has_ended(path)
    assert has_ended(Path(f".a.png.{os.getpid()}.tmp"))
    assert not has_ended(Path(".a.png.tmp"))
