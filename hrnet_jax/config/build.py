"""From a config to the things it describes: data, model, optimiser, evaluation."""

from collections.abc import Generator, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from hrnet_jax import models, zoo
from hrnet_jax.config.defaults import dataset_of, protocol_of, validate
from hrnet_jax.data.examine import examine
from hrnet_jax.data.pipeline import eval_examples, steps_per_epoch, train_batches
from hrnet_jax.data.sources.bucket_cache import local_copy
from hrnet_jax.data.sources.folder import First, Source
from hrnet_jax.data.sources.open import open_source
from hrnet_jax.data.transforms import ResizeViews, Transform, train_transforms
from hrnet_jax.data.types import IGNORE_LABEL, Batch, Example
from hrnet_jax.evaluation.evaluator import Evaluator
from hrnet_jax.evaluation.visualize import Pictures
from hrnet_jax.interop.read import read_source
from hrnet_jax.interop.weights import start_from
from hrnet_jax.parallel.compiling import set_precision
from hrnet_jax.parallel.mesh import check_batch_size, check_height, make_mesh, replicate
from hrnet_jax.runs.paths import AnyPath, absolute, to_path
from hrnet_jax.runs.writer import Quarantine, Terminal
from hrnet_jax.training.optim import poly_schedule, sgd
from hrnet_jax.training.step import State, initial_state, make_train_step, split

_EXAMINED = 32  # examples that are looked at before training starts


