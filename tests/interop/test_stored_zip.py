import io
import struct
import zipfile

import pytest

from hrnet_jax.interop.stored_zip import stored_entries
from hrnet_jax.interop.untrusted import CorruptFileError

CONTENTS = {"a/first": b"12345", "a/empty": b"", "a/\N{SNOWMAN}": bytes(range(256))}


def archive() -> memoryview:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as written:
        for name, content in CONTENTS.items():
            written.writestr(name, content)
    return memoryview(file.getvalue())


def test_entries_are_found_where_zipfile_put_them():
    data = archive()
    assert {name: bytes(data[place]) for name, place in stored_entries(data).items()} == CONTENTS


def test_64_bit_records_are_understood(monkeypatch):
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 3)
    data = archive()
    assert b"PK\6\6" in bytes(data)
    assert {name: bytes(data[place]) for name, place in stored_entries(data).items()} == CONTENTS


@pytest.mark.parametrize("field", range(24, 56, 8))
def test_contradicting_64_bit_records_are_refused(monkeypatch, field):
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 3)
    data = bytearray(archive())
    place = data.rindex(b"PK\6\6") + field
    (value,) = struct.unpack_from("<Q", data, place)
    struct.pack_into("<Q", data, place, value + 2**33)
    with pytest.raises(CorruptFileError, match=r"again\."):
        stored_entries(memoryview(data))


def test_two_disks_are_refused():
    data = bytearray(archive())
    data[-18] = 1
    with pytest.raises(CorruptFileError, match="not where its end record says"):
        stored_entries(memoryview(data))
