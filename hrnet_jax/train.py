"""The training loop, nothing else: step, report, evaluate, save."""

from contextlib import ExitStack, closing

import optax
from ml_collections import ConfigDict

from hrnet_jax.config.build import Setup
from hrnet_jax.config.defaults import describe_evaluation
from hrnet_jax.evaluation.metrics import Scores
from hrnet_jax.evaluation.summary import class_table
from hrnet_jax.evaluation.visualize import draw_curves
from hrnet_jax.parallel.compiling import Program, compile_program
from hrnet_jax.parallel.mesh import replicate, to_global
from hrnet_jax.parallel.process_settings import gc_frozen
from hrnet_jax.parallel.processes import folder_of_this_process
from hrnet_jax.runs.checkpoint import Checkpoints
from hrnet_jax.runs.paths import AnyPath, to_path
from hrnet_jax.runs.signals import stop_request
from hrnet_jax.runs.workdir import check_same_config, lock_workdir
from hrnet_jax.runs.writer import MetricsWriter, Terminal
from hrnet_jax.training.monitor import Monitor
from hrnet_jax.training.step import State


def train(config: ConfigDict, *, workdir: str | AnyPath, terminal: Terminal) -> Scores | None:
    """Train from the newest checkpoint in `workdir`, else from what the config starts with.

    Returns the scores of the last evaluation; None if nothing was left to do.

    Raises:
        Stopped: after SIGTERM or SIGINT, when the step they interrupted is saved.
    """
    workdir = to_path(workdir)
    setup = Setup(config, terminal=terminal)
    setup.check_training()
    optimizer, schedule = setup.optimizer()
    last = config.train.steps
    with ExitStack() as until_the_end:
        enter = until_the_end.enter_context
        own = enter(folder_of_this_process(workdir))
        enter(lock_workdir(own, warn=terminal.warn))
        check_same_config(own, config, tell=terminal.line)
        checkpoints = enter(
            Checkpoints(workdir, keep_newest=config.checkpoint.keep, warn=terminal.warn)
        )
        state = setup.initial_state(optimizer, resuming=bool(checkpoints.steps))
        start, state, meta = checkpoints.restore_latest(like=state) or (0, state, {})
        # A run may have ended between a checkpoint and its evaluation.
        scored = (
            start == 0
            or not is_due(start, config.eval.every_steps, last=last)
            or checkpoints.scores(start) is not None
        )
        setup.describe(start=start)
        if start >= last and scored:
            terminal.line(f"All {last} steps are done; --mode eval scores the best checkpoint.")
            return None
        train_step = compile_step(setup, optimizer, state)
        enter(gc_frozen())
        batches = enter(closing(setup.train_batches(start, workdir=workdir)))
        writer = enter(closing(MetricsWriter(own, start=start, scored=scored)))
        live = enter(terminal.live("Training", total=last, done=start))
        stop = enter(stop_request())
        monitor = Monitor(
            batches,
            schedule=schedule,
            batch_size=config.train.batch_size,
            max_bad_steps=config.train.max_bad_steps if config.train.on_bad_step == "skip" else 1,
            writer=writer,
            live=live,
            terminal=terminal,
            resumed=meta.get("monitor"),
        )
        evaluator = setup.evaluator()

        def evaluate(done: int) -> Scores:
            with monitor.paused():
                params, stats = replicate((state.params, state.stats), mesh=setup.own_mesh)
                scores = evaluator(
                    params,
                    stats,
                    stop.watch(setup.validation_examples()),
                    total=setup.validation_share,
                    on_prediction=setup.pictures(own / "pictures"),
                )
                monitor.report_scores(done, scores)
                draw_curves(writer.entries(), own / "curves.png", title=config.name)
                checkpoints.score(done, scores)  # comes last: without it, all this is done anew
            return scores

        scores = None if scored else evaluate(start)
        for done in range(start + 1, last + 1):
            batch = to_global(monitor.next_batch(), mesh=setup.mesh)
            state, metrics = train_step(state, batch)
            monitor.add(done - 1, metrics)
            stops = stop.is_due(done)
            evaluates = is_due(done, config.eval.every_steps, last=last)
            saves = is_due(done, config.checkpoint.every_steps, last=last)
            if evaluates or saves or is_due(done, config.log.every_steps, last=last):
                monitor.report(done)
                checkpoints.check()
            if saves or stops:
                with monitor.paused():
                    meta = {**setup.meta(), "monitor": monitor.state()}
                    checkpoints.save(done, state, meta=meta)
            if stops:
                with terminal.announced(f"Saving step {done}"):
                    checkpoints.wait()
                raise stop.stopped()
            if evaluates:
                scores = evaluate(done)
    assert scores is not None, "the last step is always evaluated"
    terminal.table(class_table(scores, setup.dataset))
    terminal.line(f"Protocol: {describe_evaluation(config)}.")
    terminal.line(f"Pictures: {workdir / 'pictures'}    Curves: {workdir / 'curves.png'}")
    return scores


def compile_step(setup: Setup, optimizer: optax.GradientTransformation, state: State) -> Program:
    """Compile the training step before the first batch is there, and say how long it took."""
    with setup.terminal.announced("Compiling the training step"):
        return compile_program(setup.train_step(optimizer), state, setup.batch_shape())


def is_due(done: int, every: int, *, last: int) -> bool:
    """Whether something that happens `every` so many steps, and at the last one, happens now."""
    return done % every == 0 or done == last
