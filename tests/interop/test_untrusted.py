import hashlib
import io
import struct
import zipfile

import pytest

from hrnet_jax.interop.untrusted import CorruptFileError, read_whole, read_zip

CONTENTS = {"a/first": b"12345", "a/empty": b"", "a/\N{SNOWMAN}": bytes(range(256))}


def archive() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as written:
        for name, content in CONTENTS.items():
            written.writestr(name, content)
    return file.getvalue()


def test_the_entries_of_a_zip_file_are_read():
    assert read_zip(archive()) == CONTENTS


def test_64_bit_records_are_understood(monkeypatch):
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 3)
    data = archive()
    assert b"PK\6\6" in data
    assert read_zip(data) == CONTENTS


@pytest.mark.parametrize("field", range(24, 56, 8))
def test_contradicting_64_bit_records_are_refused(monkeypatch, field):
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 3)
    data = bytearray(archive())
    place = data.rindex(b"PK\6\6") + field
    (value,) = struct.unpack_from("<Q", data, place)
    struct.pack_into("<Q", data, place, value + 2**33)
    with pytest.raises(CorruptFileError, match=r"again\."):
        read_zip(bytes(data))


def test_two_disks_are_refused():
    data = bytearray(archive())
    data[-18] = 1
    with pytest.raises(CorruptFileError, match="end record disagrees"):
        read_zip(bytes(data))


def test_a_file_is_read_with_its_hash(tmp_path):
    for content in (b"", b"content"):
        (tmp_path / "a").write_bytes(content)
        data, sha256 = read_whole(tmp_path / "a")
        assert bytes(data) == content
        assert sha256 == hashlib.sha256(content).hexdigest()
