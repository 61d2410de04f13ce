"""Every field of a config: its default, unit and meaning; and what types cannot check.

A recipe starts from `default()` and changes what its dataset needs; the command line overrides
the rest. A config states independent choices only: what follows from them (number of classes,
images per device) is computed where it is used, so no override can leave it stale.
"""

import difflib
import json
import re
from typing import Any

from ml_collections import ConfigDict

from hrnet_jax.data.dataset import Dataset, folder_dataset
from hrnet_jax.data.datasets import DATASETS
from hrnet_jax.evaluation.protocol import Protocol
from hrnet_jax.models import VARIANTS

# Fields that may change between two starts in one workdir; all others decide the result.
_OPERATIONAL = (
    "log", "eval.every_steps", "eval.batch_size", "checkpoint", "data.root", "data.workers",
    "data.threads", "data.on_error", "train.on_bad_step", "train.max_bad_steps", "eval.split",
    "eval.submission", "eval.save_predictions", "mesh", "train.remat",
)  # fmt: skip

# From where to where the numbers of a field may lie; what is beyond is a slip or not finite.
_RANGES = {
    "optim.lr": (1e-12, 1e3), "optim.min_lr": (0, 1e3), "optim.power": (0, 100),
    "optim.momentum": (0, 0.9999), "optim.weight_decay": (0, 100),
    "train.ratio_range": (0.01, 100), "train.class_weights": (0, 1e6), "eval.ratios": (0.01, 100),
    "data.mean": (0, 255), "data.std": (0.01, 1e4),
}  # fmt: skip


