import colorsys

import cv2
import numpy as np
import pytest

from hrnet_jax.data.photometric import PhotometricDistortion, distort


def random_image(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def generators(number):
    return (np.random.default_rng(seed) for seed in range(number))


def all_colors():
    return np.arange(2**24, dtype=np.uint32).view(np.uint8).reshape(4096, 4096, 4)[..., :3].copy()


def test_rgb_conversions_equal_the_references_bgr_ones_for_every_color():
    colors = all_colors()
    forth = cv2.cvtColor(colors, cv2.COLOR_RGB2HSV)
    reference = cv2.cvtColor(np.ascontiguousarray(colors[..., ::-1]), cv2.COLOR_BGR2HSV)
    assert np.array_equal(forth, reference)
    back = cv2.cvtColor(colors, cv2.COLOR_HSV2RGB)
    reference = cv2.cvtColor(colors, cv2.COLOR_HSV2BGR)
    assert np.array_equal(back, reference[..., ::-1])


def rgb_to_hsv_by_formula(image):
    r, g, b = (image[..., c].astype(np.int64) for c in range(3))
    value = np.maximum(np.maximum(r, g), b)
    spread = value - np.minimum(np.minimum(r, g), b)
    i = np.arange(1, 256)
    saturation_table = np.concatenate([[0], np.rint(255 * 4096 / i)]).astype(np.int64)
    hue_table = np.concatenate([[0], np.rint(180 * 4096 / (6 * i))]).astype(np.int64)
    saturation = (spread * saturation_table[value] + 2048) >> 12
    numerator = np.where(
        value == r, g - b, np.where(value == g, b - r + 2 * spread, r - g + 4 * spread)
    )
    hue = (numerator * hue_table[spread] + 2048) >> 12
    return np.stack([hue + 180 * (hue < 0), saturation, value], axis=-1).astype(np.uint8)


def hsv_to_rgb_by_formula(hsv):
    hue = hsv[..., 0].astype(np.float32) * np.float32(6 / 180)
    s, v = (hsv[..., c].astype(np.float32) * np.float32(1 / 255) for c in (1, 2))
    sector = np.floor(hue).astype(int)
    f = hue - sector.astype(np.float32)
    p, q, t = v * (1 - s), v * (1 - s * f), v * (1 - s * (1 - f))
    table = np.array([(0, 3, 1), (2, 0, 1), (1, 0, 3), (1, 2, 0), (3, 1, 0), (0, 1, 2)])
    choices = np.stack([v, p, q, t], axis=-1)
    rgb = np.take_along_axis(choices, table[sector % 6], axis=-1)
    return (rgb * np.float32(255)).astype(np.uint8)


def linear_by_formula(image, *, factor=1.0, add=0.0):
    values = image.astype(np.float32) * np.float32(factor) + np.float32(add)
    return np.clip(values, 0, 255).astype(np.uint8)  # towards zero


def test_hue_saturation_value_follow_the_integer_formulas():
    # A width of whole vector registers: in the few columns beyond the last one OpenCV rounds to
    # nearest where it otherwise rounds down. Published crops (480, 512, 1024) have no such columns.
    image = random_image(200, 320)
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
    np.testing.assert_array_equal(hsv, rgb_to_hsv_by_formula(image))
    back = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
    difference = np.abs(back.astype(int) - hsv_to_rgb_by_formula(hsv))
    assert difference.max() <= 1
    assert np.mean(difference > 0) < 1e-4
    exact = colorsys.rgb_to_hsv(*(image[0, 0] / 255))  # the textbook formulas
    np.testing.assert_allclose(hsv[0, 0] / (180, 255, 255), exact, atol=0.01)


@pytest.mark.parametrize("brightness", [-31.7, -0.5, 0.3, 12.25, 31.9])
def test_brightness_is_added_and_rounded_down(brightness):
    image = random_image(64, 64)
    expected = linear_by_formula(image, add=brightness)
    np.testing.assert_array_equal(distort(image, brightness=brightness), expected)


@pytest.mark.parametrize("contrast", [0.5, 0.77, 1.001, 1.49])
def test_contrast_multiplies_and_rounds_down(contrast):
    image = random_image(64, 64)
    expected = linear_by_formula(image, factor=contrast)
    np.testing.assert_array_equal(distort(image, early_contrast=contrast), expected)
    np.testing.assert_array_equal(distort(image, late_contrast=contrast), expected)


def saturate_by_reference(bgr, factor):
    hsv = cv2.cvtColor(bgr, cv2.COLOR_BGR2HSV)
    hsv[..., 1] = linear_by_formula(hsv[..., 1], factor=factor)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR)


def turn_hue_by_reference(bgr, degrees):
    hsv = cv2.cvtColor(bgr, cv2.COLOR_BGR2HSV)
    hsv[..., 0] = (hsv[..., 0].astype(int) + degrees) % 180
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR)


@pytest.mark.parametrize("hue", [-18, -1, 0, 17])
def test_all_steps_together_equal_the_references_on_bgr(hue):
    image = random_image(64, 96)
    bgr = linear_by_formula(np.ascontiguousarray(image[..., ::-1]), add=-20.6)
    bgr = linear_by_formula(bgr, factor=1.2)
    bgr = turn_hue_by_reference(saturate_by_reference(bgr, 1.3), hue)
    bgr = linear_by_formula(bgr, factor=0.7)
    distorted = distort(
        image, brightness=-20.6, early_contrast=1.2, saturation=1.3, hue=hue, late_contrast=0.7
    )
    np.testing.assert_array_equal(distorted, bgr[..., ::-1])


def test_distortion_draws_every_step_in_half_the_cases_and_its_range():
    draws = [PhotometricDistortion().draw(rng) for rng in generators(1200)]

    def drawn(step):
        return np.array([draw[step] for draw in draws if draw[step] is not None])

    for step, low, high in [
        ("brightness", -32, 32),
        ("early_contrast", 0.5, 1.5),
        ("late_contrast", 0.5, 1.5),
        ("saturation", 0.5, 1.5),
        ("hue", -18, 18),
    ]:
        expected = 0.25 if "contrast" in step else 0.5
        assert abs(len(drawn(step)) / 1200 - expected) < 0.04
        shares, _ = np.histogram(drawn(step), bins=4, range=(low, high))
        np.testing.assert_allclose(shares / len(drawn(step)), 0.25, atol=0.08)
    assert set(drawn("hue")) == set(range(-18, 18))
    assert not any(draw["early_contrast"] and draw["late_contrast"] for draw in draws)


def test_distortion_draws_in_the_references_order():
    class Script(np.random.Generator):
        """Returns 1 for coins and records the calls."""

        def __init__(self, is_contrast_first):
            super().__init__(np.random.PCG64(0))
            self.asked = []
            self.is_contrast_first = is_contrast_first

        def integers(self, low, high=None):
            self.asked.append("coin" if high is None else "hue")
            return self.is_contrast_first if len(self.asked) == 3 else 1

        def uniform(self, low, high):
            self.asked.append(f"{low} to {high}")
            return 1.0

    head = ["coin", "-32.0 to 32.0", "coin"]
    contrast = ["coin", "0.5 to 1.5"]
    color = ["coin", "0.5 to 1.5", "coin", "hue"]
    for is_contrast_first, expected in [
        (True, head + contrast + color),
        (False, head + color + contrast),
    ]:
        script = Script(is_contrast_first)
        PhotometricDistortion().draw(script)
        assert script.asked == expected


def test_without_any_step_the_image_stays_as_it_is():
    image = random_image(4, 4)
    assert distort(image) is image
