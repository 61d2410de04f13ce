import cv2
import numpy as np
import pytest

from hrnet_jax.data import transforms
from hrnet_jax.data.transforms import (
    Normalize,
    Pad,
    RandomFlip,
    RandomScaleCrop,
    ResizeViews,
    fit_size,
    is_balanced,
    nearest_positions,
    normalize,
    resize_image,
    resize_label,
)

MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


def random_image(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def random_label(height, width, classes=19, seed=0):
    return np.random.default_rng(seed).integers(0, classes, (height, width), dtype=np.uint8)


def random_example(height, width):
    return {"id": "a", "image": random_image(height, width), "label": random_label(height, width)}


def generators(number):
    return (np.random.default_rng(seed) for seed in range(number))


def scale_crop(*, size, image_size=(64, 128), ratio_range=(0.5, 2.0)):
    return RandomScaleCrop(image_size=image_size, ratio_range=ratio_range, size=size)


def copies(example):
    return {key: value if key == "id" else value.copy() for key, value in example.items()}


# Sizes: the keep-ratio rule.


@pytest.mark.parametrize(
    ("size", "within", "expected"),
    [  # (height, width); the published sizes at ratios 1, 0.5 and 1.75
        ((1024, 2048), (1024, 2048), (1024, 2048)),
        ((375, 500), (512, 2048), (512, 683)),
        ((375, 500), (256, 1024), (256, 341)),
        ((375, 500), (896, 3584), (896, 1195)),
        ((500, 333), (512, 2048), (769, 512)),  # portrait: the limits are swapped
        ((500, 333), (896, 3584), (1345, 896)),
        ((512, 683), (896, 3584), (896, 1195)),
        ((375, 500), (520, 520), (390, 520)),
        ((375, 500), (910, 910), (683, 910)),
        ((100, 1000), (512, 2048), (205, 2048)),  # longer than 4:1: the long side is the limit
        ((1, 5000), (260, 260), (1, 260)),
    ],
)
def test_fit_size_gives_the_published_sizes(size, within, expected):
    assert fit_size(size, within=within) == expected


def test_random_ratios_are_uniform_and_rounded_down():
    transform = scale_crop(size=(1, 1), image_size=(512, 2048))
    heights = np.array([transform.draw_size((512, 683), rng)[0] for rng in generators(2000)])
    assert heights.min() >= 256
    assert heights.max() <= 1024
    shares, _ = np.histogram(heights, bins=6, range=(256, 1024))
    np.testing.assert_allclose(shares / 2000, 1 / 6, atol=0.03)

    (rng,) = generators(1)
    ratio = 0.5 + 1.5 * np.random.default_rng(0).random()
    limits = int(512 * ratio), int(2048 * ratio)
    assert transform.draw_size((375, 500), rng) == fit_size((375, 500), within=limits)


# Resampling: the integer arithmetic of OpenCV, written out.


def bilinear_taps(n_in, n_out, *, is_horizontal):
    position = ((np.arange(n_out) + 0.5) * (n_in / n_out) - 0.5).astype(np.float32)
    low = np.floor(position).astype(int)
    fraction = position - low.astype(np.float32)
    if is_horizontal:
        fraction[(low < 0) | (low >= n_in - 1)] = 0
    high = np.clip(low + 1, 0, n_in - 1)
    low = np.clip(low, 0, n_in - 1)
    weights = [np.rint(np.float32(2048) * f).astype(np.int64) for f in (1 - fraction, fraction)]
    return (low, high), weights


def bilinear_by_formula(image, size):
    (left, right), (w_left, w_right) = bilinear_taps(image.shape[1], size[1], is_horizontal=True)
    (top, bottom), (w_top, w_bottom) = bilinear_taps(image.shape[0], size[0], is_horizontal=False)
    x = image.astype(np.int64)
    rows = x[:, left] * w_left[:, None] + x[:, right] * w_right[:, None]
    upper = (w_top[:, None, None] * (rows[top] >> 4)) >> 16
    lower = (w_bottom[:, None, None] * (rows[bottom] >> 4)) >> 16
    return ((upper + lower + 2) >> 2).astype(np.uint8)


SIZES = [(18, 33), (37, 53), (74, 106), (59, 90), (150, 31), (37, 91), (1, 1), (23, 200)]


@pytest.mark.parametrize("size", SIZES)
def test_images_are_resized_in_eight_bit_fixed_point(size):
    image = random_image(37, 53)
    np.testing.assert_array_equal(resize_image(image, size), bilinear_by_formula(image, size))


def test_exact_halving_is_the_rounded_mean_of_four():
    image = random_image(64, 48)
    blocks = image.reshape(32, 2, 24, 2, 3).astype(int).sum((1, 3))
    np.testing.assert_array_equal(resize_image(image, (32, 24)), (blocks + 2) >> 2)


@pytest.mark.parametrize("size", SIZES)
def test_labels_take_the_pixel_at_the_rounded_down_position(size):
    label = random_label(37, 53)
    expected = cv2.resize(label, size[::-1], interpolation=cv2.INTER_NEAREST)
    np.testing.assert_array_equal(resize_label(label, size), expected)


@pytest.mark.parametrize("old", [1, 2, 3, 97, 333, 375, 500, 683, 1024, 2048])
def test_rounded_down_positions_equal_opencvs_for_every_size(old):
    row = np.arange(old, dtype=np.uint16)[None]
    for new in range(1, 4100, 1 if old in (97, 1024) else 37):
        resized = cv2.resize(row, (new, 1), interpolation=cv2.INTER_NEAREST)[0]
        np.testing.assert_array_equal(nearest_positions(old, new), resized)


def test_rounded_down_positions_are_floor_of_i_n_in_over_n_out():
    for n_in, n_out in [(1024, 512), (1024, 2047), (2048, 1333), (375, 512), (500, 683)]:
        exact = np.arange(n_out) * n_in // n_out
        np.testing.assert_array_equal(nearest_positions(n_in, n_out), exact)


@pytest.mark.parametrize("old", [(37, 53), (1, 200), (200, 1), (64, 96)])
@pytest.mark.parametrize("ratio", [0.013, 0.5, 0.61, 1.0, 1.37, 2.0, 3.9])
def test_resizing_a_window_equals_cutting_the_resized_image(old, ratio):
    image, label = random_image(*old), random_label(*old)
    size = tuple(max(int(side * ratio + 0.5), 1) for side in old)
    whole_image = cv2.resize(image, size[::-1], interpolation=cv2.INTER_LINEAR)
    whole_label = cv2.resize(label, size[::-1], interpolation=cv2.INTER_NEAREST)
    for rng in generators(15):
        top, left = rng.integers(size)
        window = (slice(top, top + rng.integers(1, 90)), slice(left, left + rng.integers(1, 90)))
        part = resize_image(image, size, window=window)
        np.testing.assert_array_equal(part, whole_image[window])
        np.testing.assert_array_equal(resize_label(label, size, window=window), whole_label[window])


def test_image_and_label_are_scaled_and_cropped_alike():
    y, x = np.mgrid[:50, :60].astype(np.uint8)
    blocks = (y // 10 + x // 12) % 7
    example = {"id": "a", "image": np.repeat(30 * blocks[..., None], 3, axis=2), "label": blocks}
    for rng in generators(20):
        cropped = scale_crop(size=(20, 30), image_size=(50, 60)).random_map(example, rng)
        assert cropped["image"].shape == (20, 30, 3)
        assert cropped["label"].shape == (20, 30)
        # Away from the edges of blocks, which bilinear resizing blurs, colours tell the class.
        assert np.mean(cropped["image"][..., 0] == 30 * cropped["label"]) > 0.6


def test_evaluation_resize_leaves_the_label_alone():
    example = random_example(60, 80)
    resized = ResizeViews(sizes=lambda size: [(120, 160), (3 * size[0], 7)]).map(example)
    assert [view.shape for view in resized["views"]] == [(120, 160, 3), (180, 7, 3)]
    assert resized["label"] is example["label"]
    assert resized["image"] is example["image"]


# Crop.


def test_crop_windows_are_uniform_including_both_ends():
    crop = scale_crop(size=(4, 4))
    corners = [crop.draw_window((6, 4), rng) for rng in generators(900)]
    tops = [rows.start for rows, _ in corners]
    np.testing.assert_allclose(np.bincount(tops) / 900, 1 / 3, atol=0.05)
    assert all(columns == slice(0, 4) for _, columns in corners)


def test_crop_avoids_a_dominant_class():
    label = np.zeros((40, 100), np.uint8)
    label[:, 90:] = 1  # only windows near the right edge hold two classes in balance
    crop = scale_crop(size=(40, 20), image_size=(40, 100), ratio_range=(1.0, 1.0))
    windows = [crop.draw(label, rng)[1] for rng in generators(150)]
    shares = [np.mean(label[window] == 1) for window in windows]
    # 5 of 81 windows are balanced; eleven draws find one with probability 1 - (76/81)^10 or so.
    assert 0.3 < np.mean([0.25 < share <= 0.75 for share in shares]) < 0.65


def test_crop_gives_up_after_ten_tries():
    drawn = []

    class Draws(RandomScaleCrop):
        def draw_window(self, size, rng):
            drawn.append((slice(0, 4), slice(len(drawn), len(drawn) + 4)))
            return drawn[-1]

    crop = Draws(image_size=(4, 20), ratio_range=(1.0, 1.0), size=(4, 4))
    _, window = crop.draw(np.zeros((4, 20), np.uint8), np.random.default_rng(0))
    assert len(drawn) == 11
    assert window == drawn[-1]


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ({0: 74, 1: 26}, True),
        ({0: 75, 1: 25}, False),  # the limit itself is too much
        ({0: 50, 1: 20, 255: 1000}, True),  # ignored pixels do not count
        ({0: 100}, False),
        ({7: 50, 255: 50}, False),  # one class, though it fills half the window
        ({255: 100}, False),
    ],
)
def test_balance_counts_labelled_pixels_only(counts, expected):
    label = np.repeat(np.array(list(counts), np.uint8), list(counts.values()))[None]
    assert is_balanced(label, max_class_share=0.75) is expected


