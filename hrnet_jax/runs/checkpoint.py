"""Orbax checkpoints: the training state, and all that a later run needs to know about it.

A checkpoint is a folder named after its step with three items: `model` (parameters and batch
statistics), `optimizer`, and `meta` (JSON: resolved config, class names, palette, normalisation,
a CRC-32 of every leaf). Weights without training have no `optimizer`. Beside them lie `files.json`,
size and CRC-32 of every file, and after an evaluation `scores.json`.
"""

import contextlib
import copy
import dataclasses
import json
import math
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.flatten_util import ravel_pytree
from jax.tree_util import keystr, tree_leaves_with_path

from hrnet_jax.parallel import processes
from hrnet_jax.parallel.mesh import wait_on_cpu
from hrnet_jax.runs.checksums import FILES, check_files, check_leaves, leaf_checksums, list_files
from hrnet_jax.runs.paths import (
    AnyPath,
    absolute,
    is_remote,
    move_folder,
    to_path,
    write_json,
)

FOLDER = "checkpoints"  # within a workdir
_ITEMS = ("model", "optimizer", "meta")
_FORMAT = 2  # of the items; 0.1.0 wrote none, called batch statistics "stats", momentum a vector
_SCORES = "scores.json"
_UNFINISHED = ".orbax-checkpoint-tmp"  # what Orbax puts behind a step until all of it is written


# A dataclass with the fields of `training.state.TrainState`, which this file need not know.
State = Any


@dataclasses.dataclass(frozen=True, kw_only=True)
class Weights:
    """What evaluation and prediction need of a checkpoint."""

    params: dict[str, Any]
    stats: dict[str, Any]
    meta: dict[str, Any]
    step: int
    path: AnyPath


class Restored(NamedTuple):
    """What a run goes on from."""

    step: int
    state: State
    meta: dict[str, Any]


