"""A checkpoint and a dataset -> scores and a report: the eval command."""

import collections
import dataclasses
import hashlib
import json
import platform
import time
from typing import Any

import flax
import jax
from ml_collections import ConfigDict

import hrnet_jax
from hrnet_jax import zoo
from hrnet_jax.config.build import Setup
from hrnet_jax.config.defaults import describe_evaluation, protocol_of
from hrnet_jax.data.types import Example, Label
from hrnet_jax.evaluation.evaluator import OnPrediction
from hrnet_jax.evaluation.metrics import Scores
from hrnet_jax.evaluation.per_image import ImageCounts, PerImage, confusion_of
from hrnet_jax.evaluation.report import Gallery, write_report
from hrnet_jax.evaluation.submission import Predictions, Submission
from hrnet_jax.evaluation.summary import class_table
from hrnet_jax.parallel import processes
from hrnet_jax.parallel.mesh import replicate
from hrnet_jax.runs.checkpoint import Weights
from hrnet_jax.runs.checksums import leaf_checksums
from hrnet_jax.runs.paths import AnyPath, make_folder, to_path, write_json
from hrnet_jax.runs.writer import Terminal


def evaluate(
    config: ConfigDict, weights: Weights, *, workdir: str | AnyPath, terminal: Terminal
) -> Scores:
    """Score weights on a split of the config's dataset, into the folder `eval` of the workdir.

    It gets `scores.json` (the receipt), `report.html`, `per_image.npz` (what two evaluations are
    compared by), pictures, and the label maps that the config asks for. Where no pixel has a
    label, the receipt has no scores.
    """
    setup = Setup(config, terminal=terminal)
    check_weights_fit(weights, setup)
    folder = to_path(workdir) / "eval"
    results = Results(setup, folder=folder)
    terminal.line(
        f"Evaluating {weights.path} on {len(setup.validation)} {config.eval.split} images of "
        f"{setup.dataset.name}"
    )
    params, stats = replicate((weights.params, weights.stats), mesh=setup.own_mesh)
    begin = time.perf_counter()
    scores = setup.evaluator()(
        params,
        stats,
        setup.validation_examples(),
        total=setup.validation_share,
        on_prediction=results,
    )
    results.write(scores, weights=weights, seconds=time.perf_counter() - begin)
    if scores.confusion.any():
        terminal.table(class_table(scores, setup.dataset))
    else:
        terminal.warn(
            f"no pixel of {setup.dataset.name} {config.eval.split} has a label; there are label "
            "maps, but no scores."
        )
    terminal.line(f"Protocol: {describe_evaluation(config)}.")
    if comparison := beside_published(scores, weights=weights, setup=setup):
        terminal.line(f"mIoU: {comparison.describe()}.")
    terminal.line(f"Report: {folder / 'report.html'}    Scores: {folder / 'scores.json'}")
    results.describe_label_maps(terminal)
    return scores