def test_an_image_smaller_than_the_crop_is_not_cropped():
    example, crop = random_example(10, 50), scale_crop(size=(20, 30), image_size=(10, 50))
    for seed in range(10):
        size, _ = crop.draw(example["label"], np.random.default_rng(seed))
        kept = tuple(map(min, size, (20, 30)))
        cropped = crop.random_map(example, np.random.default_rng(seed))
        assert cropped["image"].shape == (*kept, 3)
        assert cropped["label"].shape == kept


# Flip.


def test_flip_mirrors_image_and_label_in_half_the_draws():
    example = random_example(5, 7)
    results = [RandomFlip().random_map(example, rng) for rng in generators(400)]
    flipped = [result for result in results if result is not example]
    assert 0.43 < len(flipped) / 400 < 0.57
    np.testing.assert_array_equal(flipped[0]["image"], example["image"][:, ::-1])
    np.testing.assert_array_equal(flipped[0]["label"], example["label"][:, ::-1])


# Normalise and pad.


def test_normalisation_equals_mmcvs_on_every_value():
    image = np.repeat(np.arange(256, dtype=np.uint8)[:, None, None], 3, axis=2)
    reference = image.astype(np.float32)
    mean, std = np.float32(MEAN), np.float32(STD)
    cv2.subtract(reference, np.float64(mean.reshape(1, -1)), reference)
    cv2.multiply(reference, 1 / np.float64(std.reshape(1, -1)), reference)
    normalized = normalize(image, mean=MEAN, std=STD)
    assert normalized.dtype == np.float32
    np.testing.assert_array_equal(normalized, reference)
    np.testing.assert_allclose(normalized, (image - np.array(MEAN)) / STD, rtol=1e-6, atol=1e-6)


