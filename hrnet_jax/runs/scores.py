"""The scores of checkpoints, each in a file in the checkpoint's folder."""

import contextlib
import json
import math
import zlib
from collections.abc import Mapping, Sequence

from hrnet_jax.runs.paths import AnyPath, write_json

_SCORES = "scores.json"


def best_step(folder: AnyPath, steps: Sequence[int]) -> int | None:
    """Return the step with the highest mIoU, the last of equals; None if none has scores."""
    known: list[tuple[float, int]] = []
    for step in steps:
        with contextlib.suppress(ValueError):  # damaged scores are reported when a run resumes
            scores = read_scores(folder / str(step))
            if scores is not None and not math.isnan(scores["mIoU"]):
                known.append((scores["mIoU"], step))
    return max(known)[1] if known else None


def write_scores(checkpoint: AnyPath, scores: Mapping[str, float]) -> None:
    """Write scores with a checksum into a checkpoint's folder."""
    text = json.dumps(scores)
    write_json(checkpoint / _SCORES, {"scores": text, "crc32": zlib.crc32(text.encode())})


def read_scores(checkpoint: AnyPath) -> dict[str, float] | None:
    """Read the scores in a checkpoint's folder; None if there are none.

    Raises:
        ValueError: the file is damaged.
    """
    path = checkpoint / _SCORES
    if not path.exists():
        return None
    try:
        entry = json.loads(path.read_text())
        if zlib.crc32(entry["scores"].encode()) == entry["crc32"]:
            return json.loads(entry["scores"])
    except (ValueError, KeyError, TypeError, AttributeError):
        pass
    raise ValueError(f"{path} is damaged")
