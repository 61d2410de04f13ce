"""What the name of a published file promises: the first digits of its SHA-256."""

import re

from hrnet_jax import zoo

SUPERSEDED = {  # first digits -> what to say of the file
    old.sha256: (
        f"FCN-{zoo.BACKBONES[row.variant]} on {zoo.DATASETS[row.dataset]}, {row.schedule} steps: "
        f"the first release of June 2020, mIoU {old.miou:.2f}, ms+flip {old.miou_ms_flip:.2f}; "
        f"{row.file()} took its place ({row.upload.miou:.2f}, {row.upload.miou_ms_flip:.2f})"
    )
    for row in zoo.ROWS
    for old in row.older
}


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