class Checkpoints:
    """The checkpoints of one workdir: the newest `keep_newest`, and the best by mIoU."""

    def __init__(self, workdir: AnyPath, *, keep_newest: int, warn: Callable[[str], None]):
        self._folder = absolute(workdir) / FOLDER
        self._warn, self._keep_newest = warn, keep_newest
        self._saving: int | None = None  # the step whose files are on their way
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
        """Write a checkpoint in the background; call `wait` before trusting that it is there.

        Args:
            step: the number of steps done.
            state: all that training changes.
            meta: what a later run must know; JSON.

        Raises:
            OSError: this one or the one before could not be written.
        """
        self.wait()
        # As numpy arrays, which the checksums need anyway. From arrays on several devices Orbax
        # writes a slice of each per device, and compiles a program for every shape of a slice.
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
                    # A copy: Orbax writes it later, when the run may have changed what it gave.
                    meta=ocp.args.JsonSave(
                        copy.deepcopy({**meta, "step": step, "format": _FORMAT, "checksums": sums})
                    ),
                ),
            )
        if not saved:
            raise RuntimeError(f"Orbax did not save step {step} in {self._folder}.")

    def scores(self, step: int) -> dict[str, float] | None:
        """The scores of a checkpoint; None if it has none, or none that can be trusted."""
        try:
            return _read_scores(self._folder / str(step))
        except ValueError as error:
            self._warn(f"{error}; the scores are left out.")
            return None

    def score(self, step: int, scores: Mapping[str, float]) -> None:
        """Note the scores of a checkpoint, mIoU among them; from now on it may be the best."""
        self.wait()
        if processes.is_first():
            _write_scores(self._folder / str(step), scores)
        processes.wait_for_all(f"scores of step {step}")  # all must agree on what is kept
        for old in set(self.steps) - self._kept(self.steps):
            self._manager.delete(old)

    def _kept(self, steps: Sequence[int]) -> set[int]:
        best = best_step(self._folder, steps)
        return {*sorted(steps)[-self._keep_newest :], *([] if best is None else [best])}

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> Sequence[bool]:
        """Tell Orbax, after a save, what to keep; its own policies know no scores that come later.

        That is also why the scores are no business of Orbax: a checkpoint is written before its
        evaluation, which may take so long that the run does not live to see its end.
        """
        kept = self._kept([checkpoint.step for checkpoint in checkpoints])
        return [checkpoint.step in kept for checkpoint in checkpoints]

    def restore_latest(self, like: State) -> Restored | None:
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
                check_files(self._folder / str(step), among=_ITEMS)
                state, meta = self._restore(step, like)
                self._set_aside(damaged)
                return Restored(step, state, meta)
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
        for step in steps if processes.is_first() else ():
            move_folder(self._folder / str(step), self._folder.parent / "damaged" / str(step))
        processes.wait_for_all("damaged checkpoints")
        if steps:
            self._manager.reload()

    def _restore(self, step: int, like: State) -> tuple[State, dict[str, Any]]:
        meta = json.loads((self._folder / str(step) / "meta" / "metadata").read_text())
        stats = "batch_stats" if "format" in meta else "stats"
        model = {"params": like.params, stats: like.batch_stats}
        optimizer, finish = like.opt_state, lambda tree: tree
        if "format" not in meta:
            optimizer, finish = _as_in_0_1_0(like)
        # Read as numpy arrays: Orbax would put each of hundreds of tensors on the devices.
        model, optimizer = jax.tree.map(
            lambda leaf: np.empty(leaf.shape, leaf.dtype), (model, optimizer)
        )
        items = self._manager.restore(
            step,
            args=ocp.args.Composite(
                model=ocp.args.StandardRestore(model),
                optimizer=ocp.args.StandardRestore(optimizer),
            ),
        )
        for item in ("model", "optimizer"):
            check_leaves(items[item], meta["checksums"][item])
        state = dataclasses.replace(
            like,
            step=np.int32(step),
            params=items["model"]["params"],
            batch_stats=items["model"][stats],
            opt_state=finish(items["optimizer"]),
        )
        _check_shapes(state, like)
        shardings = jax.tree.map(lambda leaf: leaf.sharding, like)
        return wait_on_cpu(jax.device_put(state, shardings)), meta

    def meta(self) -> dict[str, Any] | None:
        """Read the `meta` of the newest checkpoint that has a readable one."""
        for step in reversed(self.steps):
            path = self._folder / str(step) / "meta" / "metadata"
            if path.exists():
                with contextlib.suppress(ValueError, OSError):
                    return json.loads(path.read_text())
        return None

    def check(self) -> None:
        """Raise what went wrong with a save, if anything did so far; costs no time."""
        with self._explained():
            self._manager.check_for_errors()

    def wait(self) -> None:
        """Wait until everything is on disk; raise what went wrong there."""
        with self._explained():
            self._manager.wait_until_finished()
        self._saving = None

    def close(self) -> None:
        """Wait, then release the folder."""
        # Orbax may tell of one failure here as well as there.
        with self._explained(), contextlib.closing(self._manager):
            # Orbax itself waits for this before it saves, and otherwise not at all: a program that
            # ends sooner ends with the traceback of the thread that cleans up.
            self._manager._maybe_await_cleanup_tmp_directory()
            self._manager.wait_until_finished()

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        """Close; what goes wrong now takes no other error's place."""
        try:
            self.close()
        except OSError as late:
            if error is None:
                raise
            if str(late) != str(error):
                self._warn(str(late))

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn what Orbax raises when it cannot write, of many types, into one that says so."""
        try:
            yield
        except Exception as error:
            raise OSError(
                f"Checkpoint {self._saving} could not be written to {self._folder} "
                f"({_first_line(error)}). The ones before it are as they were: make room or give "
                "write permission, and the same command goes on from the last of them."
            ) from error

    def _seal(self) -> None:
        """Called by Orbax when all is written but not yet under its final name."""
        if processes.is_first() and self._saving is not None:
            unfinished = self._folder / f"{self._saving}{_UNFINISHED}"
            # Where folders cannot be renamed, Orbax writes under the final name.
            list_files(unfinished if unfinished.exists() else self._folder / str(self._saving))


def _as_in_0_1_0(like: State) -> tuple[Any, Callable[[Any], Any]]:
    """Return the optimiser's state as 0.1.0 kept it, and what turns that into today's.

    There every tree of the parameters' shape (the momentum) was one vector.
    """
    vector, unravel = ravel_pytree(jax.tree.map(np.asarray, jax.device_get(like.params)))
    structure: Any = jax.tree.structure(like.params)

    def is_params(tree: Any) -> bool:
        return jax.tree.structure(tree) == structure

    old = jax.tree.map(
        lambda tree: vector if is_params(tree) else tree, like.opt_state, is_leaf=is_params
    )

    def finish(restored: Any) -> Any:
        return jax.tree.map(
            lambda leaf: unravel(leaf) if leaf.shape == vector.shape else leaf, restored
        )

    return old, finish


def _check_shapes(state: State, like: State) -> None:
    for name in ("params", "batch_stats"):
        found, expected = (
            {keystr(path): leaf.shape for path, leaf in tree_leaves_with_path(getattr(s, name))}
            for s in (state, like)
        )
        if found != expected:
            raise ValueError(f"its {name} are not those of this network")


def save_weights(folder: AnyPath, params: dict, stats: dict, *, meta: Mapping[str, Any]) -> AnyPath:
    """Write weights that no training of ours made: step 0 of a folder without checkpoints.

    `meta` is what `load_weights` gives back, and has an entry `source`.
    """
    manager = ocp.CheckpointManager(absolute(folder) / FOLDER, item_names=_ITEMS)
    if manager.all_steps():
        manager.close()
        raise ValueError(f"{folder} holds a checkpoint already; choose another folder.")
    model = {"params": params, "batch_stats": stats}
    sums = {"model": leaf_checksums(model)}
    manager.save(
        0,
        args=ocp.args.Composite(
            model=ocp.args.StandardSave(model),
            meta=ocp.args.JsonSave({**meta, "step": 0, "format": _FORMAT, "checksums": sums}),
        ),
    )
    manager.close()  # waits until everything is on disk
    list_files(folder / FOLDER / "0")
    return folder / FOLDER / "0"


def load_weights(path: str | AnyPath) -> Weights:
    """Load the weights of a workdir (best by mIoU, else newest) or of one checkpoint folder.

    Raises:
        FileNotFoundError: where no checkpoint lies there.
        ValueError: if the file contents do not match their checksums.
    """
    folder, step = _locate(absolute(to_path(path)))
    place = folder / str(step)
    try:
        check_files(place, among=("model", "meta"))
        meta = json.loads((place / "meta" / "metadata").read_text())
        with ocp.PyTreeCheckpointer() as reader:
            # As numpy arrays: on any number and kind of devices, in the dtype they were saved in.
            saved = reader.metadata(place / "model").item_metadata.tree
            as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), saved)
            model = reader.restore(
                place / "model", args=ocp.args.PyTreeRestore(restore_args=as_numpy)
            )
        check_leaves(model, meta["checksums"]["model"])
    except Exception as error:  # Orbax raises many types on damage
        raise ValueError(
            f"{place} is damaged ({_first_line(error)}); give another checkpoint."
        ) from error
    return Weights(
        params=with_int_keys(model["params"]),
        stats=with_int_keys(model["batch_stats" if "format" in meta else "stats"]),
        meta=meta,
        step=step,
        path=place,
    )


def _locate(path: AnyPath) -> tuple[AnyPath, int]:
    """Find the folder of checkpoints and the step that a user means by `path`."""
    if path.name.isdigit() and (path / "meta").is_dir():
        return path.parent, int(path.name)
    folder = path / FOLDER if (path / FOLDER).is_dir() else path
    steps = (
        [
            int(place.name)
            for place in folder.iterdir()
            if place.name.isdigit() and _is_finished(place)
        ]
        if folder.is_dir()
        else []
    )
    if not steps:
        raise FileNotFoundError(
            f"There is no checkpoint in {path}. Train first (hrnet_jax.main --mode train), "
            "or give a workdir or one of its checkpoints."
        )
    best = best_step(folder, steps)
    return folder, max(steps) if best is None else best


def _is_finished(place: AnyPath) -> bool:
    """Whether a folder is a checkpoint; in a bucket a save that was cut off has its name, too."""
    return (place / FILES).exists() if is_remote(place) else any(place.iterdir())


def best_step(folder: AnyPath, steps: Sequence[int]) -> int | None:
    """The step with the highest mIoU, the last of equals; None where nothing was scored."""
    known: list[tuple[float, int]] = []
    for step in steps:
        with contextlib.suppress(ValueError):  # a damaged one is told of where a run resumes
            scores = _read_scores(folder / str(step))
            if scores is not None and not math.isnan(scores["mIoU"]):
                known.append((scores["mIoU"], step))
    return max(known)[1] if known else None


def _write_scores(place: AnyPath, scores: Mapping[str, float]) -> None:
    text = json.dumps(scores)
    write_json(place / _SCORES, {"scores": text, "crc32": zlib.crc32(text.encode())})


def _read_scores(place: AnyPath) -> dict[str, float] | None:
    path = place / _SCORES
    if not path.exists():
        return None
    try:
        entry = json.loads(path.read_text())
        if zlib.crc32(entry["scores"].encode()) == entry["crc32"]:
            return json.loads(entry["scores"])
    except (ValueError, KeyError, TypeError, AttributeError):
        pass
    raise ValueError(f"{path} is damaged")


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
