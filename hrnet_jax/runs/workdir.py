"""A run's folder belongs to one run at a time, and to one config."""

import contextlib
import datetime
import json
import os
import platform
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from hrnet_jax.runs.checkpoint import FOLDER
from hrnet_jax.runs.paths import AnyPath, is_remote, lock, make_folder, write_json


@contextlib.contextmanager
def lock_workdir(workdir: AnyPath, *, warn: Callable[[str], None]) -> Iterator[None]:
    """Refuse a workdir in which another run is at work; else own it while the block runs.

    The system takes the lock back from a process that ends in whatever way. File systems without
    locks and buckets get a warning, Windows nothing. Half files that a killed run left are removed.

    Raises:
        ValueError: names the process that owns it.
    """
    make_folder(workdir)
    if is_remote(workdir):
        warn(f"{workdir} cannot be locked: nothing keeps a second run away from it.")
        yield
        return
    path = workdir / ".lock"
    with path.open("a+") as file:
        locked = False
        try:
            locked = lock(file, wait=False)
        except (BlockingIOError, PermissionError):
            raise ValueError(
                f"{workdir} is in use by {_owner(path)}. Two runs would spoil each other's "
                "files: wait for that one, stop it, or give this one another --workdir."
            ) from None
        except OSError as error:
            warn(
                f"{workdir} is on a file system without locks ({error.strerror}): nothing keeps a "
                "second run away from it."
            )
        if locked:
            file.truncate(0)
            now = datetime.datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
            json.dump({"host": platform.node(), "pid": os.getpid(), "since": now}, file)
            file.flush()
            # Whoever wrote here before was killed while it did.
            for left in (*workdir.glob(".*.tmp"), *workdir.glob("pictures/.*.tmp")):
                left.unlink()
        yield


def _owner(path: AnyPath) -> str:
    try:
        owner = json.loads(path.read_text())
        return f"process {owner['pid']} on {owner['host']} since {owner['since']}"
    except (ValueError, KeyError):  # it has just begun
        return "another run"


def check_same_config(
    workdir: AnyPath,
    config: Mapping[str, Any],
    *,
    differences: Callable[..., list[str]],  # (old, new, operational=False) -> fields that differ
    tell: Callable[[str], None],
) -> None:
    """Write the resolved config into the workdir; refuse one with checkpoints of another config.

    Changes of fields that do not touch the result are told and allowed.

    Raises:
        ValueError: lists the fields that differ and decide the result.
    """
    path = workdir / "config.json"
    if path.exists() and any((workdir / FOLDER).glob("[0-9]*")):
        try:
            old = dict(json.loads(path.read_text()))
            changed, other = (differences(old, config, operational=kind) for kind in (False, True))
        except (ValueError, TypeError) as error:
            raise ValueError(
                f"{path} is damaged ({error}); restore it, or give another --workdir."
            ) from error
        if changed:
            listed = "\n  ".join(changed)
            raise ValueError(
                f"{workdir} belongs to a run with another config:\n  {listed}\n"
                "Give the old values to resume it, or another --workdir to start a new run."
            )
        if other:
            tell(f"Changed since the last start: {'; '.join(other)}.")
    write_json(path, config)
