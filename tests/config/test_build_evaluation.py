import pytest

from hrnet_jax.config.build_evaluation import build_evaluation, describe_protocol, protocol_of
from hrnet_jax.runs.terminal import Terminal
from tests import tiny  # noqa: F401 -- adds the variant "toy"
from tests.tiny_config import get_config


@pytest.fixture
def config(tiny_city):
    config = get_config()
    config.data.root = str(tiny_city)
    return config


def test_a_label_map_belongs_to_protocol_and_precision(config):
    config.model.dtype = "bfloat16"
    assert describe_protocol(config) == f"{protocol_of(config).describe()}, in bfloat16"


def test_a_score_belongs_to_protocol_precision_and_images(config):
    whole = build_evaluation(config, terminal=Terminal())
    assert whole.description == describe_protocol(config)
    part = build_evaluation(config, split="train", limit=5, terminal=Terminal())
    assert part.description == (
        f"{describe_protocol(config)}, on the train split, the first 5 images only"
    )
    assert (len(whole.source), whole.split) == (4, "val")
    assert (len(part.source), part.split) == (5, "train")


def test_a_limit_shortens_what_is_evaluated(config):
    evaluation = build_evaluation(config, limit=3, terminal=Terminal())
    names = [example["id"] for example in evaluation.examples()]
    assert names == [evaluation.source[index].id for index in range(3)]
    assert evaluation.share == 3


def test_only_the_split_that_is_scored_must_be_there(config, tiny_city, tmp_path):
    for folder in ("leftImg8bit", "gtFine"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "val").symlink_to(tiny_city / folder / "val")
    config.data.root = str(tmp_path)
    assert len(build_evaluation(config, terminal=Terminal()).source) == 4
    with pytest.raises(FileNotFoundError, match="train"):
        build_evaluation(config, split="train", terminal=Terminal())


def test_a_config_that_cannot_work_is_refused(config):
    config.eval.ratios = ()
    with pytest.raises(ValueError, match=r"config.eval.ratios is empty"):
        build_evaluation(config, terminal=Terminal())
