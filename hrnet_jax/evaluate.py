"""A checkpoint and a dataset -> scores: the eval command."""

import json
from pathlib import Path

from ml_collections import ConfigDict

from hrnet_jax.checkpoint import Weights
from hrnet_jax.config import protocol_of
from hrnet_jax.evaluator import class_table
from hrnet_jax.files import write_text
from hrnet_jax.metrics import Scores
from hrnet_jax.setup import Setup
from hrnet_jax.sharding import replicate
from hrnet_jax.writer import Terminal


def evaluate(config: ConfigDict, weights: Weights, *, workdir: Path, terminal: Terminal) -> Scores:
    """Score weights on the validation split; write `eval/scores.json` and pictures."""
    setup = Setup(config, terminal=terminal)
    check_weights_fit(weights, setup)
    terminal.line(
        f"Evaluating {weights.path} on {len(setup.validation)} images of {setup.dataset.name}"
    )
    folder = workdir / "eval"
    params, stats = replicate((weights.params, weights.stats), mesh=setup.mesh)
    scores = setup.evaluator()(
        params,
        stats,
        setup.validation_examples(),
        total=len(setup.validation),
        on_prediction=setup.pictures(folder / "pictures"),
    )
    folder.mkdir(parents=True, exist_ok=True)
    receipt = {
        "checkpoint": str(weights.path),
        "step": weights.step,
        "dataset": setup.dataset.name,
        "images": len(setup.validation),
        "protocol": protocol_of(config).describe(),
        **scores.summary(),
        "iou": dict(zip(setup.dataset.classes, scores.iou_percent(), strict=True)),
        "confusion": scores.confusion.tolist(),
    }
    write_text(folder / "scores.json", json.dumps(receipt, indent=2) + "\n")
    terminal.table(class_table(scores, setup.dataset))
    terminal.line(f"Protocol: {protocol_of(config).describe()}.")
    terminal.line(f"Scores: {folder / 'scores.json'}    Pictures: {folder / 'pictures'}")
    return scores


def check_weights_fit(weights: Weights, setup: Setup) -> None:
    """Refuse weights of another variant or of other classes than the config describes."""
    variant, classes = weights.meta["variant"], tuple(weights.meta["classes"])
    if variant != setup.config.model.variant:
        raise ValueError(
            f"{weights.path} holds {variant}, but config.model.variant={setup.config.model.variant}"
            f"; use --config.model.variant={variant} or another --checkpoint."
        )
    if classes != setup.dataset.classes:
        raise ValueError(
            f"{weights.path} was trained for {len(classes)} classes ({', '.join(classes[:3])}, "
            f"...), but {setup.dataset.name} has {setup.dataset.num_classes} "
            f"({', '.join(setup.dataset.classes[:3])}, ...); use the config of that dataset."
        )
