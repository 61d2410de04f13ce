"""Checksums of checkpoints, because Orbax returns flipped bits without an error.

A list holds the size and CRC-32 of every file, and `meta` the CRC-32 of every leaf.
"""

import json
import zlib
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from hrnet_jax.runs.paths import AnyPath, files_below, write_json

FILES = "files.json"  # in the folder of a checkpoint
# Orbax writes these records of the commit last, and does not read them to restore.
_MARKERS = {"commit_success.txt", "_CHECKPOINT_METADATA"}


def list_files(checkpoint: AnyPath) -> None:
    """Write the size and CRC-32 of every file of a checkpoint into its folder."""
    files = {
        path.relative_to(checkpoint).as_posix(): _size_and_crc32(path)
        for path in files_below(checkpoint)
        if path.name not in _MARKERS
    }
    write_json(checkpoint / FILES, files)


def check_files(checkpoint: AnyPath, *, among: Sequence[str]) -> None:
    """Check the files of some items of a checkpoint, such as `model`, against the list.

    Raises:
        ValueError: a file is missing or changed; the message names it.
    """
    if not any(checkpoint.iterdir()):
        raise ValueError("the folder is empty")
    if not (checkpoint / FILES).exists():
        raise ValueError(f"{FILES}, the list of its files, is missing")
    for name, (size, checksum) in json.loads((checkpoint / FILES).read_text()).items():
        if name.split("/")[0] not in among:
            continue
        try:
            actual_size, actual_checksum = _size_and_crc32(checkpoint / name)
        except FileNotFoundError:
            raise ValueError(f"{name} is missing") from None
        if actual_size != size:
            raise ValueError(f"{name} has {actual_size} bytes instead of {size}")
        if actual_checksum != checksum:
            raise ValueError(f"{name} has changed since it was written")


def _size_and_crc32(path: AnyPath) -> tuple[int, int]:
    size = checksum = 0
    with path.open("rb") as file:
        while part := file.read(1 << 20):
            size, checksum = size + len(part), zlib.crc32(part, checksum)
    return size, checksum


def leaf_checksums(tree: Any) -> dict[str, int]:
    """Return the CRC-32 of every leaf's bytes, by the leaf's dotted name."""

    def checksum(leaf: Any) -> int:
        # Viewed as uint8, because Python's buffers do not support bfloat16.
        flat = np.ascontiguousarray(jax.device_get(leaf)).reshape(-1)
        return zlib.crc32(flat.view(np.uint8).data)

    return {
        jax.tree_util.keystr(path, simple=True, separator="."): checksum(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def check_leaves(tree: Any, expected: dict[str, int]) -> None:
    """Check a tree against the `leaf_checksums` of the saved one.

    Raises:
        ValueError: tensors differ; the message counts them and names the first.
    """
    actual = leaf_checksums(tree)
    wrong = sorted(name for name in expected | actual if expected.get(name) != actual.get(name))
    if wrong:
        raise ValueError(f"{len(wrong)} tensors differ from what was saved, first {wrong[0]}")
