import hashlib

import pytest

from hrnet_jax.interop.files import read_whole, written_in_one_piece


def test_a_file_is_read_with_its_hash(tmp_path):
    for content in (b"", b"content"):
        (tmp_path / "a").write_bytes(content)
        data, sha256 = read_whole(tmp_path / "a")
        assert bytes(data) == content
        assert sha256 == hashlib.sha256(content).hexdigest()


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"old")
    with pytest.raises(TypeError), written_in_one_piece(path) as file:
        file.write("half of the new")  # text where bytes belong
    assert path.read_bytes() == b"old"
    with written_in_one_piece(path) as file:
        file.write(b"new")
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]
