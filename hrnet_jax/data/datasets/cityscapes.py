"""Cityscapes: 19 classes of street scenes (Cordts et al., 2016)."""

import dataclasses

from hrnet_jax.data.dataset import Dataset, Part

CLASSES = {
    "road": (128, 64, 128),
    "sidewalk": (244, 35, 232),
    "building": (70, 70, 70),
    "wall": (102, 102, 156),
    "fence": (190, 153, 153),
    "pole": (153, 153, 153),
    "traffic light": (250, 170, 30),
    "traffic sign": (220, 220, 0),
    "vegetation": (107, 142, 35),
    "terrain": (152, 251, 152),
    "sky": (70, 130, 180),
    "person": (220, 20, 60),
    "rider": (255, 0, 0),
    "car": (0, 0, 142),
    "truck": (0, 0, 70),
    "bus": (0, 60, 100),
    "train": (0, 80, 100),
    "motorcycle": (0, 0, 230),
    "bicycle": (119, 11, 32),
}

# From the ids in the files (`labelIds`) to class indices (`trainIds`). The mapped labels equal the
# `*_labelTrainIds.png` that Cityscapes' scripts write.
# The id -1 (license plate) is never drawn: its pixels belong to the car.
LABEL_MAP = {
    0: 255,  # unlabeled
    1: 255,  # ego vehicle
    2: 255,  # rectification border
    3: 255,  # out of roi
    4: 255,  # static
    5: 255,  # dynamic
    6: 255,  # ground
    7: 0,  # road
    8: 1,  # sidewalk
    9: 255,  # parking
    10: 255,  # rail track
    11: 2,  # building
    12: 3,  # wall
    13: 4,  # fence
    14: 255,  # guard rail
    15: 255,  # bridge
    16: 255,  # tunnel
    17: 5,  # pole
    18: 255,  # polegroup
    19: 6,  # traffic light
    20: 7,  # traffic sign
    21: 8,  # vegetation
    22: 9,  # terrain
    23: 10,  # sky
    24: 11,  # person
    25: 12,  # rider
    26: 13,  # car
    27: 14,  # truck
    28: 15,  # bus
    29: 255,  # caravan
    30: 255,  # trailer
    31: 16,  # train
    32: 17,  # motorcycle
    33: 18,  # bicycle
}


def _part(split: str) -> Part:
    return Part(
        images=f"leftImg8bit/{split}",
        labels=f"gtFine/{split}",
        image_suffix="_leftImg8bit.png",
        label_suffix="_gtFine_labelIds.png",
    )


DATASET = Dataset(
    name="cityscapes",
    classes=tuple(CLASSES),
    palette=tuple(CLASSES.values()),
    label_map=LABEL_MAP,
    splits={"train": (_part("train"),), "val": (_part("val"),)},
    test=(_part("test").or_unlabelled(),),
    counts={"train": 2975, "val": 500},
    obtain="""\
Register at https://www.cityscapes-dataset.com, download leftImg8bit_trainvaltest.zip (11 GB) and
gtFine_trainvaltest.zip (241 MB). Put both into one folder as they are, or unpack them there:
  leftImg8bit/{train,val}/<city>/*_leftImg8bit.png
  gtFine/{train,val}/<city>/*_gtFine_labelIds.png
The label files are read as shipped: no conversion to trainIds is needed.""",
)

# Street scenes drawn by this package, stored exactly like Cityscapes.
MINICITY = dataclasses.replace(
    DATASET,
    name="minicity",
    counts={"train": 200, "val": 50},  # by default
    counts_are_official=False,
    obtain="Nothing to download: configs/hr18s_minicity.py draws it if the folder is missing.\n"
    "Remove an incomplete folder, then start again.",
)
