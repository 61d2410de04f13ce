import pytest

from hrnet_jax.files import write_text, written_in_one_piece


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


def test_text_is_written_as_utf8(tmp_path):
    write_text(tmp_path / "a", "Straße")
    assert (tmp_path / "a").read_bytes() == "Straße".encode()
