"""The zoo's mem and fps, measured for a config on one device."""

import dataclasses
import time

import jax
import numpy as np
from ml_collections import ConfigDict
from rich.table import Column, Table

from hrnet_jax import zoo
from hrnet_jax.commands.published import costs_of
from hrnet_jax.config.build_evaluation import build_evaluator, protocol_of
from hrnet_jax.config.build_training import Training, build_training
from hrnet_jax.config.custom_data import dataset_of
from hrnet_jax.config.stored import from_dict
from hrnet_jax.data.order import REFERENCE_GPUS
from hrnet_jax.data.transforms import ResizeViews, Size
from hrnet_jax.data.types import Batch, Example
from hrnet_jax.parallel.compiling import compile_program
from hrnet_jax.parallel.mesh import make_mesh, replicate, to_global
from hrnet_jax.parallel.process_settings import peak_memory, reset_peak
from hrnet_jax.runs.paths import AnyPath, make_folder, write_json
from hrnet_jax.runs.terminal import Terminal

_STEPS = 3  # of training; all of them allocate the same
_WARM_UP = 5  # images that are not timed, as for the published speeds
_GB = 2**30  # bytes, as in PyTorch's reports

# The most frequent size of the validation images.
_SIZES = {
    "cityscapes": (1024, 2048), "ade20k": (512, 683), "voc12aug": (375, 500),
    "pascal_context": (375, 500), "pascal_context_59": (375, 500), "minicity": (256, 512),
}  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measured:
    """Measurements on one device, and the published figures; None if there are none."""

    config: str
    device: str
    dtype: str
    batch_size: int  # of a training step
    crop_size: Size
    memory: float | None  # of training, GB of 2**30 bytes
    published_memory: float | None
    image_size: Size  # of an image that is labelled, and of its label map
    protocol: str
    images: int  # labelled; the first 5 do not count
    fps: float  # images per second
    published_fps: float | None

    def table(self) -> Table:
        """Lay them out for a terminal."""
        figures = (Column(name, justify="right") for name in ("published", "here"))
        table = Table("", *figures, caption=f"Published: {zoo.HARDWARE}", caption_justify="left")
        crop, image = ("x".join(map(str, size)) for size in (self.crop_size, self.image_size))
        table.add_row(
            f"mem: GB, training with {self.batch_size} crops of {crop}",
            _figure(self.published_memory, digits=1),
            _figure(self.memory, digits=2),
        )
        table.add_row(
            f"fps: images/s, {image} to label map",
            _figure(self.published_fps, digits=2),
            _figure(self.fps, digits=2),
        )
        return table


def benchmark(config: ConfigDict, *, images: int, workdir: AnyPath, terminal: Terminal) -> Measured:
    """Measure memory and speed on the first device, print them, write `<workdir>/benchmark.json`.

    - mem: peak memory of training with the batch of one of the 4 published GPUs.
    - fps: images per second, one at a time, from the normalised image on the host to its label map
      on the host; the mean over `images` without the first 5.

    Weights are random. Images are noise of the dataset's usual size; the dataset is not read.

    Raises:
        ValueError: there are too few images to time any.
    """
    if images <= _WARM_UP:
        raise ValueError(
            f"--images={images} leaves nothing to time: the first {_WARM_UP} are warm-up; give 200."
        )
    alone, device = for_one_device(config), jax.devices()[0]
    training = build_training(alone, mesh=make_mesh(devices=[device]))
    classes = dataset_of(config).num_classes
    terminal.line(
        f"{config.name}: {config.model.variant}, {classes} classes, {config.model.dtype}, random "
        f"weights, on one {device.device_kind} device"
    )
    size = _SIZES.get(config.data.name, tuple(config.eval.image_size))
    # Memory first: a device reports the peak of the whole process.
    memory = training_memory(training, num_classes=classes, terminal=terminal)
    published = costs_of(config)
    measured = Measured(
        config=config.name,
        device=device.device_kind,
        dtype=config.model.dtype,
        batch_size=alone.train.batch_size,
        crop_size=config.train.crop_size,
        memory=None if memory is None else memory / _GB,
        published_memory=published.memory,
        image_size=size,
        protocol=protocol_of(config).describe(),
        images=images,
        fps=images_per_second(alone, training, size=size, images=images, terminal=terminal),
        published_fps=published.fps,
    )
    terminal.table(measured.table())
    source = "the peak of" if device.memory_stats() else "the growth of resident memory in"
    terminal.line(
        f"mem: {source} training; fps: the mean over {images - _WARM_UP} images after {_WARM_UP} "
        f"that warm up, {measured.protocol}."
    )
    make_folder(workdir)
    write_json(workdir / "benchmark.json", dataclasses.asdict(measured))
    terminal.line(f"Figures: {workdir / 'benchmark.json'}")
    return measured


