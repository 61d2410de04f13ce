"""Training: start or resume a run, then the loop: step, report, save, evaluate."""

import functools
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from typing import Any, NamedTuple

import jax
from ml_collections import ConfigDict

from hrnet_jax.config.build_data import Data, build_data, check_some_examples
from hrnet_jax.config.build_evaluation import Evaluation, build_evaluation
from hrnet_jax.config.build_training import Training, build_training, first_weights
from hrnet_jax.config.stored import differences
from hrnet_jax.data.types import Batch
from hrnet_jax.evaluation.metrics import Scores
from hrnet_jax.evaluation.summary import class_table
from hrnet_jax.evaluation.visualize import draw_curves
from hrnet_jax.parallel.compiling import compile_program
from hrnet_jax.parallel.mesh import to_global
from hrnet_jax.parallel.process_settings import gc_frozen
from hrnet_jax.runs.checkpoint import Checkpoints
from hrnet_jax.runs.metrics_log import MetricsWriter
from hrnet_jax.runs.paths import AnyPath, absolute, to_path
from hrnet_jax.runs.signals import StopRequest, stop_request
from hrnet_jax.runs.terminal import Terminal
from hrnet_jax.runs.workdir import check_same_config, folder_of_this_process, lock_workdir
from hrnet_jax.training.monitor import Monitor
from hrnet_jax.training.state import TrainState
from hrnet_jax.training.step import Metrics

TrainStep = Callable[[TrainState, dict[str, jax.Array]], tuple[TrainState, Metrics]]


def train(config: ConfigDict, *, workdir: str | AnyPath, terminal: Terminal) -> Scores | None:
    """Train from the newest checkpoint in `workdir`, else from what the config starts with.

    Returns the scores of the last evaluation; None if nothing was left to do.

    Raises:
        ValueError: for a config, a workdir or data that cannot work.
        Stopped: after SIGTERM or SIGINT, once the step they interrupted is saved.
    """
    workdir, last = to_path(workdir), config.train.steps
    training = build_training(config)
    data = build_data(config, terminal=terminal)
    evaluation = build_evaluation(config, structure=training.structure, terminal=terminal)
    check_some_examples(data, validation=evaluation.source)
    with ExitStack() as stack:
        enter = stack.enter_context
        own = enter(folder_of_this_process(workdir))
        enter(lock_workdir(own, warn=terminal.warn))
        fields = config.to_dict()
        changes = functools.partial(differences, new=fields)
        check_same_config(own, fields, changes=changes, log=terminal.line)
        checkpoints = enter(Checkpoints(workdir, keep_newest=2, warn=terminal.warn))
        start = start_or_resume(config, training, checkpoints=checkpoints, terminal=terminal)
        terminal.line(introduction(config, training, data, evaluation, origin=start.origin))
        if start.step >= last and start.scored:
            terminal.line(f"All {last} steps are done; --mode eval scores the best checkpoint.")
            return None
        train_step = compile_step(training, start.state, terminal=terminal)
        enter(gc_frozen())
        batches = enter(closing(data.batches(start.step, workdir=workdir)))
        writer = enter(closing(MetricsWriter(own, start=start.step, scored=start.scored)))
        stop = enter(stop_request())
        monitor = Monitor(
            schedule=training.schedule,
            batch_size=config.train.batch_size,
            max_bad_steps=config.train.max_bad_steps,
            writer=writer,
            live=enter(terminal.live("Training", total=last, done=start.step)),
            terminal=terminal,
            resumed=start.monitor,
        )

        def evaluate(done: int, state: TrainState) -> Scores:
            with monitor.paused():
                scores = evaluation.score(
                    state.params,
                    state.batch_stats,
                    examples=stop.watch(evaluation.examples()),
                    on_prediction=evaluation.pictures(own / "pictures"),
                )
                monitor.report_scores(done, scores.summary())
                draw_curves(writer.entries(), own / "curves.png", title=config.name)
                # Comes last: a run that is killed before it evaluates again.
                checkpoints.score(done, scores.summary())
            return scores

        scores = loop(
            config, start, training=training, train_step=train_step, batches=batches,
            evaluate=evaluate, monitor=monitor, checkpoints=checkpoints, stop=stop,
            terminal=terminal,
        )  # fmt: skip
    terminal.table(class_table(scores, evaluation.dataset))
    terminal.line(f"Protocol: {evaluation.description}.")
    terminal.line(f"Pictures: {workdir / 'pictures'}    Curves: {workdir / 'curves.png'}")
    return scores


