import hashlib

import pytest

from hrnet_jax.interop.filename_hash import SUPERSEDED, check_hash
from hrnet_jax.interop.read import read_source
from tests.interop.tiny_files import mmseg_state, write

SHA = hashlib.sha256(b"weights").hexdigest()


def test_a_correct_name_gives_no_note():
    assert check_hash(f"fcn_hr18_x-{SHA[:8]}.pth", SHA) == ""
    assert check_hash("my_model.pth", SHA) == ""


def test_a_wrong_name_shows_both_hashes_and_what_to_do():
    with pytest.raises(ValueError, match=f"begins with 0badcafe, but the file's is {SHA}") as error:
        check_hash("fcn_hr18_x-0badcafe.pth", SHA)
    for text in ("1.x's script", "--any-hash", "Download it again"):
        assert text in str(error.value)


def test_another_hash_is_accepted_with_a_note_on_request(tmp_path):
    path = write(tmp_path / "fcn-0badcafe.pth", mmseg_state())
    with pytest.raises(ValueError, match="0badcafe"):
        read_source(path)
    assert "Used anyway, as requested" in read_source(path, any_hash=True).notes[0]


@pytest.mark.parametrize("digits", SUPERSEDED)
def test_superseded_uploads_are_known_by_name_and_by_content(digits):
    sha256 = digits + SHA[8:]
    for name in (f"fcn_hr18_512x512_80k_ade20k_20200614-{digits}.pth", "renamed.pth"):
        note = check_hash(name, sha256)
        assert "first release of June 2020" in note
        assert "later replaced by" in note
    with pytest.raises(ValueError, match="first release"):
        check_hash(f"a-{digits}.pth", SHA)


def test_superseded_numbers_match_the_zoo():
    assert "mIoU 35.51, ms+flip 36.80" in SUPERSEDED["66f20cb7"]
    assert "mIoU 33.00, ms+flip 34.55" in SUPERSEDED["870f65ac"]
    assert "mIoU 65.20, ms+flip 68.55" in SUPERSEDED["56e36088"]
