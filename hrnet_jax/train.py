"""The training loop, nothing else: step, report, evaluate, save."""

from pathlib import Path

import jax.numpy as jnp
from ml_collections import ConfigDict

from hrnet_jax.checkpoint import Checkpoints
from hrnet_jax.evaluator import PROTOCOL, class_table
from hrnet_jax.metrics import Scores
from hrnet_jax.monitor import Monitor
from hrnet_jax.setup import Setup
from hrnet_jax.sharding import to_global
from hrnet_jax.step import State, make_train_step
from hrnet_jax.types import IGNORE_LABEL
from hrnet_jax.visualize import draw_curves
from hrnet_jax.writer import MetricsWriter, Terminal, read_metrics


def train(config: ConfigDict, *, workdir: Path, terminal: Terminal) -> Scores | None:
    """Train from the newest checkpoint in `workdir`, else from random weights.

    Returns the scores of the last evaluation; None if nothing was left to do.
    """
    setup = Setup(config, terminal=terminal)
    setup.check_training()
    optimizer, schedule = setup.optimizer()
    state = setup.initial_state(optimizer)
    checkpoints = Checkpoints(workdir, keep_newest=config.checkpoint.keep, warn=terminal.warn)
    start, state = checkpoints.restore_latest(like=state) or (0, state)
    setup.describe(start=start)
    last = config.train.steps
    if start >= last:
        checkpoints.close()
        terminal.line(f"All {last} steps are done; --mode eval scores the best checkpoint.")
        return None

    batches = setup.train_batches(start)
    program = make_train_step(
        setup.structure,
        optimizer,
        mesh=setup.mesh,
        dtype=jnp.dtype(config.model.dtype),
        ignore_label=IGNORE_LABEL,
        class_weights=config.train.class_weights,
        reference=config.reference,
    )
    with terminal.announced("Compiling the training step"):
        train_step = program.lower(state, setup.batch_shape()).compile()
    evaluator = setup.evaluator()
    writer = MetricsWriter(workdir, start=start)
    scores: Scores | None = None

    def evaluate(state: State, done: int) -> Scores:
        scores = evaluator(
            state.params,
            state.stats,
            setup.validation_examples(),
            total=len(setup.validation),
            on_prediction=setup.pictures(workdir / "pictures"),
        )
        writer.write(done, scores.summary())
        draw_curves(read_metrics(writer.path), workdir / "curves.png", title=config.name)
        terminal.line(f"step {done}/{last}  {scores}")
        return scores

    with terminal.live("Training", total=last, done=start) as live:
        monitor = Monitor(
            batches,
            schedule=schedule,
            batch_size=config.train.batch_size,
            max_bad_steps=config.train.max_bad_steps,
            writer=writer,
            live=live,
            terminal=terminal,
        )
        for step in range(start, last):
            batch = to_global(monitor.next_batch(), mesh=setup.mesh)
            state, metrics = train_step(state, batch)
            monitor.add(step, metrics)
            done = step + 1
            if is_due(done, config.log.every_steps, last=last):
                monitor.report(done)
            evaluates = is_due(done, config.eval.every_steps, last=last)
            saves = is_due(done, config.checkpoint.every_steps, last=last)
            if evaluates or saves:
                with monitor.paused():  # scores first: the checkpoint then knows whether it is best
                    scores = evaluate(state, done) if evaluates else None
                    if saves:
                        checkpoints.save(done, state, meta=setup.meta(), scores=scores)
    with terminal.announced("Waiting for the last checkpoint"):
        checkpoints.close()
    writer.close()
    assert scores is not None, "the last step is always evaluated"
    terminal.table(class_table(scores, setup.dataset))
    terminal.line(f"Protocol: {PROTOCOL}.")
    terminal.line(f"Pictures: {workdir / 'pictures'}    Curves: {workdir / 'curves.png'}")
    return scores


def is_due(done: int, every: int, *, last: int) -> bool:
    """Whether something that happens `every` so many steps, and at the last one, happens now."""
    return done % every == 0 or done == last
