import numpy as np

from hrnet_jax.evaluation.batching import Batcher, grouped, label_side
from hrnet_jax.evaluation.protocol import Protocol

SLIDE = Protocol(image_size=(48, 80), mode="slide", crop_size=(32, 32), stride=(20, 24), flip=True)


def example(name: str, size: tuple[int, int]):
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    return {"id": name, "image": image, "views": [image], "label": np.zeros(size, np.uint8)}


def test_groups_are_of_one_shape_and_do_not_pile_up():
    examples = [{"id": str(n), "shape": n % 5} for n in range(40)]
    groups = list(grouped(iter(examples), key=lambda e: (e["shape"],), batch_size=4))
    assert sorted(e["id"] for g in groups for e in g) == sorted(e["id"] for e in examples)
    assert all(len({e["shape"] for e in g}) == 1 and len(g) <= 4 for g in groups)
    waiting = list(grouped(iter(examples), key=lambda e: (e["id"],), batch_size=2))
    assert [len(g) for g in waiting] == [1] * 40


def test_windows_and_their_mirror_images_lie_in_the_corner_of_a_bucket():
    batcher = Batcher(SLIDE, mean=(0.0,) * 3, std=(1.0,) * 3, batch_size=2)
    only = example("a", (40, 61))
    (images, mirrored), sizes, plan = batcher.assemble([only])
    rows, columns = SLIDE.windows((40, 61))
    assert images.shape == mirrored.shape == (2, len(rows) * len(columns), 32, 32, 3)
    (top, bottom), (left, right) = rows[-1], columns[-1]
    np.testing.assert_array_equal(images[0, -1], only["image"][top:bottom, left:right])
    np.testing.assert_array_equal(mirrored[0, 0], only["image"][:32, ::-1][:, :32])
    assert sizes == [None, None]  # windows of 32x32 fill their bucket
    assert not images[1].any()  # the place of an example that is not there
    assert plan.extent.tolist() == [[40, 61], [0, 0]]
    assert batcher.filling == 0


def test_the_share_of_filling_is_counted():
    batcher = Batcher(Protocol(image_size=(48, 80)), mean=(0.0,) * 3, std=(1.0,) * 3, batch_size=1)
    (image,), (size,), _ = batcher.assemble([example("a", (40, 61))])
    assert image.shape == (1, 1, 64, 64, 3)
    assert size.tolist() == [[40, 61]]
    assert batcher.filling == 1 - 40 * 61 / 64**2
    assert label_side((40, 61)) == 1024


def test_examples_of_one_program_share_a_group():
    batcher = Batcher(Protocol(image_size=(48, 80)), mean=(0.0,) * 3, std=(1.0,) * 3, batch_size=2)
    sizes = [(40, 61), (40, 100), (50, 60), (33, 128)]
    groups = batcher.groups(example(str(size), size) for size in sizes)
    assert [[e["id"] for e in group] for group in groups] == [
        ["(40, 61)", "(50, 60)"],
        ["(40, 100)", "(33, 128)"],
    ]
