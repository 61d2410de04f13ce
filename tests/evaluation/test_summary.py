import io

import numpy as np
from rich.console import Console

from hrnet_jax.data.dataset import folder_dataset
from hrnet_jax.data.datasets import DATASETS
from hrnet_jax.evaluation.metrics import Scores
from hrnet_jax.evaluation.summary import class_table


def test_the_table_shows_absent_classes_as_a_dash():
    dataset = DATASETS["cityscapes"]
    confusion = np.zeros((19, 19), int)
    confusion[0, 0], confusion[0, 1] = 3, 1
    out = io.StringIO()
    Console(file=out, width=120).print(class_table(Scores(confusion), dataset))
    rows = {line.split("│")[1].strip(): line for line in out.getvalue().splitlines() if "│" in line}
    assert "75.00" in rows["road"]
    assert " - " in rows["sky"]
    assert "37.50" in rows["mean"]  # road and sidewalk (predicted, never labelled)


def test_brackets_in_a_class_name_stay_text():
    dataset, out = folder_dataset(classes=("[b]x[/b]", "[/y]")), io.StringIO()
    Console(file=out, width=120).print(class_table(Scores(np.eye(2, dtype=int)), dataset))
    assert "[b]x[/b]" in out.getvalue()
    assert "[/y]" in out.getvalue()
