"""Pascal VOC 2012: 20 classes of objects and the background (Everingham et al., 2015)."""

from hrnet_jax.data.dataset import voc_palette

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
