"""The table of scores for the terminal."""

import numpy as np
from rich.table import Table
from rich.text import Text

from hrnet_jax.data.dataset import Dataset
from hrnet_jax.evaluation.metrics import Scores, percent


def class_table(scores: Scores, dataset: Dataset) -> Table:
    """Tabulate IoU and accuracy of each class; "-" for a class that does not occur."""
    table = Table(title=f"{dataset.name}: IoU per class", title_justify="left")
    for column in ("class", "IoU", "", "accuracy", "pixels"):
        table.add_column(column, justify="left" if column in ("class", "") else "right")
    pixels = scores.confusion.sum(1)
    for name, iou, accuracy, count in zip(
        dataset.classes, scores.iou, scores.accuracy, pixels, strict=True
    ):
        bar = "" if np.isnan(iou) else "█" * round(20 * iou)
        # As Text, because brackets in a name are not markup.
        table.add_row(Text(name), percent(iou), bar, percent(accuracy), f"{count:,}")
    summary = scores.summary()
    table.add_section()
    table.add_row("mean", f"{summary['mIoU']:.2f}", "", f"{summary['mAcc']:.2f}", "")
    table.add_row("all pixels", "", "", f"{summary['aAcc']:.2f}", f"{pixels.sum():,}")
    return table