def test_padding_is_the_mean_color_and_ignored():
    example = Normalize(mean=MEAN, std=STD).map(random_example(5, 7))
    padded = Pad(size=(8, 9)).map(example)
    np.testing.assert_array_equal(padded["image"][:5, :7], example["image"])
    np.testing.assert_array_equal(padded["label"][:5, :7], example["label"])
    padded["image"][:5, :7], padded["label"][:5, :7] = 0, 255
    assert (padded["image"] == 0).all()
    assert (padded["label"] == 255).all()
    assert padded["image"].dtype == np.float32


# The chains.


def test_training_transforms_give_the_crop_size():
    chain = transforms.train_transforms(
        image_size=(64, 256), crop_size=(64, 80), ratio_range=(0.5, 2.0), mean=MEAN, std=STD
    )
    original = random_example(60, 90)
    for rng in generators(30):
        example = copies(original)
        inputs = dict(example)
        for transform in chain:
            is_map = hasattr(transform, "map")
            example = transform.map(example) if is_map else transform.random_map(example, rng)
        assert example["image"].shape == (64, 80, 3)
        assert example["image"].dtype == np.float32
        assert example["label"].shape == (64, 80)
        assert example["id"] == "a"
        for key in ("image", "label"):
            np.testing.assert_array_equal(inputs[key], original[key])