def training_memory(training: Training, *, num_classes: int, terminal: Terminal) -> int | None:
    """Measure the peak memory of a few training steps, in bytes: state, batch, temporaries.

    Devices with their own allocator report their peak since the process began. On CPUs it is the
    growth of the process's resident memory since the step was compiled; None if the system does
    not report that.
    """
    with terminal.announced("Compiling the training step"):
        step = compile_program(training.step, training.state_shape, training.batch_shape)
    before = reset_peak()
    state = training.state(training.random)
    noise = _noise(training.batch_shape, num_classes=num_classes)
    batch = to_global(noise, mesh=training.mesh)
    for _ in terminal.track(range(_STEPS), "Training", total=_STEPS):
        state, metrics = step(state, batch)
        jax.block_until_ready(metrics)
    return most_held(training.mesh.devices.flat[0].memory_stats(), before=before)


def most_held(known: dict[str, int] | None, *, before: int | None) -> int | None:
    """Return the peak that the device reports, else the growth of resident memory, in bytes."""
    if known:
        return known["peak_bytes_in_use"]
    after = peak_memory()
    return None if before is None or after is None else after - before


def images_per_second(
    config: ConfigDict, training: Training, *, size: Size, images: int, terminal: Terminal
) -> float:
    """Label one image of `size` repeatedly; return the rate after the warm-up.

    Timed are the transfer to the device, the network, resizing to the original pixels, and the
    transfer of the label map to the host. Normalisation belongs to reading and is not timed.
    """
    state = training.state(training.random)
    params, batch_stats = replicate((state.params, state.batch_stats), mesh=training.mesh)
    evaluator = build_evaluator(
        config, structure=training.structure, mesh=training.mesh, terminal=terminal
    )
    rng = np.random.default_rng(0)
    plain: Example = {
        "id": "noise",
        "image": rng.integers(0, 256, (*size, 3), np.uint8),
        "label": np.zeros(size, np.uint8),
    }
    example = ResizeViews(sizes=protocol_of(config).view_sizes).map(plain)
    batch = evaluator.assemble([example])
    seconds = 0.0
    for number in terminal.track(range(images), "Labelling", total=images):
        begin = time.perf_counter()
        np.asarray(evaluator.run(params, batch_stats, batch)[0])
        if number >= _WARM_UP:
            seconds += time.perf_counter() - begin
    return (images - _WARM_UP) / seconds


def for_one_device(config: ConfigDict) -> ConfigDict:
    """Return the config with the batch of one of the published GPUs."""
    alone = from_dict(config.to_dict())
    share = -(-config.train.batch_size // REFERENCE_GPUS)
    unit = config.train.accumulate
    alone.train.batch_size = -(-share // unit) * unit
    alone.eval.batch_size = 1
    return alone


def _noise(shape: dict[str, jax.ShapeDtypeStruct], *, num_classes: int) -> Batch:
    """Make a training batch of random pixels and labels."""
    rng = np.random.default_rng(0)
    image = rng.standard_normal(shape["image"].shape, np.float32)
    label = rng.integers(0, num_classes, shape["label"].shape, np.uint8)
    return {"id": np.array(["noise"] * len(image)), "image": image, "label": label}


def _figure(value: float | None, *, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