def default(*, name: str, dataset: str, variant: str) -> ConfigDict:
    """Return a config in which every field exists. Sizes are (height, width) in pixels."""
    config = ConfigDict()
    config.name = name  # of the recipe; the default workdir is runs/<name>
    # Whose rules hold where mmsegmentation 0.x ("v0", which produced the published numbers) and
    # 1.x ("v1") differ: the end of the learning-rate decay, the order of the examples, the
    # denominator of the logged accuracy, and what `eval.ratios` scale: the size that images are
    # fitted to, or the image itself.
    config.reference = "v0"
    config.seed = 0  # of initial weights, example order and augmentation
    # What a new run starts from: "" for random weights, else a .pth or .safetensors file (a whole
    # network or an ImageNet backbone), a workdir, a checkpoint, or the name of a row of the zoo
    # that was converted. A resumed run does not read it.
    config.init_from = ""
    # What of its head is used: "strict" (the classes must be the same), "match" (the classes of
    # equal names), or "new" (nothing: the backbone only).
    config.init_head = "strict"

    config.model = ConfigDict()
    config.model.variant = variant  # hr18s, hr18 or hr48
    config.model.dtype = "float32"  # of the computation: float32, bfloat16 or float64 (all of it)

    # Devices are data x height: a batch is split by images over the first, and each image by rows
    # over the second, for images too large for one device (crop height a multiple of 32 x height).
    config.mesh = ConfigDict()
    config.mesh.data = -1  # -1: all devices that remain
    config.mesh.height = 1
    # Seconds without a sign of life, after which a process of several counts as dead, and the
    # others stop. Longer than any pause of a healthy one, such as a busy network.
    config.mesh.timeout = 60

    config.data = ConfigDict()
    config.data.name = dataset  # one of docs/datasets.md, minicity, or custom (your own folders)
    # The folder that holds the dataset's official layout, a zip file of it, a folder with several
    # zip files that hold it together, or a folder that --mode prepare wrote.
    config.data.root = f"data/{dataset}"
    config.data.workers = 0  # processes that read and augment; 0: threads of the main process
    config.data.threads = 2  # per process
    # What training does with a damaged or illegal file: "stop", or "quarantine" (read the next
    # example in its place, list the file in <workdir>/quarantine.jsonl). Evaluation always stops.
    config.data.on_error = "stop"
    config.data.mean = (123.675, 116.28, 103.53)  # of R, G, B, on the scale 0 to 255
    config.data.std = (58.395, 57.12, 57.375)
    # The next fields matter for data.name=custom only.
    config.data.classes = ()  # names in the order of the classes: road,car or ('road', 'car')
    # Which label value is which class, as in "0:255,1-3:0-2,4-9:3", where 255 is ignored; "" is
    # every value the class of this number, and 255 ignored.
    config.data.label_map = ""
    config.data.palette = ""  # "": Pascal VOC's colours; else one RRGGBB per class: 804080,00008E
    config.data.images = "images/{split}"  # folder below the root; split is train or val
    config.data.labels = "labels/{split}"
    config.data.image_suffix = ".jpg"
    config.data.label_suffix = ".png"
    config.data.list_file = ""  # names without suffix, one a line, as in {split}.txt; "": all files

    config.train = ConfigDict()
    config.train.steps = 40_000
    config.train.batch_size = 8  # images per step, over all devices
    config.train.image_size = (1024, 2048)  # long and short side before the random scale
    config.train.ratio_range = (0.5, 2.0)  # of the random scale
    config.train.crop_size = (512, 1024)
    config.train.class_weights = ()  # of the loss, one per class; empty: every class weighs 1
    # Micro-batches that a step computes one after the other, for batches too large for the devices.
    # The gradient is that of the whole batch, but batch normalisation sees one micro-batch at a
    # time: its statistics are noisier, and the running ones move so many times per step.
    config.train.accumulate = 1
    # What is computed again in the backward pass instead of kept: "none", "block" or "stage".
    # Costs time, saves memory, changes no result; docs/scale.md tells how much.
    config.train.remat = "none"
    # What happens at a step whose loss or gradient is not finite, which never changes a weight:
    # "skip" (go on with the next batch) or "stop". <workdir>/bad_steps.jsonl names its images.
    config.train.on_bad_step = "skip"
    config.train.max_bad_steps = 10  # "skip" too stops after so many in a row

    config.optim = ConfigDict()
    config.optim.lr = 0.01  # at step 0
    config.optim.min_lr = 1e-4  # towards the last step
    config.optim.power = 0.9  # of the polynomial decay
    config.optim.momentum = 0.9
    config.optim.weight_decay = 5e-4  # on every parameter

    config.eval = ConfigDict()
    config.eval.every_steps = 4_000
    config.eval.batch_size = 4  # images of one size per call, over all devices
    config.eval.image_size = (1024, 2048)  # images are brought into this box, shape kept
    config.eval.mode = "whole"  # or "slide": windows of crop_size every stride, averaged
    config.eval.crop_size = (480, 480)
    config.eval.stride = (320, 320)
    # Probabilities are averaged over these scales of image_size, and over their mirror images.
    # The published ms+flip numbers: --config.eval.ratios="(.5,.75,1.,1.25,1.5,1.75)"
    # --config.eval.flip
    config.eval.ratios = (1.0,)
    config.eval.flip = False
    config.eval.limit = 0  # only the first so many images; 0: all
    # The next fields matter for --mode eval only.
    config.eval.split = "val"  # or train, or test: whose labels may be missing, see `submission`
    # "": none, else label PNGs as a test server wants them, in eval/submission: "cityscapes" (ids
    # of its label files) or "ade20k" (class index + 1)
    config.eval.submission = ""
    config.eval.save_predictions = False  # class indices with palette, PNGs in eval/predictions

    config.checkpoint = ConfigDict()
    config.checkpoint.every_steps = 4_000
    config.checkpoint.keep = 2  # newest ones; the best by mIoU is kept besides

    config.log = ConfigDict()
    config.log.every_steps = 50
    config.log.pictures = 8  # validation images drawn with truth and prediction
    return config.lock()


def validate(config: ConfigDict) -> None:
    """Refuse values that no type can refuse, naming the field and what is allowed.

    Raises:
        ValueError: for the first field that cannot work.
    """
    _check_choices(config)
    _check_numbers(config)
    _check_evaluation(config)
    _check_data(config)
    _check_training(config)


def _check_choices(config: ConfigDict) -> None:
    _one_of(config, "reference", ("v0", "v1"))
    _one_of(config, "init_head", ("strict", "match", "new"))
    _one_of(config, "model.variant", tuple(VARIANTS))
    _one_of(config, "model.dtype", ("float32", "bfloat16", "float64"))
    _one_of(config, "data.name", (*DATASETS, "custom"))
    _one_of(config, "eval.mode", ("whole", "slide"))
    _one_of(config, "eval.split", ("val", "train", "test"))
    _one_of(config, "eval.submission", ("", "cityscapes", "ade20k"))
    _one_of(config, "train.remat", ("none", "block", "stage"))
    _one_of(config, "data.on_error", ("stop", "quarantine"))
    _one_of(config, "train.on_bad_step", ("skip", "stop"))


