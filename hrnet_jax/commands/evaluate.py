"""The eval command: scores a checkpoint on a dataset and writes a report."""

import collections
import hashlib
import json
import platform
import time
from typing import Any

import flax
import jax
from ml_collections import ConfigDict

import hrnet_jax
from hrnet_jax.commands.published import compare_scores
from hrnet_jax.config.build_evaluation import Evaluation, build_evaluation
from hrnet_jax.config.checks import validate
from hrnet_jax.config.custom_data import dataset_of
from hrnet_jax.data.dataset import Dataset
from hrnet_jax.data.types import Example, Label
from hrnet_jax.evaluation.evaluator import OnPrediction
from hrnet_jax.evaluation.gallery import Gallery
from hrnet_jax.evaluation.metrics import Scores
from hrnet_jax.evaluation.per_image import ImageCounts, PerImage, confusion_of
from hrnet_jax.evaluation.report import write_report
from hrnet_jax.evaluation.submission import Format, Predictions, Submission
from hrnet_jax.evaluation.summary import class_table
from hrnet_jax.parallel import processes
from hrnet_jax.runs.checksums import leaf_checksums
from hrnet_jax.runs.paths import AnyPath, make_folder, to_path, write_json
from hrnet_jax.runs.stored_weights import Weights
from hrnet_jax.runs.terminal import Terminal


def evaluate(
    config: ConfigDict,
    weights: Weights,
    *,
    workdir: str | AnyPath,
    split: str = "val",  # or train, or test, whose labels may be missing
    limit: int = 0,  # number of images, from the first; 0: all
    submission: Format | None = None,  # write files for this test server to eval/submission
    save_predictions: bool = False,  # write label maps to eval/predictions
    terminal: Terminal,
) -> Scores:
    """Score weights on a split of the config's dataset; write the results to `<workdir>/eval`.

    They are `scores.json` (the receipt), `report.html`, `per_image.npz` (for comparisons),
    pictures, and the label maps that the options ask for. If no pixel has a label, the receipt has
    no scores.

    Raises:
        ValueError: the weights or the data do not fit the config.
    """
    validate(config)
    dataset = dataset_of(config)
    check_weights_fit(
        weights, variant=config.model.variant, head=config.model.head, dataset=dataset
    )
    evaluation = build_evaluation(config, split=split, limit=limit, terminal=terminal)
    folder = to_path(workdir) / "eval"
    results = Results(
        evaluation, folder=folder, submission=submission, save_predictions=save_predictions
    )
    terminal.line(
        f"Evaluating {weights.path} on {len(evaluation.source)} {split} images of {dataset.name}"
    )
    begin = time.perf_counter()
    scores = evaluation.score(weights.params, weights.batch_stats, on_prediction=results)
    results.write(scores, weights=weights, seconds=time.perf_counter() - begin)
    if scores.confusion.any():
        terminal.table(class_table(scores, dataset))
    else:
        terminal.warn(f"no pixel of {dataset.name} {split} has a label, so there are no scores.")
    terminal.line(f"Protocol: {evaluation.description}.")
    if comparison := compare_scores(scores, weights=weights, evaluation=evaluation):
        terminal.line(f"mIoU: {comparison.describe()}.")
    terminal.line(f"Report: {folder / 'report.html'}    Scores: {folder / 'scores.json'}")
    results.describe_label_maps(terminal)
    return scores


