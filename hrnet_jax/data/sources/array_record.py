"""Datasets as ArrayRecord shards: a few large files with checksums and random access.

TFDS writes and reads them without TensorFlow: it returns the stored bytes, which are decoded as
from every other source.
"""

import dataclasses
import io
import json
import os
import re
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image as PILImage

from hrnet_jax.data.dataset import Dataset
from hrnet_jax.data.decode import decode_label, is_mat
from hrnet_jax.data.sources.folder import Record
from hrnet_jax.runs.paths import to_local_path

VERSION = "1.0.0"  # of the stored format
_SHARD = 500  # examples per file: 1.3 GB of Cityscapes, 25 MB of ADE20K

_KEYS = {"id": "id", "image": "image", "label": "label"}
_CITYSCAPES_KEYS = {"id": "image_id", "image": "image_left", "label": "segmentation_label"}
_OTHER_TASKS = {
    "scene_parse150": "holds instance masks, not the 150 classes of ADE20K's benchmark",
    "voc": "is for detection and holds no segmentation labels",
}
_PREPARE = (
    "\nPrepare it as ArrayRecord from its folder or zip files, with your training config:"
    "\n  python -m hrnet_jax.main --mode prepare --config CONFIG --config.data.root=SOURCE"
    " --output=DIR"
)


class ArrayRecordSource:
    """The records of one split in a folder written by `write` or TFDS's Cityscapes builder."""

    def __init__(self, folder: str | os.PathLike[str], dataset: Dataset, split: str):
        import tensorflow_datasets as tfds

        dataset.parts(split)  # reports an unknown split before a missing folder
        self._folder = to_local_path(folder)
        self._split = split
        info = _read_json(self._folder / "dataset_info.json")
        self._keys = _keys(self._folder, info, dataset=dataset)
        builder = tfds.builder_from_directory(self._folder)
        if split not in builder.info.splits:
            split = {"val": "validation"}.get(split, split)  # its name in TFDS
        if split not in builder.info.splits:
            raise ValueError(
                f"{folder} has no split {split!r}, only {sorted(builder.info.splits)}." + _PREPARE
            )
        for path in builder.info.splits[split].filepaths:
            if not path.exists():
                raise FileNotFoundError(
                    f"The shard {path} is missing: {folder} was not copied completely."
                )
        skip = tfds.decode.SkipDecoding()
        self._records = builder.as_data_source(
            split=split, decoders={self._keys[key]: skip for key in ("image", "label")}
        )

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> Record:
        return self._record(index, self._example(index))

    def paths(self, index: int) -> tuple[str, str]:
        """Return the names of image and label for messages, without reading them."""
        where = f"{self._folder} {self._split}[{index}]"
        return f"{where} (image)", f"{where} (label)"

    def is_intact(self, index: int) -> bool:
        """Whether an example equals, byte for byte, the one given to `write`."""
        example = self._example(index)
        return checksum(self._record(index, example)) == example["crc32"]

    def _record(self, index: int, example: dict[str, Any]) -> Record:
        name = example[self._keys["id"]].decode()
        where = f"{self._folder} {self._split}[{index}] {name}"
        return Record(
            id=name,
            image=example[self._keys["image"]],
            label=example[self._keys["label"]],
            image_path=f"{where} (image)",
            label_path=f"{where} (label)",
        )

    def _example(self, index: int) -> dict[str, Any]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        try:
            example = self._records[index]
            # From a truncated shard ArrayRecord returns empty records without an error.
            if any(example[key] is None for key in self._keys.values()):
                raise ValueError("its record is empty")
        except (RuntimeError, ValueError, IndexError, OSError) as error:
            raise ValueError(
                f"Example {index} of split {self._split!r} in {self._folder} is damaged: {error}."
                " Copy or prepare the folder again."
            ) from error
        return example


def prepared_folder(root: Path, dataset: Dataset) -> Path | None:
    """Find a dataset of TFDS in `root` or below it, as in root/<name>/<config>/<version>."""
    for depth in ("", "*/", "*/*/", "*/*/*/"):
        # A killed run leaves folders that begin with a dot, and TFDS some called incomplete.
        folders = [
            path.parent
            for path in sorted(root.glob(f"{depth}dataset_info.json"))
            if not re.search(r"(^|/)(\.|incomplete)", path.relative_to(root).as_posix())
        ]
        named = [folder for folder in folders if dataset.name in folder.relative_to(root).parts]
        if folders:
            return (named or folders)[-1]  # the highest version
    return None