def _check_numbers(config: ConfigDict) -> None:
    """Sizes, counts and ranges: each field alone."""
    for field in (
        "train.image_size", "train.crop_size", "eval.image_size", "eval.crop_size", "eval.stride",
    ):  # fmt: skip
        size = get(config, field)
        if len(size) != 2 or not all(isinstance(side, int) and side > 0 for side in size):
            raise ValueError(
                f"config.{field}={size} is not a size; give (height, width) in pixels, "
                f"for example --config.{field}='(512, 1024)'."
            )
    for field in (
        "train.steps", "train.batch_size", "train.max_bad_steps", "eval.batch_size",
        "eval.every_steps", "checkpoint.every_steps", "checkpoint.keep", "log.every_steps",
        "data.threads", "mesh.height", "mesh.timeout", "train.accumulate",
    ):  # fmt: skip
        if get(config, field) < 1:
            raise ValueError(f"config.{field}={get(config, field)} must be at least 1.")
    for field in ("seed", "data.workers", "log.pictures", "eval.limit"):
        if get(config, field) < 0:
            raise ValueError(f"config.{field}={get(config, field)} must not be negative.")
    if config.mesh.data < 1 and config.mesh.data != -1:
        raise ValueError(
            f"config.mesh.data={config.mesh.data} must be at least 1, or -1 for all devices that "
            "config.mesh.height leaves."
        )
    for field in _RANGES:
        _in_range(config, field)


def _check_evaluation(config: ConfigDict) -> None:
    if config.eval.every_steps % config.checkpoint.every_steps:
        raise ValueError(
            f"config.eval.every_steps={config.eval.every_steps} must be a multiple of "
            f"config.checkpoint.every_steps={config.checkpoint.every_steps}: otherwise the network "
            "with the best evaluation would not be saved."
        )
    if any(a > b for a, b in zip(config.eval.stride, config.eval.crop_size, strict=True)):
        raise ValueError(
            f"config.eval.stride={config.eval.stride} must not exceed config.eval.crop_size="
            f"{config.eval.crop_size}: pixels between the windows would not be seen."
        )
    if not config.eval.ratios:
        raise ValueError("config.eval.ratios is empty; give scales, such as '(1.0,)'.")


def _check_data(config: ConfigDict) -> None:
    for field in ("data.mean", "data.std"):
        if len(get(config, field)) != 3:
            raise ValueError(f"config.{field}={get(config, field)} must be three numbers.")
    for field in ("data.images", "data.labels"):
        # A list file tells the splits apart as well.
        if "{split}" not in get(config, field) + config.data.list_file:
            raise ValueError(
                f"config.{field}={get(config, field)!r} must contain {{split}}, which stands for "
                "train and val: training images must not be scored. If all lie in one folder, name "
                "lists with --config.data.list_file={split}.txt."
            )


def _check_training(config: ConfigDict) -> None:
    ratios = config.train.ratio_range
    if len(ratios) != 2 or ratios[0] > ratios[1]:
        raise ValueError(
            f"config.train.ratio_range={ratios} must be two numbers, the lower one first, for "
            "example '(0.5, 2.0)'."
        )
    weights, num_classes = config.train.class_weights, dataset_of(config).num_classes
    if weights and (len(weights) != num_classes or not any(weights)):
        raise ValueError(
            f"config.train.class_weights={weights} has {len(weights)} values; give {num_classes}, "
            "one per class and not all 0, or ()."
        )


def _in_range(config: ConfigDict, field: str) -> None:
    """Refuse what is no number of the field's range, alone or among several."""
    value, (low, high) = get(config, field), _RANGES[field]
    for number in value if isinstance(value, tuple) else (value,):
        # No comparison with nan is true.
        if not isinstance(number, int | float) or not low <= number <= high:
            raise ValueError(
                f"config.{field}={value}: {number!r} is no finite number from {low:g} to {high:g}."
            )


def _one_of(config: ConfigDict, field: str, allowed: tuple[str, ...]) -> None:
    value = get(config, field)
    if value not in allowed:
        guess = difflib.get_close_matches(str(value), allowed, n=1)
        hint = f" Did you mean {guess[0]!r}?" if guess else ""
        listed = ", ".join(name or "''" for name in allowed)
        raise ValueError(f"config.{field}={value!r} must be one of {listed}.{hint}")


def get(config: ConfigDict, field: str) -> Any:
    """Look up a dotted field: get(config, "train.steps")."""
    for name in field.split("."):
        config = config[name]
    return config


