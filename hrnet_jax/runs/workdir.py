"""The workdir of a run: locked while it is used, and bound to one config."""

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
    """Lock a workdir while the block runs, and remove temporary files of killed runs.

    The system releases the lock when the process ends, however it ends. Buckets and file systems
    without locks get a warning.

    Raises:
        ValueError: another process holds the lock; the message names it.
    """
    make_folder(workdir)
    if is_remote(workdir):
        warn(f"{workdir} cannot be locked: make sure that no other run uses it.")
        yield
        return
    path = workdir / ".lock"
    # Not `filelock.FileLock`, which may fall back to a lock file that a killed process leaves.
    with path.open("a+") as file:
        try:
            if not lock_descriptor(file.fileno(), blocking=False):
                raise ValueError(
                    f"{workdir} is in use by {_owner(path)}. Two runs would overwrite each other's "
                    "files: wait for that one, stop it, or give this one another --workdir."
                )
        except OSError as error:
            warn(
                f"{workdir} is on a file system without locks ({error.strerror}): make sure that "
                "no other run uses it."
            )
        else:
            file.truncate(0)
            now = datetime.datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
            json.dump({"host": platform.node(), "pid": os.getpid(), "since": now}, file)
            file.flush()
            for temporary in (*workdir.glob(".*.tmp"), *workdir.glob("pictures/.*.tmp")):
                temporary.unlink()
        yield


def _owner(path: AnyPath) -> str:
    try:
        owner = json.loads(path.read_text())
        return f"process {owner['pid']} on {owner['host']} since {owner['since']}"
    except (ValueError, KeyError, OSError):  # not written yet, or not readable on Windows
        return "another run"


@contextlib.contextmanager
def folder_of_this_process(workdir: AnyPath) -> Iterator[AnyPath]:
    """Yield the workdir in the first process, and a temporary folder in every other one.

    So all processes run the same code, but only the first one's files are kept.
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
    """Write the config into the workdir; refuse a workdir with checkpoints of another config.

    Args:
        workdir: the folder of the run.
        config: the resolved config as plain data.
        changes: compares the stored config with this one. Returns the changes that alter the
            result, which are refused, and the others, which are logged.
        log: prints a line.

    Raises:
        ValueError: fields have changed, or the stored config is damaged.
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