class Results:
    """Takes the label maps of an evaluation one by one, and writes what becomes of them.

    Pictures and label maps are written as they come, numbers at the end and each file in one
    piece: an evaluation that was killed leaves the numbers of the one before.
    """

    def __init__(self, setup: Setup, *, folder: AnyPath):
        self._setup, self._folder = setup, folder
        dataset, options = setup.dataset, setup.config.eval
        self._counts = ImageCounts(dataset.num_classes)
        self._gallery = Gallery(dataset)
        self._writers: list[OnPrediction] = []
        if processes.is_first():
            self._writers.append(setup.pictures(folder / "pictures"))
        if options.save_predictions:
            self._writers.append(Predictions(folder / "predictions", dataset))
        self._submission: Submission | None = None
        if options.submission:
            self._submission = Submission(folder / "submission", dataset, options.submission)
            self._writers.append(self._submission)
        make_folder(folder)

    def __call__(self, example: Example, predicted: Label) -> None:
        """See one image and its label map."""
        for write in self._writers:
            write(example, predicted)
        label = example["label"]
        confusion = confusion_of(label, predicted, num_classes=self._setup.dataset.num_classes)
        self._counts.add(example["id"], label.shape, confusion)
        self._gallery.add(example, predicted, confusion)

    def write(self, scores: Scores, *, weights: Weights, seconds: float) -> None:
        """Write the files that need all images; every process must call this."""
        counts = PerImage.joined(
            PerImage.from_bytes(part) for part in processes.gather(self._counts.result().to_bytes())
        )
        if not processes.is_first():
            return
        receipt = self._receipt(scores, counts, weights=weights, seconds=seconds)
        write_report(
            self._folder / "report.html",
            receipt=receipt,
            dataset=self._setup.dataset,
            per_image=counts,
            gallery=self._gallery.groups(),
        )
        counts.save(self._folder / "per_image.npz")
        write_json(self._folder / "scores.json", receipt)

    def describe_label_maps(self, terminal: Terminal) -> None:
        """Say where label maps are, and whether a submission is not only of this evaluation."""
        if self._setup.config.eval.save_predictions:
            terminal.line(f"Label maps: {self._folder / 'predictions'}")
        if self._submission is not None:
            folder = self._folder / "submission"
            terminal.line(f"Submission: {folder}")
            if stale_files := self._submission.stale_files():
                terminal.warn(
                    f"{len(stale_files)} files in {folder} are not of this evaluation, first "
                    f"{stale_files[0]}; remove them before you submit it."
                )

    def _receipt(
        self, scores: Scores, counts: PerImage, *, weights: Weights, seconds: float
    ) -> dict[str, Any]:
        setup = self._setup
        receipt = {
            "checkpoint": str(weights.path),
            "step": weights.step,
            "weights": weights_hash(weights),
            "dataset": setup.dataset.name,
            "split": setup.config.eval.split,
            "images": len(counts.ids),
            "data": counts.fingerprint(),
            "classes": setup.dataset.classes,
            "protocol": describe_evaluation(setup.config),
            "dtype": setup.config.model.dtype,
            "seconds": seconds,  # compilation included
            "images_per_second": len(counts.ids) / seconds,
            "devices": dict(collections.Counter(d.device_kind for d in setup.mesh.devices.flat)),
            "versions": {
                "python": platform.python_version(),
                "jax": jax.__version__,
                "flax": flax.__version__,
                "hrnet_jax": hrnet_jax.__version__,
            },
        }
        if scores.confusion.any():
            receipt |= {
                **scores.summary(),
                "iou": dict(zip(setup.dataset.classes, scores.iou_percent(), strict=True)),
                "confusion": scores.confusion.tolist(),
            }
        if comparison := beside_published(scores, weights=weights, setup=setup):
            text = {"text": comparison.describe()}
            receipt["published"] = dataclasses.asdict(comparison) | text
        return receipt


def beside_published(scores: Scores, *, weights: Weights, setup: Setup) -> zoo.Comparison | None:
    """Put a score beside the published one, if there is one of exactly this measurement.

    That is: of unchanged published weights, on every image of the validation split, computed in
    float32 from images normalised as published, by a published protocol.
    """
    config, dataset = setup.config, setup.dataset
    found = zoo.find(file=weights.meta["zoo"]["file"]) if "zoo" in weights.meta else None
    if found is None or not scores.confusion.any():
        return None
    row, upload = found
    usual = row.recipe()["data"]
    if (
        dataset.name != row.dataset
        or config.eval.split != "val"
        or len(setup.validation) != dataset.counts["val"]
        or config.model.dtype != "float32"
        or (config.data.mean, config.data.std) != (usual["mean"], usual["std"])
    ):
        return None
    measured = scores.summary()["mIoU"]
    return zoo.compare(row, upload, protocol=protocol_of(config), measured=measured)


def weights_hash(weights: Weights) -> str:
    """SHA-256 over names and checksums of all arrays: equal for equal weights anywhere."""
    sums = leaf_checksums({"params": weights.params, "stats": weights.stats})
    return hashlib.sha256(json.dumps(sums, sort_keys=True).encode()).hexdigest()


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