class Start(NamedTuple):
    """Where a run starts or resumes."""

    step: int  # steps done
    state: TrainState
    origin: str  # of the state, in words
    scored: bool  # whether nothing is left to evaluate at this step
    monitor: dict[str, Any] | None  # of the run that is resumed, see `Monitor.state`


def start_or_resume(
    config: ConfigDict, training: Training, *, checkpoints: Checkpoints, terminal: Terminal
) -> Start:
    """Restore the newest undamaged checkpoint; without one, take the weights of the config."""
    # What is restored replaces all weights: nothing needs to be read for it.
    resumes = bool(checkpoints.steps)
    weights = training.random
    if not resumes:
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
    """Compile the training step before the first batch is there, and say how long it took."""
    with terminal.announced("Compiling the training step"):
        return compile_program(training.step, state, training.batch_shape)


def loop(
    config: ConfigDict,
    start: Start,
    *,
    training: Training,
    train_step: TrainStep,
    batches: Iterator[Batch],
    evaluate: Callable[[int, TrainState], Scores],
    monitor: Monitor,
    checkpoints: Checkpoints,
    stop: StopRequest,
    terminal: Terminal,
) -> Scores:
    """Run all steps that are left; returns the scores of the last evaluation."""
    state, last = start.state, config.train.steps
    scores = None if start.scored else evaluate(start.step, state)
    for done in range(start.step + 1, last + 1):
        with monitor.waiting_for_data():
            batch = next(batches)
        state, metrics = train_step(state, to_global(batch, mesh=training.mesh))
        monitor.add(done, metrics, ids=batch["id"].tolist())
        stops = stop.is_due(done)
        saves = is_due(done, config.checkpoint.every_steps, last=last)
        evaluates = is_due(done, config.eval.every_steps, last=last)
        if saves or evaluates or is_due(done, config.log.every_steps, last=last):
            monitor.report(done)
            checkpoints.check()
        if saves or stops:
            with monitor.paused():
                checkpoints.save(done, state, meta={**training.meta, "monitor": monitor.state()})
        if stops:
            with terminal.announced(f"Saving step {done}"):
                checkpoints.wait()
            raise stop.stopped()
        if evaluates:
            scores = evaluate(done, state)
    assert scores is not None, "the last step is always evaluated"
    return scores


def is_due(done: int, every: int, *, last: int) -> bool:
    """Whether something that happens `every` so many steps, and at the last one, happens now."""
    return done % every == 0 or done == last


def introduction(
    config: ConfigDict, training: Training, data: Data, evaluation: Evaluation, *, origin: str
) -> str:
    """Say what will be trained, on what, from where."""
    devices, steps, (height, width) = jax.devices(), config.train.steps, config.train.crop_size
    return (
        f"{config.name}: {config.model.variant}, {training.parameters:,} parameters, "
        f"{data.dataset.num_classes} classes, {config.model.dtype}, {origin}\n"
        f"{data.dataset.name}: {len(data.source)} train and {len(evaluation.source)} val images "
        f"in {absolute(to_path(config.data.root))}\n"
        f"{steps} steps of {config.train.batch_size} crops of {height}x{width} "
        f"({steps / data.steps_per_epoch:.1f} epochs) on {len(devices)} "
        f"{devices[0].device_kind} device{'s' if len(devices) > 1 else ''}"
    )
