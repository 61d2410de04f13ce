"""Whether a checkpoint is what was written: Orbax returns flipped bits without an error.

Every file is listed with its size and CRC-32, and every leaf of a tree has a CRC-32 of its own.
"""

import json
import zlib
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from hrnet_jax.runs.paths import AnyPath, files_below, write_json

FILES = "files.json"  # in the folder of a checkpoint
# Orbax's records of when a checkpoint was committed: written last, never read on restoring.
_MARKERS = {"commit_success.txt", "_CHECKPOINT_METADATA"}


def list_files(place: AnyPath) -> None:
    """Write the size and CRC-32 of every file of a checkpoint into its folder."""
    files = {
        path.relative_to(place).as_posix(): _size_and_crc32(path)
        for path in files_below(place)
        if path.name not in _MARKERS
    }
    write_json(place / FILES, files)


def check_files(place: AnyPath, *, among: Sequence[str]) -> None:
    """Compare the files of the items `among` a checkpoint's with what was written.

    Raises:
        ValueError: names the first file that is not as it was written.
    """
    if not any(place.iterdir()):
        raise ValueError("the folder is empty")
    if not (place / FILES).exists():
        raise ValueError(f"{FILES}, the list of its files, is missing")
    for name, (size, checksum) in json.loads((place / FILES).read_text()).items():
        path = place / name
        if name.split("/")[0] not in among:
            continue
        try:
            found_size, found_checksum = _size_and_crc32(path)
        except FileNotFoundError:
            raise ValueError(f"{name} is missing") from None
        if found_size != size:
            raise ValueError(f"{name} has {found_size} bytes instead of {size}")
        if found_checksum != checksum:
            raise ValueError(f"{name} has other contents than were written")


def _size_and_crc32(path: AnyPath) -> tuple[int, int]:
    size = checksum = 0
    with path.open("rb") as file:
        while part := file.read(1 << 20):
            size, checksum = size + len(part), zlib.crc32(part, checksum)
    return size, checksum


def leaf_checksums(tree: Any) -> dict[str, int]:
    """CRC-32 of every leaf's bytes: Orbax returns a flipped bit without an error."""

    def checksum(leaf: Any) -> int:
        # As bytes, without a copy: Python's buffers do not know bfloat16.
        whole = np.ascontiguousarray(jax.device_get(leaf)).reshape(-1)
        return zlib.crc32(whole.view(np.uint8).data)

    return {
        jax.tree_util.keystr(path, simple=True, separator="."): checksum(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def check_leaves(tree: Any, expected: dict[str, int]) -> None:
    """Compare a tree with the `leaf_checksums` of what was saved.

    Raises:
        ValueError: says how many tensors differ, and names the first.
    """
    found = leaf_checksums(tree)
    wrong = sorted(name for name in expected | found if expected.get(name) != found.get(name))
    if wrong:
        raise ValueError(f"{len(wrong)} tensors differ from what was saved, first {wrong[0]}")
