from hrnet_jax.train import is_due


def test_things_happen_every_so_often_and_at_the_end():
    assert [done for done in range(1, 8) if is_due(done, 3, last=7)] == [3, 6, 7]