class Results:
    """Takes the label maps of an evaluation one by one, and writes its files.

    Pictures and label maps are written at once, figures at the end and atomically: an evaluation
    that is killed leaves the figures of the one before.
    """

    def __init__(
        self,
        evaluation: Evaluation,
        *,
        folder: AnyPath,
        submission: Format | None = None,
        save_predictions: bool = False,
    ):
        self._evaluation, self._folder = evaluation, folder
        dataset = evaluation.dataset
        self._counts = ImageCounts(dataset.num_classes)
        self._gallery = Gallery(dataset)
        self._writers: list[OnPrediction] = []
        if processes.is_first():
            self._writers.append(evaluation.pictures(folder / "pictures"))
        self._saves_predictions = save_predictions
        if save_predictions:
            self._writers.append(Predictions(folder / "predictions", dataset))
        self._submission: Submission | None = None
        if submission:
            self._submission = Submission(folder / "submission", dataset, submission)
            self._writers.append(self._submission)
        make_folder(folder)

    def __call__(self, example: Example, predicted: Label) -> None:
        """Take one image and its label map."""
        for write in self._writers:
            write(example, predicted)
        label = example["label"]
        confusion = confusion_of(label, predicted, num_classes=self._evaluation.dataset.num_classes)
        self._counts.add(example["id"], label.shape, confusion)
        self._gallery.add(example, predicted, confusion)

    def write(self, scores: Scores, *, weights: Weights, seconds: float) -> None:
        """Write the files about all images; every process must call this."""
        counts = PerImage.joined(
            PerImage.from_bytes(part) for part in processes.gather(self._counts.result().to_bytes())
        )
        if not processes.is_first():
            return
        receipt = self._receipt(scores, counts, weights=weights, seconds=seconds)
        write_report(
            self._folder / "report.html",
            receipt=receipt,
            dataset=self._evaluation.dataset,
            per_image=counts,
            gallery=self._gallery.groups(),
        )
        counts.save(self._folder / "per_image.npz")
        write_json(self._folder / "scores.json", receipt)

    def describe_label_maps(self, terminal: Terminal) -> None:
        """Print where the label maps are; warn of other files in the submission."""
        if self._saves_predictions:
            terminal.line(f"Label maps: {self._folder / 'predictions'}")
        if self._submission is not None:
            folder = self._folder / "submission"
            terminal.line(f"Submission: {folder}")
            if stale_files := self._submission.stale_files():
                terminal.warn(
                    f"{len(stale_files)} files in {folder} are not from this evaluation, first "
                    f"{stale_files[0]}; remove them before you submit it."
                )

    def _receipt(
        self, scores: Scores, counts: PerImage, *, weights: Weights, seconds: float
    ) -> dict[str, Any]:
        evaluation = self._evaluation
        receipt = {
            "checkpoint": str(weights.path),
            "step": weights.step,
            "weights": weights_hash(weights),
            "dataset": evaluation.dataset.name,
            "split": evaluation.split,
            "images": len(counts.ids),
            "data": counts.fingerprint(),
            "classes": evaluation.dataset.classes,
            "protocol": evaluation.description,
            "dtype": evaluation.dtype,
            "seconds": seconds,  # compilation included
            "images_per_second": len(counts.ids) / seconds,
            "devices": dict(collections.Counter(d.device_kind for d in jax.devices())),
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
                "iou": dict(zip(evaluation.dataset.classes, scores.iou_percent(), strict=True)),
                "confusion": scores.confusion.tolist(),
            }
        if comparison := compare_scores(scores, weights=weights, evaluation=evaluation):
            receipt["published"] = vars(comparison) | {"text": comparison.describe()}
        return receipt


def weights_hash(weights: Weights) -> str:
    """SHA-256 of the names and checksums of all arrays: equal weights have equal hashes."""
    # "stats" as ever, so that the hashes of earlier receipts stay comparable.
    sums = leaf_checksums({"params": weights.params, "stats": weights.batch_stats})
    return hashlib.sha256(json.dumps(sums, sort_keys=True).encode()).hexdigest()


def check_weights_fit(weights: Weights, *, variant: str, head: str, dataset: Dataset) -> None:
    """Refuse weights of another network or of other classes than the config describes."""
    classes = tuple(weights.meta["classes"])
    for field, held, wanted in (
        ("variant", weights.meta["variant"], variant),
        ("head", weights.head, head),
    ):
        if held != wanted:
            raise ValueError(
                f"{weights.path} holds {held}, but config.model.{field}={wanted}; use "
                f"--config.model.{field}={held} or another --checkpoint."
            )
    if classes != dataset.classes:
        raise ValueError(
            f"{weights.path} was trained for {len(classes)} classes ({', '.join(classes[:3])}, "
            f"...), but {dataset.name} has {dataset.num_classes} "
            f"({', '.join(dataset.classes[:3])}, ...); use the config of that dataset."
        )
