import dataclasses

import jax
import numpy as np
import pytest

from hrnet_jax import models
from hrnet_jax.config.load import load_predictor, predictor_of
from hrnet_jax.models import split
from hrnet_jax.runs.stored_weights import Weights, save_weights
from tests import tiny  # noqa: F401 -- adds the variant "toy"

META = {
    "variant": "toy", "classes": ["a", "b"], "palette": [[255, 0, 0], [0, 255, 0]],
    "mean": [120, 120, 120], "std": [60, 60, 60],
    "config": {"eval": {"image_size": [32, 64]}, "model": {"dtype": "float32"}},
}  # fmt: skip


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    _, params, batch_stats = split(models.build("toy", num_classes=2))
    path = tmp_path_factory.getbasetemp()
    return Weights(params=params, batch_stats=batch_stats, meta=META, step=0, path=path)


def test_a_checkpoint_is_all_that_prediction_needs(weights, tmp_path):
    save_weights(tmp_path, weights.params, weights.batch_stats, meta={**META, "source": {}})
    predictor = load_predictor(tmp_path)
    assert predictor.classes == ("a", "b")
    assert predictor.palette == [(255, 0, 0), (0, 255, 0)]
    image = np.random.default_rng(0).integers(0, 256, (37, 53, 3), np.uint8)
    np.testing.assert_array_equal(predictor(image), predictor_of(weights)(image))


def test_where_there_is_no_checkpoint_an_error_says_so(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        load_predictor(tmp_path / "nowhere")


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
def test_it_computes_in_the_precision_of_the_checkpoint(default_precision, weights, dtype):
    config = {**META["config"], "model": {"dtype": dtype}}
    predictor_of(dataclasses.replace(weights, meta={**META, "config": config}))
    assert jax.config.jax_enable_x64 == (dtype == "float64")
    assert jax.config.jax_default_matmul_precision == (None if dtype == "bfloat16" else "highest")
