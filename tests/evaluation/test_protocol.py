import numpy as np
import pytest

from hrnet_jax.evaluation.protocol import MULTI_SCALE, Protocol, bucket_side, taps
from tests.bilinear import matrix

SLIDE = Protocol(image_size=(520, 520), mode="slide")


def sizes(text):
    """From "width x height" as the reference writes it."""
    return [tuple(map(int, reversed(pair.split("x")))) for pair in text.split()]


@pytest.mark.parametrize(
    ("box", "image", "v0", "v1"),
    [
        ((512, 2048), (375, 500), "341x256 512x384 683x512 853x640 1024x768 1195x896",
         "250x188 375x281 500x375 625x469 750x563 875x656"),
        ((512, 2048), (500, 333), "256x384 384x577 512x769 640x961 768x1153 896x1345",
         "167x250 250x375 333x500 416x625 500x750 583x875"),
        ((512, 2048), (512, 683), "342x256 512x384 683x512 854x640 1025x768 1195x896",) * 1
        + ("342x256 512x384 683x512 854x640 1025x768 1195x896",),
        ((520, 520), (375, 500), "260x195 390x293 520x390 650x488 780x585 910x683",
         "250x188 375x281 500x375 625x469 750x563 875x656"),
        ((1024, 2048), (1024, 2048), "1024x512 1536x768 2048x1024 2560x1280 3072x1536 3584x1792",
         "1024x512 1536x768 2048x1024 2560x1280 3072x1536 3584x1792"),
    ],
)  # fmt: skip
def test_scales_are_those_of_the_two_references(box, image, v0, v1):
    for reference, expected in (("v0", v0), ("v1", v1)):
        protocol = Protocol(image_size=box, ratios=MULTI_SCALE, flip=True, reference=reference)
        assert protocol.view_sizes(image) == sizes(expected)


def test_one_scale_is_the_same_in_both():
    for reference in ("v0", "v1"):
        assert Protocol(image_size=(520, 520), reference=reference).view_sizes((375, 500)) == [
            (390, 520)
        ]


def test_windows_move_back_from_the_border():
    assert SLIDE.windows((390, 520)) == (((0, 390),), ((0, 480), (40, 520)))
    assert Protocol(image_size=(520, 520)).windows((390, 520)) == (((0, 390),), ((0, 520),))
    counts = [len(SLIDE.windows((1, width))[1]) for width in (260, 390, 520, 650, 780, 910)]
    assert counts == [1, 1, 2, 2, 2, 3]


def test_a_protocol_says_what_it_is():
    text = Protocol(image_size=(512, 2048), ratios=MULTI_SCALE, flip=True).describe()
    assert "scales 0.5, 0.75, 1, 1.25, 1.5, 1.75, with mirror images, within 512x2048" in text
    assert SLIDE.describe().startswith("windows of 480x480 every 320x320, one scale, no flip")


def test_buckets_are_few():
    sides = {bucket_side(n) for n in range(1, 1281)}
    assert sides == {32, 64, 128, 256, 384, 512, 768, 1024, 1280}
    assert all(bucket_side(n) >= n for n in range(1, 5000))


@pytest.mark.parametrize(
    ("length", "original"), [(520, 500), (390, 375), (650, 500), (480, 480), (1, 1), (5, 901)]
)
def test_taps_are_the_three_steps_in_one(length, original):
    windows = SLIDE.windows((1, length))[1]
    bucket, canvas, count = 120, np.zeros((length, len(windows) * 120)), np.zeros((length, 1))
    for n, (start, stop) in enumerate(windows):
        small = -(-(stop - start) // 4)
        canvas[start:stop, n * bucket : n * bucket + small] += matrix(small, stop - start)
        count[start:stop] += 1
    expected = matrix(length, original) @ (canvas / count)
    found = np.zeros_like(expected)
    index, weight = taps(windows, length=length, original=original, bucket=bucket)
    for t in range(index.shape[1]):
        np.add.at(found, (np.arange(original), index[:, t]), weight[:, t])
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_a_view_of_the_original_size_needs_two_taps():
    assert taps(((0, 1024),), length=1024, original=1024, bucket=256).inputs.shape == (1024, 2)
