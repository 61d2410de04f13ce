"""Our transforms compared with mmsegmentation's: the same pixels after the same draws.

Our code draws from mmsegmentation's generator (NumPy's legacy one, by seed). So equal bytes show
both that we draw the same values in the same order, and that we apply them in the same way.
"""

import os
from pathlib import Path

import cv2
import matplotlib.cbook
import numpy as np
import pytest

from hrnet_jax.data import minicity, transforms
from hrnet_jax.data.photometric import PhotometricDistortion
from hrnet_jax.evaluation.protocol import Protocol
from tests.parity.peer import PYTHON, Peer

pytestmark = [
    pytest.mark.parity,
    pytest.mark.skipif(PYTHON not in os.environ, reason="run `make parity`"),
]

PHOTOGRAPHS = "HRNET_PHOTOGRAPHS"  # a folder with more of them; all below it are used
MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
SEEDS = list(range(12))
# Image size (long and short side), crop size: Cityscapes, ADE20K and VOC, Pascal Context.
RECIPES = {
    "cityscapes": ((1024, 2048), (512, 1024)),
    "ade20k": ((512, 2048), (512, 512)),
    "pascal_context": ((520, 520), (480, 480)),
}


class OldGenerator(np.random.Generator):
    """NumPy's legacy generator, which mmsegmentation uses, with the names of the new one."""

    def __init__(self, seed: int):
        super().__init__(np.random.MT19937())
        self._old = np.random.RandomState(seed)

    def random(self):
        return self._old.random_sample()

    def uniform(self, low, high):
        return self._old.uniform(low, high)

    def integers(self, low, high=None, *, endpoint=False):
        low, high = (0, low) if high is None else (low, high)
        return self._old.randint(low, high + endpoint)


@pytest.fixture(scope="module")
def peer(tmp_path_factory):
    peer = Peer(tmp_path_factory.mktemp("transforms"))
    yield peer
    peer.close()


def photographs() -> dict[str, np.ndarray]:
    """RGB photographs of odd sizes, portrait and landscape, and a drawn street."""
    with matplotlib.cbook.get_sample_data("grace_hopper.jpg") as file:
        data = np.frombuffer(file.read(), np.uint8)
    portrait = cv2.imdecode(data, cv2.IMREAD_COLOR_RGB)
    found = {
        "portrait": portrait,
        "landscape": portrait[31:406, 5:506].copy(),
        "narrow": portrait[:, 201:298].copy(),
        "flat": portrait[300:371].copy(),
        "street": minicity.draw_scene(np.random.default_rng(0), height=511, width=1023)[0],
    }
    if PHOTOGRAPHS in os.environ:
        for path in sorted(Path(os.environ[PHOTOGRAPHS]).rglob("*.[jp][pn]g"))[:20]:
            found[path.name] = cv2.imread(str(path), cv2.IMREAD_COLOR_RGB)
    return found


