import json

import pytest

from hrnet_jax.config import recipes
from hrnet_jax.config.stored import differences, from_dict


@pytest.fixture
def config():
    return recipes.cityscapes(variant="hr18", schedule="40k")


def test_a_config_survives_json(config):
    again = from_dict(json.loads(json.dumps(config.to_dict())))
    assert again.to_dict() == config.to_dict()
    assert isinstance(again.train.crop_size, tuple)
    assert again.is_locked


def test_only_what_decides_the_result_counts_as_a_difference(config):
    other = from_dict(json.loads(json.dumps(config.to_dict())))
    other.log.every_steps = 7
    other.data.root = "/elsewhere"
    stored = json.loads(json.dumps(config.to_dict()))
    operational = ["data.root: data/cityscapes -> /elsewhere", "log.every_steps: 50 -> 7"]
    assert differences(stored, other.to_dict()) == ([], operational)
    other.optim.lr = 0.02
    assert differences(stored, other.to_dict()) == (["optim.lr: 0.01 -> 0.02"], operational)


def test_a_config_of_an_older_version_is_read(config):
    stored = json.loads(json.dumps(config.to_dict()))
    stored["data"]["threads"], stored["checkpoint"]["keep"], stored["mesh"]["data"] = 4, 2, -1
    stored["eval"] |= {"split": "val", "submission": "", "save_predictions": False, "limit": 5}
    stored["train"]["on_bad_step"] = "skip"
    del stored["init_head"]  # newer than that version
    assert from_dict(stored).to_dict() == config.to_dict()
    assert differences(stored, config.to_dict()) == ([], [])
    stored["train"]["on_bad_step"] = "stop"
    assert from_dict(stored).train.max_bad_steps == 1


def test_a_field_that_no_version_had_is_refused_by_name(config):
    stored = config.to_dict() | {"newer": {"thing": 1}}
    with pytest.raises(ValueError, match=r"config.newer.thing is not a field of this version"):
        from_dict(stored)
