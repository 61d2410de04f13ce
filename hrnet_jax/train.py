"""The training loop, nothing else: step, report, evaluate, save."""

from contextlib import closing
from pathlib import Path

import jax
import optax
from ml_collections import ConfigDict

from hrnet_jax.checkpoint import FOLDER, Checkpoints
from hrnet_jax.config import differences, from_json, protocol_of, to_json
from hrnet_jax.evaluator import class_table
from hrnet_jax.files import write_text
from hrnet_jax.metrics import Scores
from hrnet_jax.monitor import Monitor
from hrnet_jax.setup import Setup
from hrnet_jax.sharding import to_global
from hrnet_jax.step import State
from hrnet_jax.visualize import draw_curves
from hrnet_jax.writer import MetricsWriter, Terminal


def train(config: ConfigDict, *, workdir: Path, terminal: Terminal) -> Scores | None:
    """Train from the newest checkpoint in `workdir`, else from what the config starts with.

    Returns the scores of the last evaluation; None if nothing was left to do.
    """
    setup = Setup(config, terminal=terminal)
    setup.check_training()
    claim(workdir, config)
    optimizer, schedule = setup.optimizer()
    last = config.train.steps
    with closing(
        Checkpoints(workdir, keep_newest=config.checkpoint.keep, warn=terminal.warn)
    ) as checkpoints:
        state = setup.initial_state(optimizer, resuming=bool(checkpoints.steps))
        start, state = checkpoints.restore_latest(like=state) or (0, state)
        setup.describe(start=start)
        if start >= last:
            terminal.line(f"All {last} steps are done; --mode eval scores the best checkpoint.")
            return None
        train_step = compile_step(setup, optimizer, state)
        evaluate = setup.evaluator()
        with (
            closing(setup.train_batches(start, workdir=workdir)) as batches,
            closing(MetricsWriter(workdir, start=start)) as writer,
            terminal.live("Training", total=last, done=start) as live,
        ):
            monitor = Monitor(
                batches,
                schedule=schedule,
                batch_size=config.train.batch_size,
                max_bad_steps=config.train.max_bad_steps,
                writer=writer,
                live=live,
                terminal=terminal,
            )
            scores: Scores | None = None
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
                    monitor.report(done)
                    with monitor.paused():  # scores first, so that the best one is known
                        scores = None
                        if evaluates:
                            scores = evaluate(
                                state.params,
                                state.stats,
                                setup.validation_examples(),
                                total=len(setup.validation),
                                on_prediction=setup.pictures(workdir / "pictures"),
                            )
                            monitor.report_scores(done, scores)
                            draw_curves(writer.entries(), workdir / "curves.png", title=config.name)
                        if saves:
                            checkpoints.save(done, state, meta=setup.meta(), scores=scores)
        with terminal.announced("Waiting for the last checkpoint"):
            checkpoints.wait()
    assert scores is not None, "the last step is always evaluated"
    terminal.table(class_table(scores, setup.dataset))
    terminal.line(f"Protocol: {protocol_of(config).describe()}.")
    terminal.line(f"Pictures: {workdir / 'pictures'}    Curves: {workdir / 'curves.png'}")
    return scores


def claim(workdir: Path, config: ConfigDict) -> None:
    """Write the resolved config into the workdir; refuse one with checkpoints of another config."""
    path = workdir / "config.json"
    if path.exists() and any((workdir / FOLDER).glob("[0-9]*")):
        changed = differences(from_json(path.read_text()), config)
        if changed:
            listed = "\n  ".join(changed)
            raise ValueError(
                f"{workdir} belongs to a run with another config:\n  {listed}\n"
                "Give the old values to go on with it, or another --workdir to start anew."
            )
    workdir.mkdir(parents=True, exist_ok=True)
    write_text(path, to_json(config))


def compile_step(
    setup: Setup, optimizer: optax.GradientTransformation, state: State
) -> jax.stages.Compiled:
    """Compile the training step before the first batch is there, and say how long it took."""
    with setup.terminal.announced("Compiling the training step"):
        return setup.train_step(optimizer).lower(state, setup.batch_shape()).compile()


def is_due(done: int, every: int, *, last: int) -> bool:
    """Whether something that happens `every` so many steps, and at the last one, happens now."""
    return done % every == 0 or done == last
