"""Orbax checkpoints: the training state, and all that a later run needs to know about it.

A checkpoint is a folder named after its step with three items: `model` (parameters and batch
statistics), `optimizer`, and `meta` (JSON: resolved config, class names, palette, normalisation,
a CRC-32 of every leaf). Weights without training have no `optimizer`.
"""

import contextlib
import dataclasses
import json
import shutil
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import preservation_policy as keep

from hrnet_jax.metrics import Scores
from hrnet_jax.step import State

FOLDER = "checkpoints"  # within a workdir
_ITEMS = ("model", "optimizer", "meta")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Weights:
    """What evaluation and prediction need of a checkpoint."""

    params: dict[str, Any]
    stats: dict[str, Any]
    meta: dict[str, Any]
    step: int
    path: Path


class Checkpoints:
    """The checkpoints of one workdir: the newest `keep_newest`, and the best by mIoU."""

    def __init__(self, workdir: Path, *, keep_newest: int, warn: Callable[[str], None]):
        self._folder = workdir.absolute() / FOLDER
        self._manager = _open(self._folder, keep_newest=keep_newest)
        self._warn = warn

    @property
    def steps(self) -> list[int]:
        """The steps that can be restored, oldest first."""
        return sorted(self._manager.all_steps())

    def save(
        self,
        step: int,
        state: State,
        *,
        meta: Mapping[str, Any],
        scores: Scores | None = None,
    ) -> None:
        """Write a checkpoint in the background; call `wait` before trusting that it is there.

        Args:
            step: the number of steps done.
            state: all that training changes.
            meta: what a later run must know; JSON.
            scores: of the evaluation at this step; without it this one cannot be the best.
        """
        # As numpy arrays, which the checksums need anyway. From arrays on several devices Orbax
        # writes a slice of each per device, and compiles a program for every shape of a slice.
        state = jax.device_get(state)
        model = {"params": state.params, "stats": state.stats}
        sums = {"model": leaf_checksums(model), "optimizer": leaf_checksums(state.optimizer)}
        saved = self._manager.save(
            step,
            args=ocp.args.Composite(
                model=ocp.args.StandardSave(model),
                optimizer=ocp.args.StandardSave(state.optimizer),
                meta=ocp.args.JsonSave({**meta, "step": step, "checksums": sums}),
            ),
            metrics=None if scores is None else scores.summary(),
        )
        if not saved:
            raise RuntimeError(f"Orbax did not save step {step} in {self._folder}.")

    def restore_latest(self, like: State) -> tuple[int, State] | None:
        """Return the newest undamaged checkpoint, laid out as `like`; None if there is none.

        A damaged one is named, the one before it is used, and the damaged one is moved to
        `damaged/` in the workdir: its step will be saved anew.
        """
        if "source" in (self.meta() or {}):
            raise ValueError(
                f"{self._manager.directory} holds converted weights, not a run to go on with; "
                "start from them in another --workdir, with --config.init_from=<this folder>."
            )
        damaged: list[int] = []
        for step in reversed(self.steps):
            try:
                state = self._restore(step, like)
                self._set_aside(damaged)
                return step, state
            except Exception as error:  # Orbax raises many types on damage
                self._warn(
                    f"checkpoint {step} in {self._manager.directory} is damaged "
                    f"({_first_line(error)}); trying the one before it."
                )
                damaged.append(step)
        if self.steps:
            raise ValueError(
                f"None of the checkpoints {self.steps} in {self._manager.directory} can be read; "
                "move that folder away to start anew."
            )
        return None

    def _set_aside(self, steps: list[int]) -> None:
        """Move checkpoints out of the way; Orbax would not save a step that is not the newest."""
        for step in steps:
            target = self._folder.parent / "damaged" / str(step)
            target.parent.mkdir(exist_ok=True)
            if target.exists():
                shutil.rmtree(target)
            (self._folder / str(step)).rename(target)
        if steps:
            self._manager.reload()

    def _restore(self, step: int, like: State) -> State:
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        items = self._manager.restore(
            step,
            args=ocp.args.Composite(
                model=ocp.args.StandardRestore(
                    {"params": abstract.params, "stats": abstract.stats}
                ),
                optimizer=ocp.args.StandardRestore(abstract.optimizer),
                meta=ocp.args.JsonRestore(),
            ),
        )
        for item in ("model", "optimizer"):
            _check_sums(items[item], items["meta"]["checksums"][item])
        return State(items["model"]["params"], items["model"]["stats"], items["optimizer"])

    def meta(self) -> dict[str, Any] | None:
        """Read the `meta` of the newest checkpoint that has a readable one."""
        for step in reversed(self.steps):
            path = Path(self._manager.directory) / str(step) / "meta" / "metadata"
            if path.exists():
                with contextlib.suppress(ValueError, OSError):
                    return json.loads(path.read_text())
        return None

    def wait(self) -> None:
        """Wait until everything is on disk; raise what went wrong there."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Wait, then release the folder."""
        self.wait()
        self._manager.close()


