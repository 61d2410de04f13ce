"""Source -> decoded, transformed examples -> this host's batches.

The position in the training stream is a pure function of the step, and everything random is a
pure function of seed and position. So a resumed run, on any number of hosts and workers, sees
exactly the same batches as an uninterrupted one.
"""

import atexit
import contextlib
import dataclasses
import functools
import json
import weakref
from collections.abc import Callable, Generator, Iterator, Sequence

import grain
import numpy as np
from absl import flags

from hrnet_jax.data.dataset import Dataset
from hrnet_jax.data.decode import decode
from hrnet_jax.data.headers import BadFile
from hrnet_jax.data.order import Reference, example_index
from hrnet_jax.data.sources.folder import Source
from hrnet_jax.data.transforms import Transform
from hrnet_jax.data.types import Batch, Example
from hrnet_jax.data.watchdog import Watchdog
from hrnet_jax.data.workers import begin_worker

_ENDLESS = 2**48  # examples; enough for 900 years at 10,000 a second
_PREFETCH = 4  # elements (batches in training, examples in evaluation) read ahead per process
_MAX_BAD_IN_A_ROW = 10  # examples to replace in a row; more mean that the disk fails

OnBadFile = Callable[[dict[str, str]], None]  # gets {"image", "label", "bad", "reason"}


