import json

import pytest

from hrnet_jax.runs.scores import best_step, read_scores, write_scores


@pytest.fixture
def folder(tmp_path):
    for step, miou in ((1, 20.0), (2, 30.0), (3, float("nan")), (4, 30.0)):
        (tmp_path / str(step)).mkdir()
        write_scores(tmp_path / str(step), {"mIoU": miou})
    return tmp_path


def test_the_last_of_the_best_is_the_best(folder):
    assert best_step(folder, [1, 2, 3, 4, 5]) == 4
    assert best_step(folder, [1, 3]) == 1
    assert best_step(folder, [3, 5]) is None


def test_a_damaged_file_is_named_and_is_not_the_best(folder):
    path = folder / "4" / "scores.json"
    entry = json.loads(path.read_text())
    path.write_text(json.dumps(entry | {"scores": entry["scores"].replace("30", "90")}))
    with pytest.raises(ValueError, match=r"4/scores.json is damaged"):
        read_scores(folder / "4")
    assert best_step(folder, [1, 2, 4]) == 2
