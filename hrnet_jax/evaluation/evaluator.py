"""Scoring a model on a split, in evaluation and in training."""

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import numpy as np
from flax import nnx
from jax import Array
from jax.sharding import Mesh
from jax.typing import DTypeLike

from hrnet_jax.data.transforms import Channels
from hrnet_jax.data.types import IGNORE_LABEL, Example, Label
from hrnet_jax.evaluation.batching import Batch, Batcher, Views, grouped
from hrnet_jax.evaluation.labeler import Labeler
from hrnet_jax.evaluation.metrics import Scores
from hrnet_jax.evaluation.protocol import Protocol
from hrnet_jax.parallel import processes
from hrnet_jax.runs.terminal import Terminal

OnPrediction = Callable[[Example, Label], None]  # example, predicted label map


class Evaluator:
    """Labels images of any size by one protocol, in few compiled programs, and scores them.

    Every view lies in a bucket (`protocol.bucket_side`), and its true size is an input of the
    program, so label maps do not depend on the bucket or on other images.
    """

    def __init__(
        self,
        structure: nnx.GraphDef,
        *,
        num_classes: int,
        protocol: Protocol,
        mean: Channels,
        std: Channels,
        mesh: Mesh,
        batch_size: int,
        dtype: DTypeLike,
        terminal: Terminal,
    ):
        # A multiple of the devices; empty slots of a batch are not counted.
        batch_size = -(-batch_size // mesh.size) * mesh.size
        self._batcher = Batcher(protocol, mean=mean, std=std, batch_size=batch_size)
        self._labeler = Labeler(structure, mesh=mesh, dtype=dtype, terminal=terminal)
        self.num_classes, self._terminal = num_classes, terminal

    def __call__(
        self,
        params: dict,
        batch_stats: dict,
        examples: Iterable[Example],
        *,
        total: int,
        on_prediction: OnPrediction | None = None,
    ) -> Scores:
        """Score a split of `total` examples.

        Each process passes its own examples, and gets the scores over all processes.
        """
        confusion = np.zeros((self.num_classes, self.num_classes), np.int64)
        programs = self._labeler.num_programs
        tracked = self._terminal.track(examples, "Evaluating", total=total)
        for batch in self.label(params, batch_stats, tracked):
            confusion += batch.confusion
            if on_prediction is not None:
                for example, labels in zip(batch.examples, batch.labels, strict=True):
                    on_prediction(example, labels)
        if self._labeler.num_programs > programs:
            self._terminal.line(self.costs())
        return Scores(processes.total(confusion))

    def label(
        self, params: dict, batch_stats: dict, examples: Iterable[Example]
    ) -> Iterator["Labelled"]:
        """Label examples that have views (`transforms.ResizeViews`), in batches of equal shapes."""

        def shapes(example: Example):
            return self._batcher.shapes(_views(example))

        for group in grouped(examples, key=shapes, batch_size=self._batcher.batch_size):
            squares, counts = self.run(params, batch_stats, self.assemble(group))
            labels = [
                square[: example["label"].shape[0], : example["label"].shape[1]]
                for example, square in zip(group, np.asarray(squares), strict=False)
            ]
            yield Labelled(group, labels, np.asarray(counts))

    def assemble(self, group: list[Example]) -> Batch:
        """Turn at most a batch of examples of equal shapes into the arrays for one `run`."""
        for example in group:
            _check_label(example, num_classes=self.num_classes)
        labels = [example["label"] for example in group]
        return self._batcher.assemble(list(map(_views, group)), labels=labels)

    def run(self, params: dict, batch_stats: dict, batch: Batch) -> tuple[Array, Array | None]:
        """Return the label maps [b side side] and the confusion matrix of a batch."""
        return self._labeler.label_maps(params, batch_stats, batch)

    @property
    def padding_fraction(self) -> float:
        """Fraction of the pixels computed so far that were padding."""
        return self._batcher.padding_fraction

    def costs(self) -> str:
        """Describe the number of programs, their memory and the padding."""
        count = self._labeler.num_programs
        return (
            f"Evaluation: {count} program{'s' if count > 1 else ''}, at most "
            f"{self._labeler.memory / 1e6:,.0f} MB per device; {self.padding_fraction:.0%} of the "
            "computed pixels were padding"
        )


class Labelled(NamedTuple):
    """A batch of examples, their predicted label maps, and their confusion matrix."""

    examples: list[Example]
    labels: list[Label]
    confusion: np.ndarray  # [k k]


def _views(example: Example) -> Views:
    height, width = example["label"].shape
    return Views(example["views"], (height, width))


def _check_label(example: Example, *, num_classes: int) -> None:
    label = example["label"]
    wrong = np.argwhere((label >= num_classes) & (label != IGNORE_LABEL))
    if wrong.size:
        y, x = wrong[0]
        raise ValueError(
            f"The label of {example['id']} holds class {label[y, x]} at (y={y}, x={x}), but there "
            f"are {num_classes} classes (0 to {num_classes - 1}, and {IGNORE_LABEL} for none)."
        )
