"""A run's folder belongs to one run at a time, and to one config."""

import contextlib
import datetime
import json
import os
import platform
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from filelock import lock_descriptor

from hrnet_jax.parallel.processes import is_first
from hrnet_jax.runs.paths import AnyPath, is_remote, make_folder, write_json
from hrnet_jax.runs.stored_weights import FOLDER


@contextlib.contextmanager
def lock_workdir(workdir: AnyPath, *, warn: Callable[[str], None]) -> Iterator[None]:
    """Refuse a workdir that another run uses; else lock it while the block runs.

    The system releases the lock of a process that ends in whatever way. File systems without locks
    and buckets get a warning. Temporary files that a killed run left are removed.

    Raises:
        ValueError: names the process that holds the lock.
    """
    make_folder(workdir)
    if is_remote(workdir):
        warn(f"{workdir} cannot be locked: nothing keeps a second run away from it.")
        yield
        return
    path = workdir / ".lock"
    # Not a `filelock.FileLock`: it may fall back to a lock file that a killed process leaves.
    with path.open("a+") as file:
        locked = False
        try:
            locked = lock_descriptor(file.fileno(), blocking=False)
        except OSError as error:
            warn(
                f"{workdir} is on a file system without locks ({error.strerror}): nothing keeps a "
                "second run away from it."
            )
        else:
            if not locked:
                raise ValueError(
                    f"{workdir} is in use by {_owner(path)}. Two runs would spoil each other's "
                    "files: wait for that one, stop it, or give this one another --workdir."
                )
        if locked:
            file.truncate(0)
            now = datetime.datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
            json.dump({"host": platform.node(), "pid": os.getpid(), "since": now}, file)
            file.flush()
            # Whoever wrote these was killed while writing.
            for left in (*workdir.glob(".*.tmp"), *workdir.glob("pictures/.*.tmp")):
                left.unlink()
        yield


def _owner(path: AnyPath) -> str:
    try:
        owner = json.loads(path.read_text())
        return f"process {owner['pid']} on {owner['host']} since {owner['since']}"
    except (ValueError, KeyError, OSError):  # it has just begun; Windows lets nobody else read
        return "another run"


@contextlib.contextmanager
def folder_of_this_process(workdir: AnyPath) -> Iterator[AnyPath]:
    """The workdir for the first process, a temporary folder for every other one.

    So all run the same lines, and what they write and draw is kept once.
    """
    if is_first():
        yield workdir
        return
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


def check_same_config(
    workdir: AnyPath,
    config: dict[str, Any],
    *,
    changes: Callable[[dict[str, Any]], tuple[list[str], list[str]]],
    log: Callable[[str], None],
) -> None:
    """Write the resolved config into the workdir; refuse one with checkpoints of another config.

    Args:
        workdir: the run's folder.
        config: all fields; plain data.
        changes: compares the config of the checkpoints with this one. Returns the changes that
            would alter the result, which are refused, and the others, which are logged.
        log: takes a line for the user.

    Raises:
        ValueError: names the changed fields, or the damaged file.
    """
    path = workdir / "config.json"
    if path.exists() and any((workdir / FOLDER).glob("[0-9]*")):
        try:
            refused, allowed = changes(json.loads(path.read_text()))
        except (ValueError, TypeError) as error:
            raise ValueError(
                f"{path} is damaged ({error}); restore it, or give another --workdir."
            ) from error
        if refused:
            listed = "\n  ".join(refused)
            raise ValueError(
                f"{workdir} belongs to a run with another config:\n  {listed}\n"
                "Give the old values to resume it, or another --workdir to start a new run."
            )
        if allowed:
            log(f"Changed since the last start: {'; '.join(allowed)}.")
    write_json(path, config)