class Setup:
    """What training and evaluation build from a config. Configs stop here.

    Raises:
        ValueError: for a config that cannot work, see `config.validate`.
    """

    def __init__(self, config: ConfigDict, *, terminal: Terminal, mesh: Mesh | None = None):
        validate(config)
        set_precision(config.model.dtype)
        self.config, self.terminal = config, terminal
        self.dataset = dataset_of(config)
        self.mesh = mesh or make_mesh(data=config.mesh.data, height=config.mesh.height)
        self.own_mesh = self.mesh  # of the devices of this process
        if jax.process_count() > 1:
            self.own_mesh = make_mesh(devices=jax.local_devices())
        self.dtype = jnp.dtype(config.model.dtype)  # of the computation
        self._origin = f"random weights, seed {config.seed}"  # of the weights of step 0

    def check_training(self) -> None:
        """Find what would stop a training run before anything expensive begins."""
        self.check_sizes()
        if self.config.eval.split != "val":
            raise ValueError(
                f"config.eval.split={self.config.eval.split!r} is for --mode eval; training "
                "validates on 'val'."
            )
        self._check_some_files()

    def check_sizes(self) -> None:
        """Refuse a batch or a crop that the mesh cannot share equally."""
        size = self.config.train.batch_size
        check_batch_size(
            size,
            field="config.train.batch_size",
            mesh=self.mesh,
            accumulate=self.config.train.accumulate,
        )
        height, _ = self.config.train.crop_size
        check_height(height, field="config.train.crop_size", mesh=self.mesh)

    def _check_some_files(self) -> None:
        """Let the doctor look at a few examples: many mistakes are made in all labels at once."""
        findings, _ = examine(
            {"train": self.source, "val": self.validation}, self.dataset, limit=_EXAMINED
        )
        for finding in findings:
            text = "\n".join((f"{finding.split}: {finding.problem}", *finding.details[:1]))
            text += f"\n{finding.suggestion}" * bool(finding.suggestion)
            text += f"\nOnly {_EXAMINED} examples were read; --mode doctor reads all."
            is_replaced = finding.split == "train" and self.config.data.on_error == "quarantine"
            if finding.stops_training and not is_replaced:
                raise ValueError(text)
            self.terminal.warn(text)

    @cached_property
    def _root(self) -> Path:
        return local_copy(to_path(self.config.data.root), terminal=self.terminal)

    @cached_property
    def source(self) -> Source:
        """The training split."""
        return open_source(self._root, self.dataset, "train")

    @cached_property
    def validation(self) -> Source:
        """What is evaluated: the validation split, unless the config says otherwise."""
        source = open_source(self._root, self.dataset, self.config.eval.split)
        limit = self.config.eval.limit
        return First(source=source, count=limit) if limit else source

    @cached_property
    def _model(self) -> tuple[Any, dict, dict]:
        return split(
            models.build(
                self.config.model.variant,
                num_classes=self.dataset.num_classes,
                seed=self.config.seed,
            )
        )

    @property
    def structure(self):
        """The model without its arrays."""
        return self._model[0]

    def optimizer(self) -> tuple[optax.GradientTransformation, optax.Schedule]:
        """SGD, and the learning rate it follows."""
        optim = self.config.optim
        schedule = poly_schedule(
            lr=optim.lr,
            min_lr=optim.min_lr,
            power=optim.power,
            steps=self.config.train.steps,
            reference=self.config.reference,
        )
        return sgd(schedule, momentum=optim.momentum, weight_decay=optim.weight_decay), schedule

    def initial_state(
        self, optimizer: optax.GradientTransformation, *, resuming: bool = False
    ) -> State:
        """Random weights or those of `config.init_from`, on every device.

        They are float64 if the computation is, else float32. What a resumed run begins with is
        replaced anyway, so nothing is read for it.
        """
        precise = jnp.promote_types(self.dtype, jnp.float32)
        params, stats = jax.tree.map(
            lambda leaf: leaf.astype(precise), self._model[1:] if resuming else self._start()
        )
        return replicate(initial_state(params, stats, optimizer), mesh=self.mesh)

    def state_shape(self, optimizer: optax.GradientTransformation) -> State:
        """The shapes of the state, without its arrays."""
        precise = jnp.promote_types(self.dtype, jnp.float32)

        def initial(params: dict, stats: dict) -> State:
            cast = jax.tree.map(lambda leaf: leaf.astype(precise), [params, stats])
            return initial_state(cast[0], cast[1], optimizer)

        return jax.eval_shape(initial, *self._model[1:])

    def train_step(
        self,
        optimizer: optax.GradientTransformation,
        *,
        mesh: Mesh | None = None,
        accumulate: int | None = None,
    ) -> jax.stages.Wrapped:
        """The training step of this config; the other arguments replace what the config says."""
        train = self.config.train
        return make_train_step(
            self.structure,
            optimizer,
            mesh=mesh or self.mesh,
            dtype=self.dtype,
            ignore_label=IGNORE_LABEL,
            class_weights=train.class_weights,
            reference=self.config.reference,
            accumulate=accumulate or train.accumulate,
            remat=train.remat,
        )

    def _start(self) -> tuple[dict, dict]:
        """The weights of step 0; says where they come from."""
        config = self.config
        if config.init_from:
            path = zoo.locate(config.init_from)
            with self.terminal.announced_if_remote(path):
                source = read_source(path)
            loaded = start_from(
                source,
                *self._model[1:],
                variant=config.model.variant,
                classes=self.dataset.classes,
                head=config.init_head,
            )
            self._origin = loaded.origin
            return loaded.params, loaded.stats
        if config.data.name not in ("minicity", "custom"):
            self.terminal.warn(
                "training starts from random weights, but the published run started from the "
                f"ImageNet backbone {zoo.IMAGENET.get(config.model.variant, 'of this variant')}: "
                "expect a far lower mIoU, or give the file with --config.init_from=FILE."
            )
        return self._model[1:]

    def train_transforms(self) -> list[Transform]:
        """The augmentation of the training split, normalisation and padding."""
        return train_transforms(
            image_size=self.config.train.image_size,
            crop_size=self.config.train.crop_size,
            ratio_range=self.config.train.ratio_range,
            mean=self.config.data.mean,
            std=self.config.data.std,
        )

    def train_batches(self, start: int, *, workdir: AnyPath) -> Generator[Batch, None, None]:
        """This host's batches from step `start` on."""
        config = self.config
        return train_batches(
            self.source,
            self.dataset,
            transforms=self.train_transforms(),
            batch_size=config.train.batch_size,
            seed=config.seed,
            start_step=start,
            host=jax.process_index(),
            hosts=jax.process_count(),
            reference=config.reference,
            workers=config.data.workers,
            threads=config.data.threads,
            on_bad_file=Quarantine(workdir, terminal=self.terminal)
            if config.data.on_error == "quarantine"
            else None,
        )

    def batch_shape(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes of a global training batch, for compiling before the first one is there."""
        size = (self.config.train.batch_size, *self.config.train.crop_size)
        return {
            "image": jax.ShapeDtypeStruct((*size, 3), jnp.float32),
            "label": jax.ShapeDtypeStruct(size, jnp.uint8),
        }

    @property
    def validation_share(self) -> int:
        """How many of the validation examples are for this process."""
        return len(range(jax.process_index(), len(self.validation), jax.process_count()))

    def validation_examples(self) -> Iterator[Example]:
        """This process's share of the validation split once, in order."""
        config = self.config
        return eval_examples(
            self.validation,
            self.dataset,
            transforms=[ResizeViews(sizes=protocol_of(config).view_sizes)],
            host=jax.process_index(),
            hosts=jax.process_count(),
            workers=config.data.workers,
            threads=config.data.threads,
        )

    def evaluator(self) -> Evaluator:
        """Compiled evaluation of this model, on the devices of this process.

        Processes evaluate on their own and add their counts: images of many sizes would make them
        wait for each other.
        """
        return Evaluator(
            self.structure,
            num_classes=self.dataset.num_classes,
            protocol=protocol_of(self.config),
            mean=self.config.data.mean,
            std=self.config.data.std,
            mesh=self.own_mesh,
            batch_size=-(-self.config.eval.batch_size // jax.process_count()),
            dtype=self.dtype,
            terminal=self.terminal,
        )

    def pictures(self, folder: AnyPath) -> Pictures:
        """What draws the pictures of one evaluation."""
        return Pictures(
            folder,
            self.dataset,
            count=self.config.log.pictures,
            total=self.validation_share,
        )

    def meta(self) -> dict[str, Any]:
        """What a checkpoint tells of itself, so that prediction needs no config."""
        return {
            "variant": self.config.model.variant,
            "dataset": self.dataset.name,
            "classes": self.dataset.classes,
            "palette": self.dataset.palette,
            "mean": self.config.data.mean,
            "std": self.config.data.std,
            "config": self.config.to_dict(),
        }

    def describe(self, *, start: int) -> None:
        """Say what will be trained, on what, from where."""
        config = self.config
        parameters = sum(leaf.size for leaf in jax.tree.leaves(self._model[1]))
        epoch = steps_per_epoch(
            num_examples=len(self.source),
            batch_size=config.train.batch_size,
            reference=config.reference,
        )
        devices = jax.devices()
        origin = f"resumed at step {start}" if start else f"from {self._origin}"
        self.terminal.line(
            f"{config.name}: {config.model.variant}, {parameters:,} parameters, "
            f"{self.dataset.num_classes} classes, {config.model.dtype}, {origin}\n"
            f"{self.dataset.name}: {len(self.source)} train and {len(self.validation)} val images "
            f"in {absolute(to_path(config.data.root))}\n"
            f"{config.train.steps} steps of {config.train.batch_size} crops of "
            f"{config.train.crop_size[0]}x{config.train.crop_size[1]} "
            f"({config.train.steps / epoch:.1f} epochs) on {len(devices)} "
            f"{devices[0].device_kind} device{'s' if len(devices) > 1 else ''}"
        )
