"""Builds data from a config: the splits of its dataset, and the batches of training."""

import dataclasses
from collections.abc import Generator

import jax
from ml_collections import ConfigDict

from hrnet_jax.config.checks import validate
from hrnet_jax.config.custom_data import dataset_of
from hrnet_jax.data.dataset import Dataset
from hrnet_jax.data.examine import examine
from hrnet_jax.data.order import Reference, steps_per_epoch
from hrnet_jax.data.pipeline import train_batches
from hrnet_jax.data.sources.bucket_cache import local_copy
from hrnet_jax.data.sources.folder import Source
from hrnet_jax.data.sources.open import open_source
from hrnet_jax.data.transforms import Transform, train_transforms
from hrnet_jax.data.types import Batch
from hrnet_jax.runs.metrics_log import Quarantine
from hrnet_jax.runs.paths import AnyPath, to_path
from hrnet_jax.runs.terminal import Terminal

_EXAMINED = 32  # examples of all splits, checked before training starts


@dataclasses.dataclass(frozen=True, kw_only=True)
class Data:
    """The training split of a dataset."""

    dataset: Dataset
    source: Source
    transforms: list[Transform]  # augmentation, normalisation, padding
    batch_size: int  # over all hosts
    seed: int  # of order and augmentation
    reference: Reference
    workers: int
    quarantine: bool  # replace bad examples instead of stopping
    terminal: Terminal

    def batches(self, start: int, *, workdir: AnyPath) -> Generator[Batch, None, None]:
        """Read this host's batches from step `start` on; bad files are listed in `workdir`."""
        return train_batches(
            self.source,
            self.dataset,
            transforms=self.transforms,
            batch_size=self.batch_size,
            seed=self.seed,
            start_step=start,
            reference=self.reference,
            host=jax.process_index(),
            hosts=jax.process_count(),
            workers=self.workers,
            on_bad_file=Quarantine(workdir, terminal=self.terminal) if self.quarantine else None,
        )

    @property
    def steps_per_epoch(self) -> float:
        """Number of steps that read every image once."""
        return steps_per_epoch(
            num_examples=len(self.source), batch_size=self.batch_size, reference=self.reference
        )


def build_data(config: ConfigDict, *, terminal: Terminal) -> Data:
    """Open the training split.

    Raises:
        ValueError: the config cannot work, see `checks.validate`.
        FileNotFoundError: the data are missing; says where to get them.
    """
    validate(config)
    return Data(
        dataset=dataset_of(config),
        source=open_split(config, "train", terminal=terminal),
        transforms=train_transforms(
            image_size=config.train.image_size,
            crop_size=config.train.crop_size,
            ratio_range=config.train.ratio_range,
            augmentations=config.train.augmentations,
            mean=config.data.mean,
            std=config.data.std,
        ),
        batch_size=config.train.batch_size,
        seed=config.seed,
        reference=config.reference,
        workers=config.data.workers,
        quarantine=config.data.on_error == "quarantine",
        terminal=terminal,
    )


def open_split(config: ConfigDict, split: str, *, terminal: Terminal) -> Source:
    """Open a split of a config's dataset; data in a bucket are copied first."""
    root = local_copy(to_path(config.data.root), terminal=terminal)
    return open_source(root, dataset_of(config), split)


def check_some_examples(data: Data, *, validation: Source) -> None:
    """Check a few examples before training: many mistakes affect all labels alike.

    Raises:
        ValueError: a finding would stop the run; other findings are warnings.
    """
    splits = {"train": data.source, "val": validation}
    findings, _ = examine(splits, data.dataset, limit=_EXAMINED)
    for finding in findings:
        text = "\n".join((f"{finding.split}: {finding.problem}", *finding.details[:1]))
        text += f"\n{finding.suggestion}" * bool(finding.suggestion)
        text += f"\nOnly {_EXAMINED} examples were read; --mode doctor reads all."
        is_replaced = finding.split == "train" and data.quarantine
        if finding.stops_training and not is_replaced:
            raise ValueError(text)
        data.terminal.warn(text)
