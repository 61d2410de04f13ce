"""A model and a split -> scores, the table of classes, pictures. Training validates with it."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jax.typing import DTypeLike
from jaxtyping import Float16
from rich.table import Table
from rich.text import Text

from hrnet_jax.data.dataset import Dataset
from hrnet_jax.data.transforms import Channels
from hrnet_jax.data.types import IGNORE_LABEL, Example, Label
from hrnet_jax.evaluation.batching import Batch, Batcher, Plan
from hrnet_jax.evaluation.metrics import Scores
from hrnet_jax.evaluation.pixels import bucket_logits, label_pixels
from hrnet_jax.evaluation.protocol import Protocol, Taps
from hrnet_jax.evaluation.visualize import panel, write_png
from hrnet_jax.ops import at_least_float32, form_for, use
from hrnet_jax.parallel import processes
from hrnet_jax.parallel.compiling import compile_program, inference_options
from hrnet_jax.parallel.mesh import put_sharded, whole_images
from hrnet_jax.runs.paths import AnyPath
from hrnet_jax.runs.terminal import Terminal

OnPrediction = Callable[[Example, Label], None]  # example, label map at the label's size


class Evaluator:
    """Labels images of any size by one protocol, in few compiled programs, and scores them.

    Every view of an image lies in a bucket (`protocol.bucket_side`), its true size is data: the
    label maps are those of each image alone. A program belongs to a combination of buckets; what
    memory it needs is said before it runs.
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
        devices = mesh.size
        batch_size = -(-batch_size // devices) * devices  # the filling is not counted
        self._batcher = Batcher(protocol, mean=mean, std=std, batch_size=batch_size)
        self.num_classes = num_classes
        self._mesh, self._terminal = mesh, terminal
        self._programs: dict[tuple, jax.stages.Compiled] = {}

        form = form_for(mesh.devices.flat[0].platform)

        def network(params: dict, stats: dict, images: Array, sizes: Array | None) -> Array:
            model = nnx.merge(structure, params, stats)
            model.eval()
            count, windows = images.shape[:2]
            flat = images.reshape(-1, *images.shape[2:]).astype(dtype)
            if sizes is None:  # every window fills its bucket
                with use(form):
                    logits = at_least_float32(model(flat))
            else:
                logits = bucket_logits(model, flat, jnp.repeat(sizes, windows, 0), form=form)
            return logits.reshape(count, windows, *logits.shape[1:])

        def pixels(logits: list[Array], plan: Plan) -> tuple[Array, Array]:
            def one(item: tuple[list[Array], Plan]) -> tuple[Array, Array]:
                logits, plan = item
                views = [
                    x.reshape(r.shape[0], c.shape[0], *x.shape[1:])
                    for x, r, c in zip(logits, plan.row_windows, plan.column_windows, strict=True)
                ]
                return label_pixels(
                    views, plan.rows, plan.columns, extent=plan.extent, label=plan.label
                )

            labels, counts = jax.lax.map(one, (logits, plan))
            return labels, jax.lax.psum(counts.sum(0), mesh.axis_names)

        def both(params: dict, stats: dict, images: Array, sizes: Array | None, plan: Plan):
            return pixels([network(params, stats, images, sizes)], plan)

        same, split = P(), whole_images(mesh)
        self._network = self._on_every_device(network, (same, same, split, split), split)
        self._pixels_of = self._on_every_device(pixels, (split, split), (split, same))
        self._both = self._on_every_device(both, (same, same, split, split, split), (split, same))

    def _on_every_device(self, function: Callable, specs_in: Any, specs_out: Any) -> Callable:
        mapped = jax.shard_map(
            function, mesh=self._mesh, in_specs=specs_in, out_specs=specs_out, check_vma=False
        )
        return jax.jit(mapped)

    def __call__(
        self,
        params: dict,
        stats: dict,
        examples: Iterable[Example],
        *,
        total: int,
        on_prediction: OnPrediction | None = None,
    ) -> Scores:
        """Score a split; every example counts once, in whatever batches it comes.

        Each process of a run gives its own examples, and gets the scores of all.
        """
        confusion = np.zeros((self.num_classes, self.num_classes), np.int64)
        programs = len(self._programs)
        tracked = self._terminal.track(examples, "Evaluating", total=total)
        for batch in self.label(params, stats, tracked):
            confusion += batch.confusion
            if on_prediction is not None:
                for example, labels in zip(batch.examples, batch.labels, strict=True):
                    on_prediction(example, labels)
        if len(self._programs) > programs:
            self._terminal.line(self.costs())
        return Scores(processes.total(confusion))

    def label(self, params: dict, stats: dict, examples: Iterable[Example]) -> Iterator["Labelled"]:
        """Label examples that have views (`transforms.ResizeViews`), in batches of like shapes."""
        for group in self._batcher.groups(examples):
            labels, counts = self.run(params, stats, self.assemble(group))
            cut = [
                grid[: label.shape[0], : label.shape[1]]
                for grid, label in zip(
                    np.asarray(labels), [e["label"] for e in group], strict=False
                )
            ]
            yield Labelled(group, cut, np.asarray(counts))

    def probabilities(
        self, params: dict, stats: dict, example: Example
    ) -> Float16[np.ndarray, "k h w"]:
        """Return the class probabilities at every pixel of one example, averaged over its views."""
        images, sizes, plan = self._batcher.assemble([example])
        height, width = example["label"].shape
        total = np.zeros((self.num_classes, height, width), np.float32)
        for n, (image, size) in enumerate(zip(images, sizes, strict=True)):
            logits = self._program(self._network, params, stats, *self._place((image, size)))
            windows = np.asarray(logits)[0].reshape(
                plan.row_windows[n].shape[1], plan.column_windows[n].shape[1], *logits.shape[2:]
            )
            mosaic = np.moveaxis(windows, 2, 1).reshape(
                windows.shape[0] * windows.shape[2], -1, self.num_classes
            )
            rows, columns = (
                Taps(t.inputs[0, :end], t.weight[0, :end])
                for t, end in ((plan.rows[n], height), (plan.columns[n], width))
            )
            for first in range(0, height, 32):  # few rows at a time: all classes are large
                part = Taps(rows.inputs[first : first + 32], rows.weight[first : first + 32])
                scores = _mixed(_mixed(mosaic, part, axis=0), columns, axis=1)
                powers = np.exp(scores - scores.max(-1, keepdims=True))
                share = powers / powers.sum(-1, keepdims=True)
                total[:, first : first + 32] += np.moveaxis(share, -1, 0)
        return (total / len(images)).astype(np.float16)

    def assemble(self, group: list[Example]) -> Batch:
        """Lay out examples of like shapes, at most a batch of them, as the arrays of one `run`."""
        for example in group:
            _check_label(example, num_classes=self.num_classes)
        return self._batcher.assemble(group)

    def run(self, params: dict, stats: dict, batch: Batch) -> tuple[Array, Array]:
        """Return label maps [b h w], each in the corner of a square, and the confusion matrix."""
        images, sizes, plan = batch
        plan = self._place(plan)
        if len(images) == 1:
            return self._program(
                self._both, params, stats, *self._place((images[0], sizes[0])), plan
            )
        logits = [
            self._program(self._network, params, stats, *self._place((image, size)))
            for image, size in zip(images, sizes, strict=True)
        ]
        return self._program(self._pixels_of, logits, plan)

    def _place(self, tree: Any) -> Any:
        return put_sharded(tree, sharding=NamedSharding(self._mesh, whole_images(self._mesh)))

    def _program(self, function: Any, *arguments: Any) -> Any:
        leaves, shapes = jax.tree.flatten([a for a in arguments if not isinstance(a, dict)])
        key = (id(function), shapes, *(leaf.shape for leaf in leaves))
        if key not in self._programs:
            size = leaves[0].shape[-3:-1]
            images = f"images of {size[0]}x{size[1]}"
            what = "label maps" if function is self._pixels_of else images
            with self._terminal.announced(f"Compiling the evaluation of {what}"):
                options = inference_options(size, self._mesh.devices.flat[0].platform)
                self._programs[key] = compile_program(function, *arguments, options=options)
            self._terminal.line(f"It needs at most {_memory(self._programs[key]) / 1e6:,.0f} MB.")
        return self._programs[key](*arguments)

    @property
    def filling(self) -> float:
        """Share of the pixels computed so far that belong to no image."""
        return self._batcher.filling

    def costs(self) -> str:
        """How many programs there are, what memory the largest needs, what the filling costs."""
        most = max(map(_memory, self._programs.values()), default=0)
        plural = "s" if len(self._programs) > 1 else ""
        return (
            f"Evaluation: {len(self._programs)} program{plural}, at most {most / 1e6:,.0f} MB per "
            f"device; {self.filling:.0%} of the computed pixels were filling"
        )


class Labelled(NamedTuple):
    """A batch of examples with the class of each pixel, and what was counted against labels."""

    examples: list[Example]
    labels: list[Label]
    confusion: np.ndarray  # [k k]


def _memory(program: jax.stages.Compiled) -> int:
    """Bytes per device, weights and images included."""
    need: Any = program.memory_analysis()
    return need.temp_size_in_bytes + need.output_size_in_bytes + need.argument_size_in_bytes


def _mixed(x: np.ndarray, taps: Taps, *, axis: int) -> np.ndarray:
    shape = [-1 if a == axis else 1 for a in range(x.ndim)]
    return sum(
        np.take(x, inputs, axis) * weight.reshape(shape)
        for inputs, weight in zip(taps.inputs.T, taps.weight.T, strict=True)
    )


def _check_label(example: Example, *, num_classes: int) -> None:
    label = example["label"]
    wrong = (label >= num_classes) & (label != IGNORE_LABEL)
    if wrong.any():
        y, x = np.argwhere(wrong)[0]
        raise ValueError(
            f"The label of {example['id']} holds class {label[y, x]} at (y={y}, x={x}), but there "
            f"are {num_classes} classes (0 to {num_classes - 1}, and {IGNORE_LABEL} for none)."
        )


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
        # As text: brackets in a name are no markup.
        table.add_row(Text(name), _percent(iou), bar, _percent(accuracy), f"{count:,}")
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
        folder: AnyPath,
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
            example["image"],
            truth=example["label"],
            predicted=predicted,
            classes=self._dataset.classes,
            palette=self._dataset.palette,
        )
        path = self._folder / f"{example['id'].replace('/', '_')}.png"
        write_png(path, picture)
