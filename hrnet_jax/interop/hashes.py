"""What the name of a published file promises: the first digits of its SHA-256."""

import re

# Re-uploaded in August 2021 under the same config names, with other numbers.
_FIRST_RELEASE = (
    "{}: the first release of June 2020, mIoU {}, ms+flip {}; {} took its place ({}, {})"
)
SUPERSEDED = {
    "66f20cb7": _FIRST_RELEASE.format(
        "FCN-HRNetV2p-W18 on ADE20K, 80k steps", "35.51", "36.80",
        "20210827_114910-6c9382c0.pth", "36.27", "37.28",
    ),
    "870f65ac": _FIRST_RELEASE.format(
        "FCN-HRNetV2p-W18-Small on ADE20K, 160k steps", "33.00", "34.55",
        "20210829_174739-f1e7c2e7.pth", "33.07", "34.56",
    ),
    "56e36088": _FIRST_RELEASE.format(
        "FCN-HRNetV2p-W18-Small on Pascal VOC, 20k steps", "65.20", "68.55",
        "20210829_174910-0aceadb4.pth", "65.50", "68.89",
    ),
}  # fmt: skip


def check_hash(name: str, sha256: str, *, any_hash: bool = False) -> str:
    """Compare the eight digits at the end of a published file's name with the file's SHA-256.

    Returns what there is to say about the file; empty if all is as expected.
    """
    match = re.search(r"-([0-9a-f]{8})\.\w+$", name)
    old = SUPERSEDED.get(sha256[:8]) or (match and SUPERSEDED.get(match[1]))
    note = f"{old}." if old else ""
    if match and not sha256.startswith(match[1]):
        text = (
            f"{name}: the name promises a SHA-256 that begins with {match[1]}, the file's is "
            f"{sha256}."
        )
        if not any_hash:
            raise ValueError(
                f"{text} It is damaged, or another file, or it was published by mmsegmentation "
                "1.x's script, which names files after a hash taken before their last change. "
                "Download it again and compare; to use it as it is, convert it with "
                f"--any-hash, or rename it to end without -{match[1]}."
                + (f" {note}" if old else "")
            )
        note = f"{text} Used all the same, as asked. {note}".strip()
    return note
