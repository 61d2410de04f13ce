import io
import re

import numpy as np
import pytest
from PIL import Image as PILImage
from rich.console import Console

from hrnet_jax.commands.samples import Observed, restore, samples
from hrnet_jax.config.build_data import build_data
from hrnet_jax.data.photometric import PhotometricDistortion
from hrnet_jax.data.transforms import (
    RandomFlip,
    RandomScaleCrop,
    normalize,
    resize_image,
    resize_label,
)
from hrnet_jax.evaluation.visualize import overlay
from hrnet_jax.runs.terminal import Terminal
from tests.tiny_config import get_config


@pytest.fixture
def config(tiny_city):
    config = get_config()
    config.data.root = str(tiny_city)
    config.train.crop_size = (48, 96)
    config.log.pictures = 16
    return config


def terminal():
    return Terminal(Console(file=io.StringIO(), width=200))


def test_restoring_undoes_normalisation_for_every_byte():
    mean, std = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
    image = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, axis=2)
    again = restore(normalize(image, mean=mean, std=std), mean=mean, std=std)
    np.testing.assert_array_equal(again, image)


def test_the_pictures_are_what_training_sees_pixel_by_pixel(config, tmp_path):
    paths = samples(config, workdir=tmp_path, terminal=terminal())
    data = build_data(config, terminal=terminal())
    batches = data.batches(0, workdir=tmp_path)
    first, second = next(batches), next(batches)
    batches.close()
    seen = {key: np.concatenate([first[key], second[key]]) for key in first}
    assert len(paths) == len(seen["image"]) == 16
    for path, normalised, label in zip(paths, seen["image"], seen["label"], strict=True):
        image = restore(normalised, mean=config.data.mean, std=config.data.std)
        page = np.asarray(PILImage.open(path))
        assert contains(page, image), path
        assert contains(page, overlay(image, label, data.dataset.palette)), path


def contains(page, image):
    """Whether the page shows the image somewhere, each pixel as it is."""
    windows = np.lib.stride_tricks.sliding_window_view(page, image.shape)[:, :, 0]
    corners = np.argwhere((windows[:, :, 0, 0] == image[0, 0]).all(axis=-1))
    return any((windows[y, x] == image).all() for y, x in corners)


def test_the_caption_tells_what_was_drawn_and_changes_nothing():
    rng = np.random.default_rng(0)
    example = {
        "id": "a",
        "image": rng.integers(0, 256, (20, 40, 3), dtype=np.uint8),
        "label": rng.integers(0, 3, (20, 40), dtype=np.uint8),
    }
    crop = RandomScaleCrop(image_size=(40, 80), ratio_range=(0.5, 2.0), size=(8, 16))
    flip, distortion = RandomFlip(), PhotometricDistortion()
    for seed in range(20):
        plain, seen = {}, {}
        for transform in (crop, flip, distortion):
            name = type(transform).__name__
            plain[name] = transform.random_map(example, np.random.default_rng(seed))
            seen[name] = Observed(transform).random_map(example, np.random.default_rng(seed))
            np.testing.assert_array_equal(seen[name]["image"], plain[name]["image"])
            np.testing.assert_array_equal(seen[name]["label"], plain[name]["label"])
        draws = seen["RandomScaleCrop"]["draws"]
        height, width = map(int, re.match(r"20x40 to (\d+)x(\d+)", draws["resized"]).groups())
        top, bottom, left, right = map(int, re.findall(r"\d+", draws["window"]))
        for name, resize in (("image", resize_image), ("label", resize_label)):
            np.testing.assert_array_equal(
                plain["RandomScaleCrop"][name],
                resize(example[name], (height, width))[top:bottom, left:right],
            )
        mirrored = (plain["RandomFlip"]["label"] == example["label"][:, ::-1]).all()
        assert seen["RandomFlip"]["draws"]["flipped"] == ("yes" if mirrored else "no")
        changed = (plain["PhotometricDistortion"]["image"] != example["image"]).any()
        assert changed == bool(seen["PhotometricDistortion"]["draws"])
