"""Builds an evaluation from a config: its images, its protocol, its program."""

import dataclasses
from collections.abc import Iterable, Iterator

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh
from ml_collections import ConfigDict

from hrnet_jax.config.build_data import open_split
from hrnet_jax.config.build_training import build_network
from hrnet_jax.config.checks import validate
from hrnet_jax.config.custom_data import dataset_of
from hrnet_jax.data.dataset import Dataset
from hrnet_jax.data.pipeline import eval_examples
from hrnet_jax.data.sources.folder import First, Source
from hrnet_jax.data.transforms import Channels, ResizeViews
from hrnet_jax.data.types import Example
from hrnet_jax.evaluation.evaluator import Evaluator, OnPrediction
from hrnet_jax.evaluation.metrics import Scores
from hrnet_jax.evaluation.protocol import Protocol
from hrnet_jax.evaluation.visualize import Pictures
from hrnet_jax.parallel.compiling import set_precision
from hrnet_jax.parallel.mesh import make_mesh, replicate
from hrnet_jax.runs.paths import AnyPath
from hrnet_jax.runs.terminal import Terminal


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluation:
    """A split and the way it is scored."""

    dataset: Dataset
    split: str
    source: Source
    protocol: Protocol
    description: str  # protocol, precision and images of the scores
    dtype: str
    mean: Channels
    std: Channels
    evaluator: Evaluator
    mesh: Mesh  # of the devices of this process
    workers: int  # processes that read
    num_pictures: int

    @property
    def share(self) -> int:
        """Number of examples of this process."""
        return len(range(jax.process_index(), len(self.source), jax.process_count()))

    def examples(self) -> Iterator[Example]:
        """Read this process's share of the examples once, in order."""
        return eval_examples(
            self.source,
            self.dataset,
            transforms=[ResizeViews(sizes=self.protocol.view_sizes)],
            host=jax.process_index(),
            hosts=jax.process_count(),
            workers=self.workers,
        )

    def score(
        self,
        params: dict,
        batch_stats: dict,
        *,
        on_prediction: OnPrediction,
        examples: Iterable[Example] | None = None,  # instead of `examples()`
    ) -> Scores:
        """Score weights on all examples; every process gets the scores of all."""
        # Via the host: the mesh of training may span several processes.
        params, batch_stats = replicate(jax.device_get((params, batch_stats)), mesh=self.mesh)
        return self.evaluator(
            params,
            batch_stats,
            self.examples() if examples is None else examples,
            total=self.share,
            on_prediction=on_prediction,
        )

    def pictures(self, folder: AnyPath) -> Pictures:
        """Draw the pictures of one evaluation into a folder."""
        return Pictures(folder, self.dataset, count=self.num_pictures, total=self.share)


def build_evaluation(
    config: ConfigDict,
    *,
    split: str = "val",
    limit: int = 0,  # number of images, from the first; 0: all
    structure: nnx.GraphDef | None = None,  # of the network, if it exists already
    terminal: Terminal,
) -> Evaluation:
    """Open a split and build its evaluator; nothing is compiled.

    Raises:
        ValueError: the config cannot work, see `checks.validate`.
        FileNotFoundError: the data are missing; says where to get them.
    """
    mesh = make_mesh(devices=jax.local_devices())
    evaluator = build_evaluator(config, structure=structure, mesh=mesh, terminal=terminal)
    source = open_split(config, split, terminal=terminal)
    description = describe_protocol(config)
    if split != "val":
        description += f", on the {split} split"
    if limit:
        source = First(source=source, count=limit)
        description += f", the first {limit} images only"
    return Evaluation(
        dataset=dataset_of(config),
        split=split,
        source=source,
        protocol=protocol_of(config),
        description=description,
        dtype=config.model.dtype,
        mean=config.data.mean,
        std=config.data.std,
        evaluator=evaluator,
        mesh=mesh,
        workers=config.data.workers,
        num_pictures=config.log.pictures,
    )


def build_evaluator(
    config: ConfigDict, *, structure: nnx.GraphDef | None = None, mesh: Mesh, terminal: Terminal
) -> Evaluator:
    """Build the evaluator that labels and scores images on the devices of this process.

    Each process evaluates alone, and the counts are summed: with images of many sizes, processes in
    lockstep would wait for each other.
    """
    validate(config)
    set_precision(config.model.dtype)
    return Evaluator(
        build_network(config)[0] if structure is None else structure,
        num_classes=dataset_of(config).num_classes,
        protocol=protocol_of(config),
        mean=config.data.mean,
        std=config.data.std,
        mesh=mesh,
        batch_size=-(-config.eval.batch_size // jax.process_count()),
        dtype=jnp.dtype(config.model.dtype),
        terminal=terminal,
    )


def protocol_of(config: ConfigDict) -> Protocol:
    """Return the protocol by which images are labelled and scored."""
    return Protocol(
        image_size=tuple(config.eval.image_size),
        mode=config.eval.mode,
        crop_size=tuple(config.eval.crop_size),
        stride=tuple(config.eval.stride),
        ratios=tuple(config.eval.ratios),
        flip=config.eval.flip,
        reference=config.reference,
    )


def describe_protocol(config: ConfigDict) -> str:
    """Describe the protocol and the precision of label maps in one line."""
    return f"{protocol_of(config).describe()}, in {config.model.dtype}"
