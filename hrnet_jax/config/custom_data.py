"""The dataset of a config: a known one, or your own folders, described in `config.data`."""

import re
from typing import Any

from ml_collections import ConfigDict

from hrnet_jax.data.dataset import Dataset, folder_dataset
from hrnet_jax.data.datasets import DATASETS


def dataset_of(config: ConfigDict) -> Dataset:
    """Return the dataset that a config names, or describes as your own folders.

    Raises:
        ValueError: the description cannot work; names the field.
    """
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


def _class_names(items: tuple[Any, ...]) -> tuple[str, ...]:
    # The command line turns road,car into ("road,car",).
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
                f"config.data.label_map={text!r}: {item!r} must map each value up to 255 once, in "
                "rising order, to one class or to as many classes as values."
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
