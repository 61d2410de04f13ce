import json
import shutil

import jax
import numpy as np
import pytest

from hrnet_jax.checkpoint import (
    FOLDER,
    Checkpoints,
    leaf_checksums,
    load_weights,
    save_weights,
    with_int_keys,
)
from hrnet_jax.metrics import Scores
from hrnet_jax.optim import sgd
from hrnet_jax.sharding import make_mesh, replicate
from hrnet_jax.step import State, initial_state, split
from tests.tiny import Toy

OPTIMIZER = sgd(lambda step: 0.1, momentum=0.9, weight_decay=0.0)


@pytest.fixture(scope="module")
def state() -> State:
    _, params, stats = split(Toy())
    return replicate(initial_state(params, stats, OPTIMIZER), mesh=make_mesh())


def shifted(state: State, by: float) -> State:
    return state._replace(params=jax.tree.map(lambda leaf: leaf + by, state.params))


def scores_of(miou: float) -> Scores:
    """Of one class that covers `miou` percent of what it should, in a matrix of two."""
    right = round(miou)
    return Scores(np.array([[right, 0], [100 - right, 0]]))


def save_all(workdir, state, scores) -> Checkpoints:
    checkpoints = Checkpoints(workdir, keep_newest=2, warn=print)
    for step, score in scores.items():
        scores = None if score is None else scores_of(score)
        checkpoints.save(step, shifted(state, step), meta={"variant": "tiny"}, scores=scores)
    checkpoints.wait()
    return checkpoints


def test_the_newest_two_and_the_best_are_kept(tmp_path, state):
    checkpoints = save_all(tmp_path, state, {1: 10.0, 2: 50.0, 3: 20.0, 4: None, 5: 30.0})
    assert checkpoints.steps == [2, 4, 5]
    checkpoints.close()
    best = load_weights(tmp_path)
    assert best.step == 2
    jax.tree.map(
        np.testing.assert_array_equal, best.params, jax.device_get(shifted(state, 2).params)
    )
    assert best.meta["variant"] == "tiny"
    assert load_weights(tmp_path / FOLDER / "5").step == 5


def test_the_whole_state_comes_back(tmp_path, state):
    save_all(tmp_path, state, {7: None}).close()
    checkpoints = Checkpoints(tmp_path, keep_newest=2, warn=print)
    step, restored = checkpoints.restore_latest(like=state)
    assert step == 7
    assert isinstance(restored, State)
    jax.tree.map(np.testing.assert_array_equal, restored, shifted(state, 7))
    assert jax.tree.structure(restored) == jax.tree.structure(state)
    assert all(leaf.is_fully_replicated for leaf in jax.tree.leaves(restored))
    checkpoints.close()


def test_an_empty_workdir_has_nothing_to_restore(tmp_path, state):
    assert Checkpoints(tmp_path, keep_newest=2, warn=print).restore_latest(like=state) is None


def largest_file(folder):
    files = (p for p in folder.rglob("*") if p.is_file() and not p.name.startswith("_"))
    return max(files, key=lambda path: path.stat().st_size)


@pytest.mark.parametrize("item", ["model", "meta"])
@pytest.mark.parametrize("damage", ["flip", "truncate", "delete"])
def test_a_damaged_newest_checkpoint_is_named_set_aside_and_saved_anew(
    tmp_path, state, item, damage
):
    save_all(tmp_path, state, {1: None, 2: None}).close()
    data = largest_file(tmp_path / FOLDER / "2" / item)
    content = bytearray(data.read_bytes())
    content[len(content) // 2] ^= 1
    if damage == "flip":
        data.write_bytes(content)
    elif damage == "truncate":
        data.write_bytes(content[: len(content) // 2])
    else:
        data.unlink()
    warnings = []
    checkpoints = Checkpoints(tmp_path, keep_newest=2, warn=warnings.append)
    step, _ = checkpoints.restore_latest(like=state)
    assert step == 1
    assert "checkpoint 2" in warnings[0]
    assert "damaged" in warnings[0]
    assert (tmp_path / "damaged" / "2").is_dir()
    checkpoints.save(2, shifted(state, 2), meta={"variant": "tiny"})
    checkpoints.close()
    assert load_weights(tmp_path).step == 2
    again = Checkpoints(tmp_path, keep_newest=2, warn=pytest.fail)
    assert again.restore_latest(like=state)[0] == 2
    again.close()


def test_float64_weights_come_back_as_they_were(tmp_path, state):
    with jax.enable_x64(True):
        precise = jax.tree.map(
            lambda x: np.asarray(x, np.float64) if x.dtype == np.float32 else x,
            jax.device_get(state),
        )
        save_all(tmp_path, replicate(precise, mesh=make_mesh()), {1: None}).close()
    weights = load_weights(tmp_path)  # without x64
    assert {leaf.dtype.name for leaf in jax.tree.leaves(weights.params)} == {"float64"}


def test_nothing_readable_is_an_error_not_a_fresh_start(tmp_path, state):
    save_all(tmp_path, state, {1: None}).close()
    shutil.rmtree(tmp_path / FOLDER / "1" / "model")
    checkpoints = Checkpoints(tmp_path, keep_newest=2, warn=lambda text: None)
    with pytest.raises(ValueError, match=r"None of the checkpoints \[1\] .* can be read"):
        checkpoints.restore_latest(like=state)


def test_flipped_weights_are_not_loaded(tmp_path, state):
    save_all(tmp_path, state, {1: None}).close()
    path = tmp_path / FOLDER / "1" / "meta" / "metadata"
    meta = json.loads(path.read_text())
    name = sorted(meta["checksums"]["model"])[0]
    meta["checksums"]["model"][name] ^= 1
    path.write_text(json.dumps(meta))
    with pytest.raises(ValueError, match=rf"1 is damaged \(1 tensors differ .*, first {name}\)"):
        load_weights(tmp_path)


def test_no_checkpoint_says_what_to_do(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"There is no checkpoint in .*Train first"):
        load_weights(tmp_path / "nowhere")


def test_checksums_see_every_bit():
    tree = {"a": np.ones(3, np.float32), "b": [np.zeros(2)]}
    sums = leaf_checksums(tree)
    assert set(sums) == {"a", "b.0"}
    tree["a"] = np.nextafter(tree["a"], 2)
    assert leaf_checksums(tree)["a"] != sums["a"]


def test_list_members_get_their_numbers_back():
    assert with_int_keys({"layers": {"0": {"kernel": 1}}}) == {"layers": {0: {"kernel": 1}}}


def test_weights_without_training_are_loaded_but_not_gone_on_from(tmp_path, state):
    params, stats = jax.device_get((state.params, state.stats))
    path = save_weights(tmp_path, params, stats, meta={"variant": "tiny", "source": {}})
    assert path == tmp_path / FOLDER / "0"
    weights = load_weights(tmp_path)
    jax.tree.map(np.testing.assert_array_equal, weights.params, params)
    assert (weights.step, weights.meta["variant"]) == (0, "tiny")
    with pytest.raises(ValueError, match="holds a checkpoint already; choose another folder"):
        save_weights(tmp_path, params, stats, meta={})
    checkpoints = Checkpoints(tmp_path, keep_newest=2, warn=print)
    with pytest.raises(ValueError, match=r"converted weights, .* --config.init_from="):
        checkpoints.restore_latest(like=state)
    checkpoints.close()
