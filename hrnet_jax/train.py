"""Training: start or resume a run, then the loop: step, report, save, evaluate."""

import functools
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from typing import Any, NamedTuple

import jax
from ml_collections import ConfigDict

from hrnet_jax.config.build_data import Data, build_data, check_some_examples
from hrnet_jax.config.build_evaluation import Evaluation, build_evaluation
from hrnet_jax.config.build_training import Training, build_training, first_weights
from hrnet_jax.config.stored import differences
from hrnet_jax.evaluation.metrics import Scores
from hrnet_jax.evaluation.summary import class_table
from hrnet_jax.evaluation.visualize import draw_curves
from hrnet_jax.parallel.compiling import compile_program
from hrnet_jax.parallel.mesh import to_global
from hrnet_jax.parallel.process_settings import gc_frozen
from hrnet_jax.runs.checkpoint import Checkpoints
from hrnet_jax.runs.metrics_log import MetricsWriter
from hrnet_jax.runs.paths import AnyPath, absolute, to_path
from hrnet_jax.runs.signals import stop_request
from hrnet_jax.runs.terminal import Terminal
from hrnet_jax.runs.workdir import check_same_config, folder_of_this_process, lock_workdir
from hrnet_jax.training.monitor import Monitor
from hrnet_jax.training.state import TrainState
from hrnet_jax.training.step import Metrics

TrainStep = Callable[[TrainState, dict[str, jax.Array]], tuple[TrainState, Metrics]]


def train(config: ConfigDict, *, workdir: str | AnyPath, terminal: Terminal) -> Scores | None:
    """Train from the newest checkpoint in `workdir`; without one, start a new run.

    Returns the scores of the last evaluation; None if the run was already finished.

    Raises:
        ValueError: the config, the workdir or the data cannot work.
        Stopped: after SIGTERM or SIGINT, once the interrupted step is saved.
    """
    workdir, last = to_path(workdir), config.train.steps
    training = build_training(config)
    data = build_data(config, terminal=terminal)
    evaluation = build_evaluation(config, structure=training.structure, terminal=terminal)
    check_some_examples(data, validation=evaluation.source)
    with ExitStack() as stack:
        enter = stack.enter_context
        folder = enter(open_workdir(config, workdir=workdir, terminal=terminal))
        checkpoints = enter(Checkpoints(workdir, keep_newest=2, warn=terminal.warn))
        start = start_or_resume(config, training, checkpoints=checkpoints, terminal=terminal)
        terminal.line(introduction(config, training, data, evaluation, origin=start.origin))
        if start.step >= last and start.scored:
            terminal.line(f"All {last} steps are done; --mode eval scores the best checkpoint.")
            return None
        train_step = compile_step(training, start.state, terminal=terminal)
        enter(gc_frozen())
        batches = enter(closing(data.batches(start.step, workdir=workdir)))
        writer = enter(closing(MetricsWriter(folder, start=start.step, scored=start.scored)))
        stop = enter(stop_request())
        monitor = enter(open_monitor(config, training, start, writer=writer, terminal=terminal))

        def evaluate(step: int, state: TrainState) -> Scores:
            with monitor.paused():
                examples = stop.watch(evaluation.examples())
                pictures = evaluation.pictures(folder / "pictures")
                scores = evaluation.score(
                    state.params, state.batch_stats, examples=examples, on_prediction=pictures
                )
                monitor.report_scores(step, scores.summary())
                draw_curves(writer.entries(), folder / "curves.png", title=config.name)
                # Last: a checkpoint without scores is evaluated again when the run resumes.
                checkpoints.score(step, scores.summary())
            return scores

        state = start.state
        scores = None if start.scored else evaluate(start.step, state)
        for step in range(start.step + 1, last + 1):
            with monitor.waiting_for_data():
                batch = next(batches)
            state, metrics = train_step(state, to_global(batch, mesh=training.mesh))
            monitor.add(step, metrics, ids=batch["id"].tolist())
            stops = stop.is_due(step)
            saves = is_due(step, config.checkpoint.every_steps, last=last)
            evaluates = is_due(step, config.eval.every_steps, last=last)
            if saves or evaluates or is_due(step, config.log.every_steps, last=last):
                monitor.report(step)
                checkpoints.check()
            if saves or stops:
                with monitor.paused():
                    meta = training.meta | {"monitor": monitor.state()}
                    checkpoints.save(step, state, meta=meta)
            if stops:
                with terminal.announced(f"Saving step {step}"):
                    checkpoints.wait()
                raise stop.stopped()
            if evaluates:
                scores = evaluate(step, state)
    assert scores is not None, "the last step is always evaluated"
    print_scores(scores, evaluation, workdir=workdir, terminal=terminal)
    return scores


