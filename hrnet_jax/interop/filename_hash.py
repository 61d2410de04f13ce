"""Check the first digits of the SHA-256 in the name of a published file."""

import re

from hrnet_jax import zoo

SUPERSEDED = {  # first digits -> note about the file
    old.sha256: (
        f"FCN-{zoo.BACKBONES[row.variant]} on {zoo.DATASETS[row.dataset]}, {row.schedule} steps: "
        f"the first release of June 2020, mIoU {old.miou:.2f}, ms+flip {old.miou_ms_flip:.2f}; "
        f"later replaced by {row.file()} ({row.upload.miou:.2f}, {row.upload.miou_ms_flip:.2f})"
    )
    for row in zoo.ROWS
    for old in row.older
}


def check_hash(name: str, sha256: str, *, any_hash: bool = False) -> str:
    """Compare the eight digits at the end of a published file's name with its SHA-256.

    Args:
        name: of the file; a name without such digits passes.
        sha256: of the file.
        any_hash: whether to accept other digits, with a note.

    Returns:
        A note about the file; empty if there is nothing to note.

    Raises:
        ValueError: if the digits differ.
    """
    match = re.search(r"-([0-9a-f]{8})\.\w+$", name)
    old = SUPERSEDED.get(sha256[:8]) or (match and SUPERSEDED.get(match[1]))
    note = f"{old}." if old else ""
    if match and not sha256.startswith(match[1]):
        text = (
            f"{name}: by its name, the SHA-256 begins with {match[1]}, but the file's is {sha256}."
        )
        if not any_hash:
            raise ValueError(
                f"{text} It is damaged, or another file, or it was published by mmsegmentation "
                "1.x's script, which names a file after a hash taken before its last change. "
                "Download it again and compare; to use it as it is, convert it with "
                f"--any-hash, or remove -{match[1]} from its name. {note}".strip()
            )
        note = f"{text} Used anyway, as requested. {note}".strip()
    return note
