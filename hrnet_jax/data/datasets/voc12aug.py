"""Pascal VOC 2012: 20 classes of objects and the background (Everingham et al., 2015).

Training adds the masks of the Semantic Boundaries Dataset (Hariharan et al., 2011), either as
converted PNGs or as the original `.mat` files.
"""

from hrnet_jax.data.dataset import Dataset, Part, voc_palette

_NAMES = (
    "background",
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "diningtable",
    "dog",
    "horse",
    "motorbike",
    "person",
    "pottedplant",
    "sheep",
    "sofa",
    "train",
    "tvmonitor",
)

CLASSES = dict(zip(_NAMES, voc_palette(len(_NAMES)), strict=True))

_LISTS = "ImageSets/Segmentation"
_SBD = "benchmark_RELEASE/dataset"


def _part(split: str) -> Part:
    return Part(
        images="JPEGImages",
        labels="SegmentationClass",
        image_suffix=".jpg",
        label_suffix=".png",
        lists=(f"{_LISTS}/{split}.txt",),
    )


_AUG = Part(
    images="JPEGImages",
    labels="SegmentationClassAug",
    image_suffix=".jpg",
    label_suffix=".png",
    lists=(f"{_LISTS}/aug.txt",),
    fallback=Part(
        images="JPEGImages",  # SBD's images are VOC's
        labels=f"{_SBD}/cls",
        image_suffix=".jpg",
        label_suffix=".mat",
        lists=(f"{_SBD}/train.txt", f"{_SBD}/val.txt"),
        # VOC's own masks are finer, and its validation images must not be trained on.
        exclude_lists=(f"{_LISTS}/train.txt", f"{_LISTS}/val.txt"),
    ),
)

DATASET = Dataset(
    name="voc12aug",
    classes=tuple(CLASSES),
    palette=tuple(CLASSES.values()),
    label_map={index: index for index in range(21)} | {255: 255},  # 255: borders, "difficult"
    splits={"train": (_part("train"), _AUG), "val": (_part("val"),)},
    counts={"train": 1464 + 9118, "val": 1449},
    obtain="""\
Download VOCtrainval_11-May-2012.tar (2 GB) from http://host.robots.ox.ac.uk/pascal/VOC/voc2012 and
benchmark.tgz (1.4 GB) from
http://www.eecs.berkeley.edu/Research/Projects/CS/vision/grouping/semantic_contours, unpack the
first, and the second into the folder VOCdevkit/VOC2012, which is the folder to point to:
  JPEGImages/*.jpg
  SegmentationClass/*.png
  ImageSets/Segmentation/{train,val}.txt
  benchmark_RELEASE/dataset/cls/*.mat
  benchmark_RELEASE/dataset/{train,val}.txt
SBD's .mat files are read as shipped. If there is a folder SegmentationClassAug, its PNGs and
ImageSets/Segmentation/aug.txt are read instead.""",
)