def write(records: Mapping[str, Iterable[Record]], dataset: Dataset, *, folder: Path) -> None:
    """Write all splits, in order, as a folder for `tfds.builder_from_directory`.

    Images and labels are stored unchanged, except that a `.mat` file becomes a PNG of its values.
    """
    import tensorflow_datasets as tfds

    # Not a GeneratorBasedBuilder: even without shuffling it buffers up to 1 GB in memory, and the
    # rest in temporary files with TensorFlow.
    features = {
        "id": tfds.features.Text(),
        "image": tfds.features.Image(shape=(None, None, 3)),
        "label": tfds.features.Image(shape=(None, None, 1), use_colormap=True),
        "crc32": tfds.features.Scalar(np.int64),
    }
    info = tfds.core.DatasetInfo(
        builder=tfds.core.DatasetIdentity(
            name=dataset.name,
            version=tfds.core.Version(VERSION),
            data_dir=str(folder),
            module_name=__name__,
        ),
        description=f"{dataset.name} for hrnet_jax; label values as published.",
        features=tfds.features.FeaturesDict(features),
        metadata=tfds.core.MetadataDict(label_values=sorted(dataset.label_map)),
        disable_shuffling=True,
    )
    folder.mkdir(parents=True)
    writer = tfds.core.SequentialWriter(
        info, max_examples_per_shard=_SHARD, file_format="array_record"
    )
    writer.initialize_splits(list(records))
    try:
        for split in records:
            writer.add_examples({split: map(_as_example, records[split])})
        writer.close_all()
    except RuntimeError as error:  # from ArrayRecord when the disk is full
        raise OSError(f"Cannot write to {folder}: {error}") from error


def _as_example(record: Record) -> dict[str, Any]:
    label = record.label
    assert label is not None, "splits that are prepared have labels"
    if is_mat(label):
        file = io.BytesIO()
        PILImage.fromarray(decode_label(label, path=record.label_path)).save(file, "png")
        label = file.getvalue()
    crc32 = checksum(dataclasses.replace(record, label=label))
    return {"id": record.id, "image": record.image, "label": label, "crc32": crc32}


def checksum(record: Record) -> int:
    """Return the CRC-32 of an example's name, image file and label file."""
    label = record.label or b""
    return zlib.crc32(label, zlib.crc32(record.image, zlib.crc32(record.id.encode())))


def _keys(folder: Path, info: dict[str, Any], *, dataset: Dataset) -> dict[str, str]:
    """Return the names of the features; refuse a folder that holds something else."""
    name, how = info.get("name", "?"), _PREPARE
    if name in _OTHER_TASKS:
        raise ValueError(f"{folder}: TFDS's {name!r} {_OTHER_TASKS[name]}.{how}")
    if (kind := info.get("fileFormat", "tfrecord")) != "array_record":
        raise ValueError(
            f"{folder} holds {kind} files, which allow no random access without TensorFlow.{how}"
        )
    features = _read_json(folder / "features.json").get("featuresDict", {}).get("features", {})
    if set(_KEYS.values()) <= set(features):
        values = _read_json(folder / "metadata.json").get("label_values")
        if values != sorted(dataset.label_map):
            raise ValueError(
                f"{folder} was prepared from {name!r} with other label values than {dataset.name!r}"
                " has here; use the same --config.data.name, .classes and .label_map as then, or"
                f" another folder.{how}"
            )
        return _KEYS
    if set(_CITYSCAPES_KEYS.values()) <= set(features):
        if dataset.name != "cityscapes":
            raise ValueError(
                f"{folder} holds Cityscapes, but config.data.name is {dataset.name!r}.{how}"
            )
        return _CITYSCAPES_KEYS
    raise ValueError(
        f"{folder} holds {name!r} with the features {sorted(features)}, but not an image and a"
        f" segmentation label in a known form.{how}"
    )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        content = {}
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is damaged: {error}. Prepare the folder again.") from error
    return content if isinstance(content, dict) else {}
