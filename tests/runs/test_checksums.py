import numpy as np
import pytest

from hrnet_jax.runs.checksums import check_files, check_leaves, leaf_checksums, list_files


def test_checksums_see_every_bit():
    tree = {"a": np.ones(3, np.float32), "b": [np.zeros(2)]}
    sums = leaf_checksums(tree)
    assert set(sums) == {"a", "b.0"}
    tree["a"] = np.nextafter(tree["a"], 2)
    assert leaf_checksums(tree)["a"] != sums["a"]
    with pytest.raises(ValueError, match=r"^1 tensors differ from what was saved, first a$"):
        check_leaves(tree, sums)
    tree["a"] = np.ones(3, np.float32)
    check_leaves(tree, sums)


def test_the_first_file_that_is_not_as_it_was_written_is_named(tmp_path):
    (tmp_path / "model").mkdir()
    with pytest.raises(ValueError, match=r"^files.json, the list of its files, is missing$"):
        check_files(tmp_path, among=["model"])
    file = tmp_path / "model" / "a"
    file.write_bytes(b"abc")
    (tmp_path / "commit_success.txt").touch()  # of Orbax, which changes it later
    list_files(tmp_path)
    (tmp_path / "commit_success.txt").unlink()
    check_files(tmp_path, among=["model"])
    file.write_bytes(b"abd")
    with pytest.raises(ValueError, match=r"^model/a has changed since it was written$"):
        check_files(tmp_path, among=["model"])
    check_files(tmp_path, among=["optimizer"])
    file.write_bytes(b"ab")
    with pytest.raises(ValueError, match=r"^model/a has 2 bytes instead of 3$"):
        check_files(tmp_path, among=["model"])
    file.unlink()
    with pytest.raises(ValueError, match=r"^model/a is missing$"):
        check_files(tmp_path, among=["model"])
