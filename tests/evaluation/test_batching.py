import numpy as np

from hrnet_jax.evaluation.batching import Batcher, Views, grouped, label_side
from hrnet_jax.evaluation.protocol import Protocol

SLIDE = Protocol(image_size=(48, 80), mode="slide", crop_size=(32, 32), stride=(20, 24), flip=True)
WHOLE = Protocol(image_size=(48, 80))


def views(size):
    return Views([np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)], size)


def batcher_of(protocol, *, batch_size):
    return Batcher(protocol, mean=(0.0,) * 3, std=(1.0,) * 3, batch_size=batch_size)


def test_groups_are_of_one_shape_and_do_not_pile_up():
    items = [(str(n), n % 5) for n in range(40)]
    groups = list(grouped(iter(items), key=lambda item: item[1], batch_size=4))
    assert sorted(item for group in groups for item in group) == sorted(items)
    assert all(len({shape for _, shape in group}) == 1 and len(group) <= 4 for group in groups)
    waiting = list(grouped(iter(items), key=lambda item: item[0], batch_size=2))
    assert [len(group) for group in waiting] == [1] * 40


def test_windows_and_their_mirror_images_lie_in_the_corner_of_a_bucket():
    batcher, only = batcher_of(SLIDE, batch_size=2), views((40, 61))
    (plain, mirrored), geometry, label = batcher.assemble([only])
    rows, columns = SLIDE.windows((40, 61))
    assert geometry.grids == ((len(rows), len(columns)),) * 2
    assert plain.images.shape == mirrored.images.shape == (2, len(rows) * len(columns), 32, 32, 3)
    (top, bottom), (left, right) = rows[-1], columns[-1]
    image = only.images[0]
    np.testing.assert_array_equal(plain.images[0, -1], image[top:bottom, left:right])
    np.testing.assert_array_equal(mirrored.images[0, 0], image[:32, ::-1][:, :32])
    assert plain.sizes is mirrored.sizes is None  # windows of 32x32 fill their bucket
    assert not plain.images[1].any()  # the place of an image that is not there
    assert geometry.true_size.tolist() == [[40, 61], [0, 0]]
    assert label is None
    assert batcher.padding_fraction == 0


def test_the_share_of_padding_is_counted():
    batcher = batcher_of(WHOLE, batch_size=1)
    (only,), *_ = batcher.assemble([views((40, 61))])
    assert only.images.shape == (1, 1, 64, 64, 3)
    assert only.sizes.tolist() == [[40, 61]]
    assert batcher.padding_fraction == 1 - 40 * 61 / 64**2


def test_labels_lie_in_the_corner_of_a_square_without_a_class():
    label = np.full((40, 61), 3, np.uint8)
    batch = batcher_of(WHOLE, batch_size=2).assemble([views((40, 61))], labels=[label])
    side = label_side((40, 61))
    assert batch.label.shape == (2, side, side)
    assert batch.geometry.side == side == 1024
    assert (batch.label[0, :40, :61] == 3).all()
    assert (batch.label == 255).sum() == 2 * side**2 - label.size


def test_images_of_one_program_have_equal_shapes():
    batcher = batcher_of(WHOLE, batch_size=2)
    sizes = [(40, 61), (40, 100), (50, 60), (33, 128)]
    groups = grouped(map(views, sizes), key=batcher.shapes, batch_size=2)
    assert [[image.true_size for image in group] for group in groups] == [
        [(40, 61), (50, 60)],
        [(40, 100), (33, 128)],
    ]