@contextmanager
def open_workdir(config: ConfigDict, *, workdir: AnyPath, terminal: Terminal) -> Iterator[AnyPath]:
    """Lock the folder that this process writes to, and note the config in it.

    Raises:
        ValueError: another run uses it, or it holds checkpoints of another config.
    """
    fields = config.to_dict()
    changes = functools.partial(differences, new=fields)
    with folder_of_this_process(workdir) as folder, lock_workdir(folder, warn=terminal.warn):
        check_same_config(folder, fields, changes=changes, log=terminal.line)
        yield folder


class Start(NamedTuple):
    """Where a run starts or resumes."""

    step: int  # steps done
    state: TrainState
    origin: str  # of the state, for the introduction
    scored: bool  # False if this step still has to be evaluated
    monitor: dict[str, Any] | None  # `Monitor.state` of the resumed run


def start_or_resume(
    config: ConfigDict, training: Training, *, checkpoints: Checkpoints, terminal: Terminal
) -> Start:
    """Restore the newest undamaged checkpoint; without one, start from the config's weights."""
    weights = training.random
    if not checkpoints.steps:  # a checkpoint replaces all weights: none need to be read
        weights = first_weights(config, random=weights, terminal=terminal)
    state = training.state(weights)
    restored = checkpoints.restore_latest(like=state)
    if restored is None:
        return Start(0, state, f"from {weights.origin}", scored=True, monitor=None)
    # The run may have ended between this checkpoint and its evaluation.
    scored = (
        not is_due(restored.step, config.eval.every_steps, last=config.train.steps)
        or checkpoints.scores(restored.step) is not None
    )
    origin = f"resumed at step {restored.step}"
    return Start(restored.step, restored.state, origin, scored, restored.meta.get("monitor"))


def compile_step(training: Training, state: TrainState, *, terminal: Terminal) -> TrainStep:
    """Compile the training step before the first batch is read, and report how long it took."""
    with terminal.announced("Compiling the training step"):
        return compile_program(training.step, state, training.batch_shape)


@contextmanager
def open_monitor(
    config: ConfigDict,
    training: Training,
    start: Start,
    *,
    writer: MetricsWriter,
    terminal: Terminal,
) -> Iterator[Monitor]:
    """Show the progress of the run, and report the metrics of its steps."""
    with terminal.live("Training", total=config.train.steps, done=start.step) as live:
        yield Monitor(
            schedule=training.schedule,
            batch_size=config.train.batch_size,
            max_bad_steps=config.train.max_bad_steps,
            writer=writer,
            live=live,
            terminal=terminal,
            resumed=start.monitor,
        )


def is_due(step: int, every: int, *, last: int) -> bool:
    """Whether an action of every `every` steps, and of the last step, is due after `step` steps."""
    return step % every == 0 or step == last


def introduction(
    config: ConfigDict, training: Training, data: Data, evaluation: Evaluation, *, origin: str
) -> str:
    """Summarize the run: network, data, steps, devices."""
    devices, steps, (height, width) = jax.devices(), config.train.steps, config.train.crop_size
    return (
        f"{config.name}: {config.model.variant}, {training.parameters:,} parameters, "
        f"{data.dataset.num_classes} classes, {config.model.dtype}, {origin}\n"
        f"{data.dataset.name}: {len(data.source)} train and {len(evaluation.source)} val images "
        f"in {absolute(to_path(config.data.root))}\n"
        f"{steps} steps of {config.train.batch_size} crops of {height}x{width} "
        f"({steps / data.steps_per_epoch:.1f} epochs) on {len(devices)} "
        f"{devices[0].device_kind} device{'s' if len(devices) > 1 else ''}"
        f"{_fine_tuning(config)}"
    )


def _fine_tuning(config: ConfigDict) -> str:
    """A line about what does not learn as the rest does; empty where all learns alike."""
    optim, parts = config.optim, []
    if optim.freeze:
        parts.append(f"frozen: {', '.join(optim.freeze)}")
    if optim.head_lr is not None:
        parts.append(f"learning rate of the head: {optim.head_lr:g}, of the rest: {optim.lr:g}")
    return f"\nFine-tuning: {'; '.join(parts)}" if parts else ""


def print_scores(
    scores: Scores, evaluation: Evaluation, *, workdir: AnyPath, terminal: Terminal
) -> None:
    """Print the last scores by class, and where pictures and curves are."""
    terminal.table(class_table(scores, evaluation.dataset))
    terminal.line(f"Protocol: {evaluation.description}.")
    terminal.line(f"Pictures: {workdir / 'pictures'}    Curves: {workdir / 'curves.png'}")