def save_weights(folder: Path, params: dict, stats: dict, *, meta: Mapping[str, Any]) -> Path:
    """Write weights that no training of ours made: step 0 of a folder without checkpoints.

    `meta` is what `load_weights` gives back, and has an entry `source`.
    """
    manager = _open(folder.absolute() / FOLDER, keep_newest=1)
    if manager.all_steps():
        manager.close()
        raise ValueError(f"{folder} holds a checkpoint already; choose another folder.")
    model = {"params": params, "stats": stats}
    sums = {"model": leaf_checksums(model)}
    manager.save(
        0,
        args=ocp.args.Composite(
            model=ocp.args.StandardSave(model),
            meta=ocp.args.JsonSave({**meta, "step": 0, "checksums": sums}),
        ),
    )
    manager.close()  # waits until everything is on disk
    return folder / FOLDER / "0"


def load_weights(path: Path) -> Weights:
    """Load the weights of a workdir (best by mIoU, else newest) or of one checkpoint folder.

    Raises:
        FileNotFoundError: where no checkpoint lies there.
        ValueError: if the file contents do not match their checksums.
    """
    folder, step = _locate(path.expanduser().absolute())
    place = folder / str(step)
    try:
        meta = json.loads((place / "meta" / "metadata").read_text())
        with ocp.PyTreeCheckpointer() as reader:
            # As numpy arrays: on any number and kind of devices, in the dtype they were saved in.
            saved = reader.metadata(place / "model").item_metadata.tree
            as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), saved)
            model = reader.restore(
                place / "model", args=ocp.args.PyTreeRestore(restore_args=as_numpy)
            )
        _check_sums(model, meta["checksums"]["model"])
    except Exception as error:  # Orbax raises many types on damage
        raise ValueError(
            f"{place} is damaged ({_first_line(error)}); give another one with --checkpoint."
        ) from error
    return Weights(
        params=with_int_keys(model["params"]),
        stats=with_int_keys(model["stats"]),
        meta=meta,
        step=step,
        path=place,
    )


def _locate(path: Path) -> tuple[Path, int]:
    """Find the folder of checkpoints and the step that a user means by `path`."""
    if path.name.isdigit() and (path / "meta").is_dir():
        return path.parent, int(path.name)
    folder = path / FOLDER if (path / FOLDER).is_dir() else path
    manager = _open(folder, keep_newest=1, read_only=True) if folder.is_dir() else None
    step = None
    if manager is not None:
        step = manager.best_step()
        step = manager.latest_step() if step is None else step
        manager.close()
    if step is None:
        raise FileNotFoundError(
            f"There is no checkpoint in {path}. Train first (the same command with --mode train), "
            "or point --checkpoint to a workdir or to one of its checkpoints."
        )
    return folder, step


def _open(folder: Path, *, keep_newest: int, read_only: bool = False) -> ocp.CheckpointManager:
    def miou(scores: Mapping[str, float]) -> float:
        return scores["mIoU"]

    # `best_fn` with `max_to_keep` would keep the best ones only and delete the newest.
    policy = keep.AnyPreservationPolicy(
        [
            keep.LatestN(keep_newest),
            keep.BestN(get_metric_fn=miou, n=1, keep_checkpoints_without_metrics=False),
        ]
    )
    options = ocp.CheckpointManagerOptions(
        preservation_policy=policy,
        best_fn=miou,
        best_mode="max",
        cleanup_tmp_directories=not read_only,
        read_only=read_only,
        create=not read_only,
    )
    return ocp.CheckpointManager(folder, options=options, item_names=_ITEMS)


def leaf_checksums(tree: Any) -> dict[str, int]:
    """CRC-32 of every leaf's bytes: Orbax returns a flipped bit without an error."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="."): zlib.crc32(
            np.ascontiguousarray(jax.device_get(leaf)).tobytes()
        )
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def _check_sums(tree: Any, expected: dict[str, int]) -> None:
    found = leaf_checksums(tree)
    wrong = sorted(name for name in expected | found if expected.get(name) != found.get(name))
    if wrong:
        raise ValueError(f"{len(wrong)} tensors differ from what was saved, first {wrong[0]}")


def with_int_keys(tree: Any) -> Any:
    """Orbax names the members of lists "0", "1"; our modules count with numbers."""
    if not isinstance(tree, dict):
        return tree
    return {
        int(name) if isinstance(name, str) and name.isdigit() else name: with_int_keys(item)
        for name, item in tree.items()
    }


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