def dataset_of(config: ConfigDict) -> Dataset:
    """Return the dataset that a config names, or describes as its own folders."""
    if config.data.name != "custom":
        return DATASETS[config.data.name]
    return folder_dataset(
        classes=_class_names(config.data.classes),
        images=config.data.images,
        labels=config.data.labels,
        image_suffix=config.data.image_suffix,
        label_suffix=config.data.label_suffix,
        label_map=_label_map(config.data.label_map) or None,
        palette=_palette(config.data.palette) or None,
        list_file=config.data.list_file or None,
    )


def protocol_of(config: ConfigDict) -> Protocol:
    """Return the rules by which images are labelled and scored."""
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
    """Say in one line what a label map belongs to: protocol, precision."""
    return f"{protocol_of(config).describe()}, in {config.model.dtype}"


def describe_evaluation(config: ConfigDict) -> str:
    """Say in one line what a number belongs to: protocol, precision, which images."""
    text = describe_protocol(config)
    if config.eval.split != "val":
        text += f", on the {config.eval.split} split"
    if config.eval.limit:
        text += f", the first {config.eval.limit} images only"
    return text


def _class_names(items: tuple[Any, ...]) -> tuple[str, ...]:
    # Commas separate also within a name: the command line makes ("road,car",) of road,car.
    names = [name.strip() for item in items for name in str(item).split(",")]
    if not any(names) or not all(isinstance(item, str) for item in items):
        problem = f"={items} must be names" if any(names) else " is empty"
        raise ValueError(
            f"config.data.classes{problem}; name the classes in the order of their label values, "
            "for example --config.data.classes=road,car."
        )
    return tuple(name for name in names if name)


def _label_map(text: str) -> dict[int, int]:
    label_map: dict[int, int] = {}
    for item in filter(None, text.replace(" ", "").split(",")):
        match = re.fullmatch(r"(\d+)(?:-(\d+))?:(\d+)(?:-(\d+))?", item)
        if not match:
            raise ValueError(
                f"config.data.label_map={text!r}: {item!r} is not value:class; give for example "
                "--config.data.label_map=0:255,1-3:0-2,4-9:3 (255: ignored)."
            )
        values = range(int(match[1]), int(match[2] or match[1]) + 1)
        first_class, last_class = int(match[3]), int(match[4] or match[3])
        rises = last_class > first_class  # 1-3:0-2 is 1:0,2:1,3:2; 1-3:0 is 1:0,2:0,3:0
        if (
            not values
            or values[-1] > 255
            or label_map.keys() & set(values)
            or (match[4] and last_class - first_class != values[-1] - values[0])
        ):
            raise ValueError(
                f"config.data.label_map={text!r}: {item!r} gives values again, above 255, "
                "backwards, or not as many as classes."
            )
        label_map |= {v: first_class + rises * (v - values[0]) for v in values}
    return label_map


def _palette(text: str) -> tuple[tuple[int, int, int], ...]:
    colors = [color.strip().removeprefix("#") for color in text.split(",") if color.strip()]
    for color in colors:
        if not re.fullmatch("[0-9A-Fa-f]{6}", color):
            raise ValueError(
                f"config.data.palette={text!r}: {color!r} is not a colour RRGGBB, "
                "as in --config.data.palette=804080,00008E."
            )
    return tuple((int(c[:2], 16), int(c[2:4], 16), int(c[4:], 16)) for c in colors)


def from_json(text: str) -> ConfigDict:
    """Read back a config's `to_dict()`, as the config.json of a run holds it."""
    return from_dict(json.loads(text))


def from_dict(fields: dict[str, Any]) -> ConfigDict:
    """Make a config of the nested dict that JSON gives; its lists become tuples again."""

    def tuples(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: tuples(item) for name, item in value.items()}
        return tuple(map(tuples, value)) if isinstance(value, list) else value

    complete = default(name="", dataset="", variant="").unlock()  # for fields newer than the file
    complete.update(tuples(fields))
    return complete.lock()


def differences(old: ConfigDict, new: ConfigDict, *, operational: bool = False) -> list[str]:
    """List the fields that decide a run's result and differ: "train.steps: 40000 -> 80000".

    With `operational`, those that do not decide it.
    """
    before, after = _flat(old.to_dict()), _flat(new.to_dict())
    return [
        f"{field}: {before.get(field, 'absent')} -> {after.get(field, 'absent')}"
        for field in sorted(before | after)
        if before.get(field) != after.get(field)
        and operational
        == any(field == name or field.startswith(f"{name}.") for name in _OPERATIONAL)
    ]


def fields(config: ConfigDict) -> list[str]:
    """List the dotted names of all fields: "reference", "model.variant", ..."""
    return list(_flat(config.to_dict()))


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat
