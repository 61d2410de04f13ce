import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from hrnet_jax.evaluation.predictor import Predictor, pixels_of
from hrnet_jax.evaluation.protocol import Protocol
from hrnet_jax.models import split
from tests.tiny import Toy


def predictor_of(**changes):
    structure, params, batch_stats = split(Toy(2))
    facts = {
        "classes": ("a", "b"), "palette": [(255, 0, 0), (0, 255, 0)],
        "protocol": Protocol(image_size=(32, 64)),
        "mean": (120.0,) * 3, "std": (60.0,) * 3, "dtype": "float32",
    }  # fmt: skip
    return Predictor(structure, params=params, batch_stats=batch_stats, **(facts | changes))


def random_image(height, width):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


def test_every_pixel_of_any_size_gets_a_class(tmp_path):
    predictor, image = predictor_of(), random_image(37, 53)
    label = predictor(image)
    assert label.shape == (37, 53)
    assert label.max() < 2
    predictor.save(image, label, tmp_path / "new" / "x")
    stored = Image.open(tmp_path / "new" / "x_label.png")
    np.testing.assert_array_equal(np.asarray(stored), label)
    assert sorted(p.name for p in (tmp_path / "new").iterdir()) == ["x_label.png", "x_overlay.png"]


@pytest.mark.parametrize("flip", [False, True])
def test_probabilities_say_what_the_labels_say(flip):
    predictor = predictor_of(protocol=Protocol(image_size=(32, 64), flip=flip))
    image = random_image(37, 53)
    first, second = result = predictor.probabilities(image)
    assert result.shape == (2, 37, 53)
    assert result.dtype == np.float16
    np.testing.assert_allclose(first + second, 1, atol=2e-3)
    is_clear = abs(first - second) > 2e-3
    np.testing.assert_array_equal(result.argmax(0)[is_clear], predictor(image)[is_clear])


def test_the_model_maps_normalized_images_to_logits():
    predictor = predictor_of()
    batch = jnp.asarray(predictor.normalized(random_image(64, 96)))[None]
    assert predictor.model()(batch).shape == (1, 16, 24, 2)


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
def test_it_computes_in_the_precision_that_it_is_given(default_precision, dtype):
    predictor_of(dtype=dtype)
    assert jax.config.jax_enable_x64 == (dtype == "float64")
    assert jax.config.jax_default_matmul_precision == (None if dtype == "bfloat16" else "highest")


def test_paths_may_be_text_and_begin_at_home(home):
    Image.new("RGB", (40, 20), (90, 60, 30)).save(home / "x.png")
    predictor = predictor_of()
    predictor.save("~/x.png", predictor("~/x.png"), "~/one/x")
    assert (home / "one" / "x_overlay.png").exists()


@pytest.mark.parametrize(
    "image",
    [np.zeros(shape, np.uint8) for shape in ((8, 8), (8, 8, 1), (8, 8, 4), (1, 8, 8, 3), (0, 8, 3))]
    + [np.zeros((8, 8, 3), np.float32)],
    ids=lambda image: f"{image.dtype}{image.shape}",
)
def test_an_array_that_is_no_image_is_refused(image):
    with pytest.raises(ValueError, match=r"is no image; give RGB values .* uint8\[height, width"):
        pixels_of(image)
