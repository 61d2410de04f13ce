"""Pascal Context: 59 classes of objects and surfaces, 60 with background (Mottaghi, 2014).

Both read the same files, which `context_labels` makes from the published annotations.
"""

import dataclasses

from hrnet_jax.data.dataset import Dataset, Part

CLASSES_60 = {
    "background": (120, 120, 120),
    "aeroplane": (180, 120, 120),
    "bag": (6, 230, 230),
    "bed": (80, 50, 50),
    "bedclothes": (4, 200, 3),
    "bench": (120, 120, 80),
    "bicycle": (140, 140, 140),
    "bird": (204, 5, 255),
    "boat": (230, 230, 230),
    "book": (4, 250, 7),
    "bottle": (224, 5, 255),
    "building": (235, 255, 7),
    "bus": (150, 5, 61),
    "cabinet": (120, 120, 70),
    "car": (8, 255, 51),
    "cat": (255, 6, 82),
    "ceiling": (143, 255, 140),
    "chair": (204, 255, 4),
    "cloth": (255, 51, 7),
    "computer": (204, 70, 3),
    "cow": (0, 102, 200),
    "cup": (61, 230, 250),
    "curtain": (255, 6, 51),
    "dog": (11, 102, 255),
    "door": (255, 7, 71),
    "fence": (255, 9, 224),
    "floor": (9, 7, 230),
    "flower": (220, 220, 220),
    "food": (255, 9, 92),
    "grass": (112, 9, 255),
    "ground": (8, 255, 214),
    "horse": (7, 255, 224),
    "keyboard": (255, 184, 6),
    "light": (10, 255, 71),
    "motorbike": (255, 41, 10),
    "mountain": (7, 255, 255),
    "mouse": (224, 255, 8),
    "person": (102, 8, 255),
    "plate": (255, 61, 6),
    "platform": (255, 194, 7),
    "pottedplant": (255, 122, 8),
    "road": (0, 255, 20),
    "rock": (255, 8, 41),
    "sheep": (255, 5, 153),
    "shelves": (6, 51, 255),
    "sidewalk": (235, 12, 255),
    "sign": (160, 150, 20),
    "sky": (0, 163, 255),
    "snow": (140, 140, 140),
    "sofa": (250, 10, 15),
    "table": (20, 255, 0),
    "track": (31, 255, 0),
    "train": (255, 31, 0),
    "tree": (255, 224, 0),
    "truck": (153, 255, 0),
    "tvmonitor": (0, 0, 255),
    "wall": (255, 71, 0),
    "water": (0, 235, 255),
    "window": (0, 173, 255),
    "wood": (31, 0, 255),
}

CLASSES_59 = dict(list(CLASSES_60.items())[1:])  # without the background


def _part(split: str) -> Part:
    return Part(
        images="JPEGImages",
        labels="SegmentationClassContext",
        image_suffix=".jpg",
        label_suffix=".png",
        lists=(f"ImageSets/SegmentationContext/{split}.txt",),
    )


DATASET = Dataset(
    name="pascal_context",
    classes=tuple(CLASSES_60),
    palette=tuple(CLASSES_60.values()),
    label_map={index: index for index in range(60)},
    splits={"train": (_part("train"),), "val": (_part("val"),)},
    # As in today's trainval_merged.json; papers report 4998 and 5105.
    counts={"train": 4996, "val": 5104},
    obtain="""\
Download VOCtrainval_03-May-2010.tar (1.3 GB) from http://host.robots.ox.ac.uk/pascal/VOC/voc2010
and trainval_merged.json (the annotations of PASCAL in Detail), unpack the first, and put the second
into the folder VOCdevkit/VOC2010, which is the folder to point to. Make the label files once:
  python -m hrnet_jax.main --mode prepare --config configs/hr48_pascal_context.py \\
    --config.data.root=.../VOCdevkit/VOC2010
Then it holds
  JPEGImages/*.jpg
  SegmentationClassContext/*.png
  ImageSets/SegmentationContext/{train,val}.txt""",
)

DATASET_59 = dataclasses.replace(
    DATASET,
    name="pascal_context_59",
    classes=tuple(CLASSES_59),
    palette=tuple(CLASSES_59.values()),
    label_map={0: 255} | {value: value - 1 for value in range(1, 60)},  # ignores the background
)
