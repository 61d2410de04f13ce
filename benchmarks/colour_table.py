"""How far colour alone gets on minicity: a table from RGB to class, fitted by counting.

The picture's colours are put into 32 x 32 x 32 bins. On the train split each bin counts how often
each of the 19 classes has its colour. The plain table gives every bin the class with the largest
count; the balanced one first divides the counts by the class's total, so that rare classes have a
chance. Both are evaluated on the val split; the better mIoU is "the best colour table", and what a
network reaches above it cannot be explained by colour.

    python -m benchmarks.colour_table --root data/minicity
"""

import argparse
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import cv2
import numpy as np

# The 19 classes of the Cityscapes evaluation by their label ids, in the order of their train ids.
CLASSES = {
    7: "road", 8: "sidewalk", 11: "building", 12: "wall", 13: "fence", 17: "pole",
    19: "traffic light", 20: "traffic sign", 21: "vegetation", 22: "terrain", 23: "sky",
    24: "person", 25: "rider", 26: "car", 27: "truck", 28: "bus", 31: "train", 32: "motorcycle",
    33: "bicycle",
}  # fmt: skip
BINS = 32
IGNORE = 255

Pair = tuple[np.ndarray, np.ndarray]  # RGB [h w 3] and label ids [h w], both uint8


def train_ids() -> np.ndarray:
    """Return the table from label id to train id, uint8 [256]."""
    table = np.full(256, IGNORE, np.uint8)
    for train_id, label_id in enumerate(CLASSES):
        table[label_id] = train_id
    return table


def read_split(root: Path, split: str) -> Iterator[Pair]:
    """Read the pictures and labels of one split."""
    for path in sorted((root / "leftImg8bit" / split).glob("*/*_leftImg8bit.png")):
        stem = path.name.removesuffix("_leftImg8bit.png")
        label_path = root / "gtFine" / split / path.parent.name / f"{stem}_gtFine_labelIds.png"
        image, label = cv2.imread(str(path)), cv2.imread(str(label_path), cv2.IMREAD_UNCHANGED)
        if image is None or label is None:
            raise FileNotFoundError(f"cannot read {path} or {label_path}")
        yield image[..., ::-1], label


def _bins(image: np.ndarray) -> np.ndarray:
    r, g, b = (image[..., i].astype(np.int64) * BINS // 256 for i in range(3))
    return (r * BINS + g) * BINS + b


def count(pairs: Iterable[Pair]) -> np.ndarray:
    """Count the classes in every colour bin, int64 [BINS^3 19]."""
    n, ids = len(CLASSES), train_ids()
    counts = np.zeros(BINS**3 * n, np.int64)
    for image, label in pairs:
        classes = ids[label]
        known = classes != IGNORE
        where = _bins(image)[known] * n + classes[known]
        counts += np.bincount(where, minlength=counts.size)
    return counts.reshape(-1, n)


def fit(counts: np.ndarray, *, balanced: bool) -> np.ndarray:
    """Return the class of every colour bin, uint8 [BINS^3]."""
    totals = counts.sum(0)
    weights = counts / np.maximum(totals, 1) if balanced else counts
    table = weights.argmax(1).astype(np.uint8)
    table[counts.sum(1) == 0] = totals.argmax()  # a colour never seen: the commonest class
    return table


def evaluate(table: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Return the IoU of every class on the split which `counts` was made of; nan if absent."""
    n = len(CLASSES)
    confusion = np.zeros((n, n), np.int64)  # [predicted, true]
    np.add.at(confusion, table, counts)
    hit = np.diag(confusion)
    union = confusion.sum(0) + confusion.sum(1) - hit
    return np.where(union > 0, hit / np.maximum(union, 1), np.nan)


def best_colour_table(train: Iterable[Pair], val: Iterable[Pair]) -> dict[str, np.ndarray]:
    """Return the IoUs on val of the plain and of the balanced table."""
    seen, unseen = count(train), count(val)
    return {
        name: evaluate(fit(seen, balanced=balanced), unseen)
        for name, balanced in (("plain", False), ("balanced", True))
    }


def main() -> None:
    """Print the table of IoUs."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--root", type=Path, default=Path("data/minicity"))
    root = parser.parse_args().root
    if not (root / "leftImg8bit").is_dir():
        sys.exit(f"{root} holds no dataset; write it with hrnet_jax.data.minicity.write(Path(...))")
    results = best_colour_table(read_split(root, "train"), read_split(root, "val"))
    print("IoU on val of the commonest class per colour bin (32^3 bins, counted on train);")
    print("balanced: counts divided by the frequency of the class.\n")
    print(f"{'class':<14}{'plain':>9}{'balanced':>10}")
    for i, name in enumerate(CLASSES.values()):
        print(f"{name:<14}{results['plain'][i]:>9.3f}{results['balanced'][i]:>10.3f}")
    means = {name: float(np.nanmean(ious)) for name, ious in results.items()}
    print(f"{'mIoU':<14}{means['plain']:>9.3f}{means['balanced']:>10.3f}")
    print(f"\nbest colour table: mIoU {max(means.values()):.3f}")


if __name__ == "__main__":
    main()
