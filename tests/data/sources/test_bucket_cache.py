import io

import pytest
from rich.console import Console

from hrnet_jax.data.sources import bucket_cache
from hrnet_jax.data.sources.bucket_cache import local_copy, local_file
from hrnet_jax.runs.paths import to_path
from hrnet_jax.runs.terminal import Terminal

FOLDER = to_path("gs://bucket/prepared/1.0.0")


@pytest.fixture
def terminal() -> Terminal:
    return Terminal(Console(file=io.StringIO(), width=200))


@pytest.fixture
def prepared(bucket, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in ("dataset_info.json", "deep/shard-0", "shard-1"):
        bucket.put(f"prepared/1.0.0/{name}", name.encode() * 1000)
    return bucket


def test_a_prepared_dataset_is_copied_once(prepared, terminal):
    copy = local_copy(FOLDER, terminal=terminal)
    assert (copy / "deep" / "shard-0").read_bytes() == b"deep/shard-0" * 1000
    assert len(prepared.read) == 3
    assert f"from {FOLDER} to {copy}" in terminal.console.file.getvalue()
    assert local_copy(FOLDER, terminal=terminal) == copy
    assert len(prepared.read) == 3
    assert terminal.console.file.getvalue().count("Copying") == 1


def test_a_local_path_is_not_copied(tmp_path, terminal):
    assert local_copy(tmp_path / "any.zip", terminal=terminal) == tmp_path / "any.zip"


def test_a_changed_dataset_is_copied_again(prepared, terminal):
    copy = local_copy(FOLDER, terminal=terminal)
    prepared.put("prepared/1.0.0/shard-1", b"longer" * 2000)
    again = local_copy(FOLDER, terminal=terminal)
    assert again != copy
    assert (again / "shard-1").read_bytes() == b"longer" * 2000


def test_an_interrupted_copy_is_resumed(prepared, terminal):
    copy = local_copy(FOLDER, terminal=terminal)
    (copy / "shard-1").unlink()
    prepared.read.clear()
    assert local_copy(FOLDER, terminal=terminal) == copy
    assert (copy / "shard-1").exists()
    assert prepared.read == ["prepared/1.0.0/shard-1"]


def test_a_disk_without_room_is_reported_before_copying(prepared, terminal, monkeypatch):
    monkeypatch.setattr(bucket_cache, "size_of", lambda path: 10**18)
    with pytest.raises(OSError, match=r"needs 3000000000\.0 GB more, but .* GB are available"):
        local_copy(FOLDER, terminal=terminal)
    assert not prepared.read


def test_a_folder_that_was_not_prepared_says_what_to_do(bucket, terminal):
    bucket.put("raw/image.png", b"")
    for name in ("raw", "nowhere"):
        with pytest.raises(FileNotFoundError, match=rf"{name} holds no dataset that --mode pre"):
            local_copy(to_path(f"gs://bucket/{name}"), terminal=terminal)


def test_a_file_is_there_during_the_block(bucket):
    bucket.put("weights.pth", b"abc")
    with local_file(to_path("gs://bucket/weights.pth")) as copy:
        assert copy.name == "weights.pth"
        assert copy.read_bytes() == b"abc"
    assert not copy.exists()
