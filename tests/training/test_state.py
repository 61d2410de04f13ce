import jax
import jax.numpy as jnp
import numpy as np
import optax

from hrnet_jax.training.state import initial_state


def test_a_run_begins_at_step_0_with_the_weights_given():
    params, batch_stats = {"a": {"kernel": jnp.ones((2, 3))}}, {"a": {"mean": jnp.zeros(3)}}
    state = initial_state(params, batch_stats, optimizer=optax.sgd(0.1, momentum=0.9))
    assert (int(state.step), state.params, state.batch_stats) == (0, params, batch_stats)
    momentum = [leaf for leaf in jax.tree.leaves(state.opt_state) if leaf.ndim]
    assert [leaf.shape for leaf in momentum] == [(2, 3)]


def test_a_state_is_a_tree_of_named_arrays():
    state = initial_state({"w": jnp.ones(2)}, {}, optimizer=optax.identity())
    doubled = jax.tree.map(lambda leaf: 2 * leaf, state)
    np.testing.assert_array_equal(doubled.params["w"], [2, 2])
    names = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(state)]
    assert names == [".step", ".params['w']"]
