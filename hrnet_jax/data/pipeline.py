"""Source -> decoded, transformed examples -> this host's batches.

The position in the training stream is a pure function of the step, and everything random is a
pure function of seed and position. So a run resumed at a step, on any number of hosts and workers,
sees exactly what an uninterrupted run would have seen.
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
_PREFETCH = 4  # elements (batches in training, examples in evaluation) held ready per process
_MAX_BAD_IN_A_ROW = 10  # examples to replace at one place; more of them mean that the disk fails

OnBadFile = Callable[[dict[str, str]], None]  # gets {"image", "label", "bad", "reason"}


def train_batches(
    source: Source,
    dataset: Dataset,
    *,
    transforms: Sequence[Transform],
    batch_size: int,  # over all hosts
    seed: int,  # of order and augmentation
    start_step: int,  # the first step to run; earlier ones are skipped without being read
    reference: Reference = "v0",  # whose order to follow, see `order.example_index`
    host: int = 0,
    hosts: int = 1,
    workers: int = 0,  # processes that decode and transform; 0: threads of this process
    threads: int = 2,  # per process
    on_bad_file: OnBadFile | None = None,  # called for each replaced example; None: stop
) -> Generator[Batch, None, None]:
    """Return an endless iterator over this host's part of the batches from `start_step` on.

    A batch is {"image": float32 [b h w 3], "label": uint8 [b h w], "id": str [b]}. The batches of
    all hosts, concatenated in order, are the global batch.

    Raises (while iterating):
        BadFile or OSError: a file is damaged, and there is no `on_bad_file`.
        ChildProcessError: a worker died or got stuck; names the files it was reading.
    """
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
    stream = stream.batch(_per_host(batch_size, hosts=hosts), batch_fn=_stack)
    stream = stream[host::hosts]  # last, so that order and augmentation do not depend on the host
    return _read(
        stream, workers=workers, threads=threads, watchdog=watchdog, on_bad_file=on_bad_file
    )


def _per_host(batch_size: int, *, hosts: int) -> int:
    if batch_size % hosts:
        raise ValueError(
            f"batch_size={batch_size} cannot be split over {hosts} hosts; use a multiple of"
            f" {hosts}, for example {-(-batch_size // hosts) * hosts}."
        )
    return batch_size // hosts


def train_stream(
    source: Source,
    dataset: Dataset,
    *,
    transforms: Sequence[Transform],
    batch_size: int,  # over all hosts
    seed: int,
    reference: Reference = "v0",
    replace: bool = False,  # read another example instead of a bad one, see `readable_example`
    watchdog: Watchdog | None = None,
) -> grain.MapDataset:
    """Return the endless training stream: position -> transformed example."""
    at = functools.partial(
        example_index,
        num_examples=len(source),
        batch_size=batch_size,
        seed=seed,
        reference=reference,
    )
    read = _Reader(source, dataset, watchdog, replace=replace)
    stream = grain.MapDataset.range(_ENDLESS).seed(seed)  # of positions
    return _transformed(stream.map(lambda position: read(at(position))), transforms)


@dataclasses.dataclass(frozen=True)
class _Reader:
    """Reads and decodes examples by their index; workers get it by pickle."""

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

    The choice depends on the files only, so that it is the same for any number of workers and
    hosts. The bad examples are listed in the result, as JSON under "left_out".
    """
    left_out = []
    for place in range(index, index + min(_MAX_BAD_IN_A_ROW, len(source))):
        try:
            example = decode(source[place % len(source)], dataset)
        except (ValueError, OSError) as error:  # of decoding, or of an archive
            image, label = source.paths(place % len(source))
            path = getattr(error, "path", "") or getattr(error, "filename", None) or image
            left_out.append({"image": image, "label": label, "bad": path, "reason": str(error)})
        else:
            return {**example, "left_out": tuple(map(json.dumps, left_out))}
    raise BadFile(
        f"{len(left_out)} examples in a row cannot be used, so this is not about single files."
        f" The last one:\n{left_out[-1]['reason']}",
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
    """Return an iterator over each of this host's examples once, in order, labels at raw size.

    Host h reads the examples h, h + hosts, ...; the numbers of examples may differ by one.
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
        "left_out": np.array(left_out, dtype=np.str_),  # taken out again before the batch is used
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
        if not flags.FLAGS.is_parsed():  # in a notebook or a test; Grain reads its own flags
            flags.FLAGS.mark_as_parsed()
        elements = elements.mp_prefetch(
            grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=2),
            worker_init_fn=begin_worker,
        )
    generator = _closing(iter(elements), watchdog=watchdog, on_bad_file=on_bad_file)
    # Closed before the interpreter removes its modules, Grain prints no errors and frees memory.
    atexit.register(_close, weakref.ref(generator))
    return generator


def _closing(
    iterator: grain.DatasetIterator, *, watchdog: Watchdog | None, on_bad_file: OnBadFile | None
) -> Generator:
    with contextlib.ExitStack() as at_the_end:  # closes after an error too
        at_the_end.callback(iterator.close)
        if watchdog:
            at_the_end.enter_context(watchdog.running())
        try:
            for element in iterator:
                for entry in element.pop("left_out", ()):
                    if on_bad_file is not None:
                        on_bad_file(json.loads(entry))
                yield element
        except RuntimeError as error:
            if watchdog is None or "Worker process was terminated" not in str(error):
                raise
            raise watchdog.worker_died(error) from error


def _close(reference: weakref.ref) -> None:
    if (generator := reference()) is not None:
        generator.close()
