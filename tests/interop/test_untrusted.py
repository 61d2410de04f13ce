import hashlib

from hrnet_jax.interop.untrusted import read_whole


def test_a_file_is_read_with_its_hash(tmp_path):
    for content in (b"", b"content"):
        (tmp_path / "a").write_bytes(content)
        data, sha256 = read_whole(tmp_path / "a")
        assert bytes(data) == content
        assert sha256 == hashlib.sha256(content).hexdigest()