def label_of(image: np.ndarray) -> np.ndarray:
    """Regions of 19 classes with large and small ones, an eighth of the pixels ignored."""
    grey = cv2.GaussianBlur(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), (0, 0), 5)
    label = (grey.astype(int) * 19 // 256).astype(np.uint8)
    label[label % 8 == 3] = 255
    return label


PHOTOS = photographs() if PYTHON in os.environ else {}
photo = pytest.mark.parametrize("image", PHOTOS.values(), ids=PHOTOS.keys())


def bgr(image: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(image[..., ::-1])


def example_of(image: np.ndarray) -> dict:
    return {"id": "a", "image": image.copy(), "label": label_of(image)}


def applied(chain, image: np.ndarray, seed: int) -> dict:
    """Apply transforms one after the other; they draw from one legacy generator."""
    example, rng = example_of(image), OldGenerator(seed)
    for transform in chain:
        is_random = hasattr(transform, "random_map")
        example = transform.random_map(example, rng) if is_random else transform.map(example)
    return example


def assert_same_as_peer(chain, pipeline, image, peer, *, seeds=SEEDS) -> list[dict]:
    """Compare bytes for every seed; return our results."""
    inputs = {"image": bgr(image), "label": label_of(image)}
    theirs = peer.arrays("transformed", pipeline=pipeline, inputs=inputs, seeds=seeds)
    results = [applied(chain, image, seed) for seed in seeds]
    for seed, mine in zip(seeds, results, strict=True):
        np.testing.assert_array_equal(mine["image"][..., ::-1], theirs[f"image {seed}"])
        np.testing.assert_array_equal(mine["label"], theirs[f"label {seed}"])
    return results


def their_training(image_size, crop_size) -> list[dict]:
    return [
        dict(type="RandomResize", scale=image_size[::-1], ratio_range=(0.5, 2.0), keep_ratio=True),
        dict(type="RandomCrop", crop_size=crop_size, cat_max_ratio=0.75),
        dict(type="RandomFlip", prob=0.5),
        dict(type="PhotoMetricDistortion"),
    ]


@pytest.mark.parametrize("recipe", RECIPES)
@photo
def test_training_gives_the_same_bytes_after_the_same_draws(image, recipe, peer):
    image_size, crop_size = RECIPES[recipe]
    chain = transforms.train_transforms(
        image_size=image_size, crop_size=crop_size, ratio_range=(0.5, 2.0), mean=MEAN, std=STD
    )
    augmentation = [step for step in chain if hasattr(step, "random_map")]
    results = assert_same_as_peer(augmentation, their_training(image_size, crop_size), image, peer)
    assert len({result["image"].tobytes() for result in results}) == len(SEEDS)


@photo
def test_distortion_gives_the_same_bytes_whatever_is_drawn(image, peer):
    chain = [PhotometricDistortion()]
    seeds = list(range(40))  # all 2 x 2^4 combinations of coins occur in 400 draws
    assert_same_as_peer(chain, [dict(type="PhotoMetricDistortion")], image[:96, :96], peer,
                        seeds=seeds)  # fmt: skip


@photo
def test_a_flip_gives_the_same_bytes(image, peer):
    assert_same_as_peer([transforms.RandomFlip()], [dict(type="RandomFlip", prob=0.5)], image, peer)


@pytest.mark.parametrize("image_size", [(1024, 2048), (512, 2048), (520, 520)])
@photo
def test_evaluation_gives_the_same_sizes_and_bytes(image, image_size, peer):
    sizes = Protocol(image_size=image_size).view_sizes
    (resized,) = transforms.ResizeViews(sizes=sizes).map(example_of(image))["views"]
    theirs = peer.arrays(
        "transformed",
        pipeline=[dict(type="Resize", scale=image_size[::-1], keep_ratio=True)],
        inputs={"image": bgr(image)},
        seeds=[0],
    )
    np.testing.assert_array_equal(resized[..., ::-1], theirs["image 0"])


def test_sizes_are_rounded_alike(peer):
    """Many odd sizes, which would show another kind of rounding."""
    rng = np.random.default_rng(0)
    sizes = [tuple(map(int, size)) for size in rng.integers(1, 3000, (3000, 2))]
    limits = [(1024, 2048), (512, 2048), (520, 520), (513, 1031)]
    mine = [[transforms.fit_size(size, within=within) for size in sizes] for within in limits]
    theirs = peer.call("fitted", sizes=sizes, limits=limits)
    for ours_of, theirs_of in zip(mine, theirs, strict=True):
        # We round a side of zero up to one pixel; OpenCV refuses it there.
        assert ours_of == [tuple(max(side, 1) for side in size) for size in theirs_of]


@photo
def test_normalisation_and_padding_give_the_same_floats(image, peer):
    image, size = image[:400, :300], (512, 512)
    inputs = {"image": bgr(image), "label": label_of(image)}
    theirs = peer.arrays("normalized", inputs=inputs, mean=MEAN, std=STD, size=size)
    chain = [transforms.Normalize(mean=MEAN, std=STD), transforms.Pad(size=size)]
    mine = applied(chain, image, 0)
    np.testing.assert_array_equal(mine["image"], theirs["image"])
    np.testing.assert_array_equal(mine["label"], theirs["label"])
    # 1.x normalises in float32 throughout: the last bit differs.
    np.testing.assert_allclose(mine["image"], theirs["image_v1"], rtol=3e-7, atol=3e-7)
    np.testing.assert_array_equal(mine["label"], theirs["label_v1"])
