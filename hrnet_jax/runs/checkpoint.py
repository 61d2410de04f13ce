"""Orbax checkpoints: the training state and its metadata.

A checkpoint is a folder named after its step with three items: `model` (parameters and batch
statistics), `optimizer`, and `meta` (JSON: resolved config, class names, palette, normalisation, a
CRC-32 of every leaf). Converted weights have no `optimizer`. The folder also holds `files.json`,
with the size and CRC-32 of every file, and `scores.json` after an evaluation.
"""

import contextlib
import copy
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import orbax.checkpoint as ocp

from hrnet_jax.parallel import processes
from hrnet_jax.runs.checksums import check_files, leaf_checksums, list_files
from hrnet_jax.runs.paths import AnyPath, absolute, move_folder
from hrnet_jax.runs.restore import State, restore_state
from hrnet_jax.runs.scores import best_step, read_scores, write_scores
from hrnet_jax.runs.stored_weights import FOLDER, FORMAT, first_line

_ITEMS = ("model", "optimizer", "meta")
_UNFINISHED = ".orbax-checkpoint-tmp"  # Orbax's suffix of a folder that is being written


class Restored(NamedTuple):
    """The checkpoint from which a run resumes."""

    step: int
    state: State
    meta: dict[str, Any]


class Checkpoints:
    """The checkpoints of one workdir: the newest `keep_newest`, and the best by mIoU."""

    def __init__(self, workdir: AnyPath, *, keep_newest: int, warn: Callable[[str], None]):
        self._folder = absolute(workdir) / FOLDER
        self._warn, self._keep_newest = warn, keep_newest
        self._saving: int | None = None  # the step that is being written
        for path in sorted(self._folder.glob(f"*{_UNFINISHED}*")):
            warn(f"{path} was left unfinished by a run that was stopped while saving; removing it.")
        self._manager = ocp.CheckpointManager(
            self._folder,
            options=ocp.CheckpointManagerOptions(
                preservation_policy=self,
                cleanup_tmp_directories=True,
                async_options=ocp.AsyncOptions(post_finalization_callback=self._seal),
            ),
            item_names=_ITEMS,
        )

    @property
    def steps(self) -> list[int]:
        """The steps that can be restored, oldest first."""
        return sorted(self._manager.all_steps())

    def save(self, step: int, state: State, *, meta: Mapping[str, Any]) -> None:
        """Write a checkpoint in the background; `wait` returns when it is on disk.

        Args:
            step: number of steps done.
            state: the training state.
            meta: JSON metadata for later runs.

        Raises:
            OSError: this checkpoint or the one before could not be written.
        """
        self.wait()
        # As numpy arrays, which the checksums need anyway. Orbax would write one slice per device,
        # and compile a program for every shape of a slice.
        state = jax.device_get(state)
        model = {"params": state.params, "batch_stats": state.batch_stats}
        sums = {"model": leaf_checksums(model), "optimizer": leaf_checksums(state.opt_state)}
        self._saving = step
        with self._explained():
            saved = self._manager.save(
                step,
                args=ocp.args.Composite(
                    model=ocp.args.StandardSave(model),
                    optimizer=ocp.args.StandardSave(state.opt_state),
                    # A copy, because Orbax writes it later and the run may change it before.
                    meta=ocp.args.JsonSave(
                        copy.deepcopy({**meta, "step": step, "format": FORMAT, "checksums": sums})
                    ),
                ),
            )
        if not saved:
            raise RuntimeError(f"Orbax did not save step {step} in {self._folder}.")

    def scores(self, step: int) -> dict[str, float] | None:
        """Return the scores of a checkpoint; None if it has none or they are damaged."""
        try:
            return read_scores(self._folder / str(step))
        except ValueError as error:
            self._warn(f"{error}; the scores are left out.")
            return None

    def score(self, step: int, scores: Mapping[str, float]) -> None:
        """Store the scores of a checkpoint, including mIoU, and delete what need not be kept."""
        self.wait()
        if processes.is_first():
            write_scores(self._folder / str(step), scores)
        processes.wait_for_all(f"scores of step {step}")  # all must agree on what is kept
        for old in set(self.steps) - self._kept(self.steps):
            self._manager.delete(old)

    def _kept(self, steps: Sequence[int]) -> set[int]:
        best = best_step(self._folder, steps)
        return {*sorted(steps)[-self._keep_newest :], *([] if best is None else [best])}

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> Sequence[bool]:
        """Select the checkpoints that Orbax keeps after a save.

        Orbax's own policies need the scores when a checkpoint is saved. Here they come later: a run
        saves before it evaluates, in case it is stopped during the evaluation.
        """
        kept = self._kept([checkpoint.step for checkpoint in checkpoints])
        return [checkpoint.step in kept for checkpoint in checkpoints]

    def restore_latest(self, like: State) -> Restored | None:
        """Restore the newest undamaged checkpoint with the shardings of `like`; None without any.

        Newer, damaged checkpoints are reported and moved to `damaged/` in the workdir, so that
        their steps can be saved again.

        Raises:
            ValueError: all checkpoints are damaged, or the folder holds converted weights.
        """
        if "source" in (self.meta() or {}):
            raise ValueError(
                f"{self._manager.directory} holds converted weights, not a run to resume; "
                "start from them in another --workdir, with --config.init_from=<this folder>."
            )
        damaged: list[int] = []
        for step in reversed(self.steps):
            try:
                check_files(self._folder / str(step), among=_ITEMS)
                state, meta = restore_state(self._manager, step, like=like)
                self._set_aside(damaged)
                return Restored(step, state, meta)
            except Exception as error:  # Orbax raises many types on damage
                self._warn(
                    f"checkpoint {step} in {self._manager.directory} is damaged "
                    f"({first_line(error)}); trying the one before it."
                )
                damaged.append(step)
        if self.steps:
            raise ValueError(
                f"None of the checkpoints {self.steps} in {self._manager.directory} can be read; "
                "move that folder away to start again from step 0."
            )
        return None

    def _set_aside(self, steps: list[int]) -> None:
        """Move damaged checkpoints away; Orbax saves no step older than its newest."""
        for step in steps if processes.is_first() else ():
            move_folder(self._folder / str(step), self._folder.parent / "damaged" / str(step))
        processes.wait_for_all("damaged checkpoints")
        if steps:
            self._manager.reload()

    def meta(self) -> dict[str, Any] | None:
        """Return the newest `meta` that is readable; None without any."""
        for step in reversed(self.steps):
            path = self._folder / str(step) / "meta" / "metadata"
            if path.exists():
                with contextlib.suppress(ValueError, OSError):
                    return json.loads(path.read_text())
        return None

    def check(self) -> None:
        """Raise the error of a background save that has failed; does not wait."""
        with self._explained():
            self._manager.check_for_errors()

    def wait(self) -> None:
        """Wait until everything is on disk, or raise the error of the save."""
        with self._explained():
            self._manager.wait_until_finished()
        self._saving = None

    def close(self) -> None:
        """Wait, then release the folder."""
        # Orbax may raise the same failure in each of these calls.
        with self._explained(), contextlib.closing(self._manager):
            # Orbax waits for this before it saves, but not here: a program that ends sooner would
            # print the traceback of the thread that cleans up.
            self._manager._maybe_await_cleanup_tmp_directory()
            self._manager.wait_until_finished()

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        """Close; an error on closing does not replace the one that left the block."""
        try:
            self.close()
        except OSError as late:
            if error is None:
                raise
            if str(late) != str(error):
                self._warn(str(late))

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """Raise an OSError with advice for any error that Orbax raises on writing."""
        try:
            yield
        except Exception as error:
            raise OSError(
                f"Checkpoint {self._saving} could not be written to {self._folder} "
                f"({first_line(error)}). Earlier checkpoints are intact: make room or give write "
                "permission, and the same command resumes from the last of them."
            ) from error

    def _seal(self) -> None:
        """Write the file list; Orbax calls this before it renames a finished checkpoint."""
        if processes.is_first() and self._saving is not None:
            unfinished = self._folder / f"{self._saving}{_UNFINISHED}"
            # In a bucket, where folders cannot be renamed, it has its final name already.
            list_files(unfinished if unfinished.exists() else self._folder / str(self._saving))
