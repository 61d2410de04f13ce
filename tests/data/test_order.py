import numpy as np
import pytest

from hrnet_jax.data.order import example_index, steps_per_epoch


def order(steps, *, num_examples, batch_size, reference, seed=0):
    return [
        example_index(
            position,
            num_examples=num_examples,
            batch_size=batch_size,
            seed=seed,
            reference=reference,
        )
        for position in range(steps * batch_size)
    ]


def test_v1_concatenates_permutations():
    indices = order(30, num_examples=10, batch_size=4, reference="v1")
    epochs = np.reshape(indices, (12, 10))
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 12


def test_v0_drops_the_incomplete_batch_of_each_epoch():
    indices = order(12, num_examples=16, batch_size=6, reference="v0")
    epochs = np.reshape(indices, (6, 12))  # 2 batches of 6; 4 examples are left out
    assert all(len(set(epoch)) == 12 for epoch in epochs)
    assert len({frozenset(epoch) for epoch in epochs}) > 1  # not always the same


def test_v0_pads_an_epoch_with_its_own_beginning():
    indices = order(6, num_examples=6, batch_size=4, reference="v0")
    for epoch in np.reshape(indices, (3, 8)):
        assert sorted(epoch[:6]) == list(range(6))
        np.testing.assert_array_equal(epoch[6:], epoch[:2])


def test_v0_follows_v1_when_an_epoch_would_hold_no_full_batch():
    sizes = dict(num_examples=5, batch_size=16)
    assert order(4, **sizes, reference="v0") == order(4, **sizes, reference="v1")
    assert steps_per_epoch(**sizes, reference="v0") == 5 / 16


def test_another_seed_gives_another_order():
    sizes = dict(num_examples=50, batch_size=10, reference="v1")
    first, second = (np.reshape(order(20, **sizes, seed=seed), (4, 50)) for seed in (0, 1))
    assert not any((a == b).all() for a in first for b in second)


@pytest.mark.parametrize(
    ("num_examples", "batch_size", "steps"),
    [(2975, 8, 372), (20210, 16, 1263), (10582, 16, 661), (4998, 16, 312)],
)
def test_v0_has_the_published_steps_per_epoch(num_examples, batch_size, steps):
    sizes = dict(num_examples=num_examples, batch_size=batch_size)
    assert steps_per_epoch(**sizes, reference="v0") == steps
    assert steps_per_epoch(**sizes, reference="v1") == num_examples / batch_size
