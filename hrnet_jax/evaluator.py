"""A model and a split -> scores, the table of classes, pictures. Training validates with it."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from jax.typing import DTypeLike
from rich.table import Table

from hrnet_jax.compiling import compiler_options
from hrnet_jax.data.dataset import Dataset
from hrnet_jax.inference import label_map, whole
from hrnet_jax.metrics import Scores, confusion_matrix
from hrnet_jax.sharding import batch_sharding, replicated, to_global
from hrnet_jax.types import IGNORE_LABEL, Example, Label
from hrnet_jax.visualize import panel
from hrnet_jax.writer import Terminal

OnPrediction = Callable[[Example, Label], None]  # example, label map at the label's size
PROTOCOL = "whole images, one scale, no flip; logits to input size, then to original size"


class Evaluator:
    """Compiled evaluation: one program for each combination of input and label size."""

    def __init__(
        self,
        structure: nnx.GraphDef,
        *,
        num_classes: int,
        mesh: Mesh,
        batch_size: int,
        dtype: DTypeLike,
        terminal: Terminal,
    ):
        devices = mesh.shape["data"]
        self.batch_size = -(-batch_size // devices) * devices  # the filling is not counted
        self._mesh, self._terminal = mesh, terminal
        self._programs: dict[tuple, jax.stages.Compiled] = {}
        self.num_classes = num_classes

        def evaluate_batch(params: dict, stats: dict, batch: dict[str, jax.Array]):
            model = nnx.merge(structure, params, stats)
            model.eval()
            size = batch["label"].shape[1:]
            predicted = label_map(whole(model, batch["image"].astype(dtype), size=size))
            label = batch["label"].astype(jnp.int32)
            return confusion_matrix(label, predicted, num_classes=num_classes), predicted

        same, split = replicated(mesh), batch_sharding(mesh)
        self._evaluate_batch = jax.jit(
            evaluate_batch,
            in_shardings=(same, same, split),
            out_shardings=(same, split),
            compiler_options=compiler_options(),
        )

    def __call__(
        self,
        params: dict,
        stats: dict,
        examples: Iterable[Example],
        *,
        total: int,
        on_prediction: OnPrediction | None = None,
    ) -> Scores:
        """Score a split; every example counts once, in whatever batches it comes."""
        confusion = np.zeros((self.num_classes, self.num_classes), np.int64)
        tracked = self._terminal.track(examples, "Evaluating", total=total)
        for group in batches_of_one_size(tracked, batch_size=self.batch_size):
            batch = to_global(_fill(group, self.batch_size), mesh=self._mesh)
            counts, predicted = self._program(params, stats, batch)(params, stats, batch)
            confusion += np.asarray(counts)
            if on_prediction is not None:
                for example, labels in zip(group, np.asarray(predicted), strict=False):
                    on_prediction(example, labels)
        return Scores(confusion)

    def _program(self, params: dict, stats: dict, batch: dict) -> jax.stages.Compiled:
        key = (batch["image"].shape, batch["label"].shape)
        if key not in self._programs:
            height, width = key[0][1:3]
            with self._terminal.announced(f"Compiling the evaluation of {height}x{width} images"):
                self._programs[key] = self._evaluate_batch.lower(params, stats, batch).compile()
        return self._programs[key]


def batches_of_one_size(examples: Iterable[Example], *, batch_size: int) -> Iterator[list[Example]]:
    """Group examples by image and label size; the last group of each size may be short."""
    waiting: dict[tuple, list[Example]] = {}
    for example in examples:
        key = (example["image"].shape, example["label"].shape)
        group = waiting.setdefault(key, [])
        group.append(example)
        if len(group) == batch_size:
            yield waiting.pop(key)
    yield from waiting.values()


def _fill(group: Sequence[Example], batch_size: int) -> dict[str, np.ndarray]:
    """Stack a group; what is missing to a batch is filled with ignored pixels."""
    missing = ((0, batch_size - len(group)),)
    images = np.stack([example["image"] for example in group])
    labels = np.stack([example["label"] for example in group])
    return {
        "image": np.pad(images, (*missing, (0, 0), (0, 0), (0, 0))),
        "label": np.pad(labels, (*missing, (0, 0), (0, 0)), constant_values=IGNORE_LABEL),
    }


def class_table(scores: Scores, dataset: Dataset) -> Table:
    """IoU and accuracy of each class with a bar; "-" for a class that does not occur."""
    table = Table(title=f"{dataset.name}: IoU per class", title_justify="left")
    for column in ("class", "IoU", "", "accuracy", "pixels"):
        table.add_column(column, justify="left" if column in ("class", "") else "right")
    pixels = scores.confusion.sum(1)
    for name, iou, accuracy, count in zip(
        dataset.classes, scores.iou, scores.accuracy, pixels, strict=True
    ):
        bar = "" if np.isnan(iou) else "█" * round(20 * iou)
        table.add_row(name, _percent(iou), bar, _percent(accuracy), f"{count:,}")
    summary = scores.summary()
    table.add_section()
    table.add_row("mean", f"{summary['mIoU']:.2f}", "", f"{summary['mAcc']:.2f}", "")
    table.add_row("all pixels", "", "", f"{summary['aAcc']:.2f}", f"{pixels.sum():,}")
    return table


def _percent(value: float) -> str:
    return "-" if np.isnan(value) else f"{100 * value:.2f}"


class Pictures:
    """Draws every n-th example with truth and prediction into a folder."""

    def __init__(
        self,
        folder: Path,
        dataset: Dataset,
        *,
        count: int,  # pictures in all
        total: int,  # examples in all
    ):
        self._folder, self._dataset = folder, dataset
        self._every = max(1, total // count) if count else 0
        self._left, self._seen = count, 0

    def __call__(self, example: Example, predicted: Label) -> None:
        """See one example; draw it if its turn has come."""
        self._seen += 1
        if not self._left or (self._seen - 1) % self._every:
            return
        self._left -= 1
        picture = panel(
            example["original"],
            truth=example["label"],
            predicted=predicted,
            classes=self._dataset.classes,
            palette=self._dataset.palette,
        )
        path = self._folder / f"{example['id'].replace('/', '_')}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.save(path)