def train_batches(
    source: Source,
    dataset: Dataset,
    *,
    transforms: Sequence[Transform],
    batch_size: int,  # over all hosts
    seed: int,  # of order and augmentation
    start_step: int,  # the first step to run; earlier ones are skipped without reading
    reference: Reference = "v0",  # the order, see `order.example_index`
    host: int = 0,
    hosts: int = 1,
    workers: int = 0,  # processes that decode and transform; 0: threads of this process
    threads: int = 2,  # per process
    on_bad_file: OnBadFile | None = None,  # called for each replaced example; None: stop
) -> Generator[Batch, None, None]:
    """Return an endless iterator over this host's part of the batches, starting at `start_step`.

    A batch is {"image": float32 [b h w 3], "label": uint8 [b h w], "id": str [b]}. The batches of
    all hosts, concatenated in order, are the global batch.

    Raises:
        ValueError: the hosts cannot share a batch evenly.

    Raises while iterating:
        BadFile or OSError: a file is damaged, and there is no `on_bad_file`.
        ChildProcessError: a worker died or hung; names the files it was reading.
    """
    if batch_size % hosts:
        raise ValueError(
            f"batch_size={batch_size} cannot be split over {hosts} hosts; use a multiple of"
            f" {hosts}, for example {-(-batch_size // hosts) * hosts}."
        )
    watchdog = Watchdog() if workers else None
    stream = train_stream(
        source,
        dataset,
        transforms=transforms,
        batch_size=batch_size,
        seed=seed,
        reference=reference,
        replace=on_bad_file is not None,
        watchdog=watchdog,
    )[start_step * batch_size :]
    stream = stream.batch(batch_size // hosts, batch_fn=_stack)
    stream = stream[host::hosts]  # last, so that order and augmentation do not depend on the host
    return _read(
        stream, workers=workers, threads=threads, watchdog=watchdog, on_bad_file=on_bad_file
    )


def train_stream(
    source: Source,
    dataset: Dataset,
    *,
    transforms: Sequence[Transform],
    batch_size: int,  # over all hosts
    seed: int,
    reference: Reference = "v0",
    replace: bool = False,  # replace bad examples, see `readable_example`
    watchdog: Watchdog | None = None,
) -> grain.MapDataset:
    """Return the endless training stream: position -> transformed example."""
    index_at = functools.partial(
        example_index,
        num_examples=len(source),
        batch_size=batch_size,
        seed=seed,
        reference=reference,
    )
    read = _Reader(source, dataset, watchdog, replace=replace)
    positions = grain.MapDataset.range(_ENDLESS).seed(seed)
    return _transformed(positions.map(lambda position: read(index_at(position))), transforms)


@dataclasses.dataclass(frozen=True)
class _Reader:
    """Reads and decodes an example by its index; pickled for workers."""

    source: Source
    dataset: Dataset
    watchdog: Watchdog | None
    replace: bool = False

    def __call__(self, index: int) -> Example:
        watchdog, paths = self.watchdog, self.source.paths(index)
        with watchdog.reading(*paths) if watchdog else contextlib.nullcontext():
            if self.replace:
                return readable_example(self.source, index, dataset=self.dataset)
            return decode(self.source[index], self.dataset)


def readable_example(source: Source, index: int, *, dataset: Dataset) -> Example:
    """Read the example at `index`, or the next good one if it is bad.

    The choice depends on the files only, so it is the same for any number of workers and hosts. The
    bad examples are listed in the result, as JSON under "left_out".
    """
    left_out = []
    for offset in range(min(_MAX_BAD_IN_A_ROW, len(source))):
        candidate = (index + offset) % len(source)
        try:
            example = decode(source[candidate], dataset)
        except (ValueError, OSError) as error:  # from decoding, or from an archive
            image, label = source.paths(candidate)
            path = getattr(error, "path", "") or getattr(error, "filename", None) or image
            left_out.append({"image": image, "label": label, "bad": path, "reason": str(error)})
        else:
            return {**example, "left_out": tuple(map(json.dumps, left_out))}
    raise BadFile(
        f"{len(left_out)} examples in a row cannot be used: is the disk or the whole folder bad?"
        f" The last error:\n{left_out[-1]['reason']}",
        path=left_out[-1]["bad"],
    )


def eval_examples(
    source: Source,
    dataset: Dataset,
    *,
    transforms: Sequence[Transform],
    host: int = 0,
    hosts: int = 1,
    workers: int = 0,
    threads: int = 2,
) -> Iterator[Example]:
    """Return an iterator over this host's examples, once and in order, with labels in full size.

    Host h reads the examples h, h + hosts, ...; their number may differ by one between hosts.
    """
    watchdog = Watchdog() if workers else None
    stream = grain.MapDataset.range(len(source)).map(_Reader(source, dataset, watchdog))
    stream = _transformed(stream, transforms)[host::hosts]
    return _read(stream, workers=workers, threads=threads, watchdog=watchdog)


def _transformed(stream: grain.MapDataset, transforms: Sequence[Transform]) -> grain.MapDataset:
    for transform in transforms:
        is_random = isinstance(transform, grain.transforms.RandomMap)
        stream = stream.random_map(transform) if is_random else stream.map(transform)
    return stream


def _stack(examples: Sequence[Example]) -> Batch:
    left_out = [entry for example in examples for entry in example.get("left_out", ())]
    return {
        "left_out": np.array(left_out, dtype=np.str_),  # removed before the batch is used
        "image": np.stack([example["image"] for example in examples]),
        "label": np.stack([example["label"] for example in examples]),
        "id": np.array([example["id"] for example in examples]),
    }


def _read(
    stream: grain.MapDataset,
    *,
    workers: int,
    threads: int,
    watchdog: Watchdog | None,
    on_bad_file: OnBadFile | None = None,
) -> Generator:
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=_PREFETCH)
    elements = stream.to_iter_dataset(options)
    if workers:
        if not flags.FLAGS.is_parsed():  # in a notebook or a test; Grain needs its own flags
            flags.FLAGS.mark_as_parsed()
        elements = elements.mp_prefetch(
            grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=2),
            worker_init_fn=begin_worker,
        )
    generator = _closing(iter(elements), watchdog=watchdog, on_bad_file=on_bad_file)
    # Grain prints errors and leaks memory unless closed before the interpreter removes its modules.
    atexit.register(_close, weakref.ref(generator))
    return generator


def _closing(
    iterator: grain.DatasetIterator, *, watchdog: Watchdog | None, on_bad_file: OnBadFile | None
) -> Generator:
    with contextlib.closing(iterator), watchdog.running() if watchdog else contextlib.nullcontext():
        try:
            for element in iterator:
                for entry in element.pop("left_out", ()):
                    assert on_bad_file is not None  # it decides whether examples are replaced
                    on_bad_file(json.loads(entry))
                yield element
        except RuntimeError as error:
            if watchdog is None or "Worker process was terminated" not in str(error):
                raise
            raise watchdog.worker_died(error) from error


def _close(reference: weakref.ref) -> None:
    if (generator := reference()) is not None:
        generator.close()
