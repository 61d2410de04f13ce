import asyncio
import contextlib
import dataclasses
import json
import os
import re
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from hrnet_jax.models import split
from hrnet_jax.parallel.mesh import make_mesh, replicate
from hrnet_jax.runs.checkpoint import Checkpoints
from hrnet_jax.runs.checksums import list_files
from hrnet_jax.runs.paths import to_path
from hrnet_jax.runs.stored_weights import FOLDER, load_weights, save_weights, with_int_keys
from hrnet_jax.training.optim import sgd
from hrnet_jax.training.state import TrainState, initial_state
from tests.tiny import Toy

OPTIMIZER = sgd(lambda step: 0.1, momentum=0.9, weight_decay=0.0)


@pytest.fixture(scope="module")
def state() -> TrainState:
    _, params, batch_stats = split(Toy())
    return replicate(initial_state(params, batch_stats, optimizer=OPTIMIZER), mesh=make_mesh())


def shifted(state: TrainState, by: float) -> TrainState:
    params = jax.tree.map(lambda leaf: leaf + by, state.params)
    return dataclasses.replace(state, step=jnp.int32(by), params=params)


def scores_of(miou: float) -> dict[str, float]:
    return {"mIoU": miou}


def save_all(workdir, state, scores) -> Checkpoints:
    checkpoints = Checkpoints(workdir, keep_newest=2, warn=print)
    for step, score in scores.items():
        checkpoints.save(step, shifted(state, step), meta={"variant": "tiny"})
        if score is not None:
            checkpoints.score(step, scores_of(score))
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
    step, restored, meta = checkpoints.restore_latest(like=state)
    assert step == 7
    assert meta["variant"] == "tiny"
    assert isinstance(restored, TrainState)
    jax.tree.map(np.testing.assert_array_equal, restored, shifted(state, 7))
    assert jax.tree.structure(restored) == jax.tree.structure(state)
    assert all(leaf.is_fully_replicated for leaf in jax.tree.leaves(restored))
    checkpoints.close()


def test_what_is_saved_is_what_was_so_when_it_was_saved(tmp_path, state):
    monitor: dict = {"good": []}
    checkpoints = Checkpoints(tmp_path, keep_newest=2, warn=print)
    checkpoints.save(1, state, meta={"monitor": monitor})
    monitor["good"].append("of a later step")
    checkpoints.close()
    path = tmp_path / FOLDER / "1" / "meta" / "metadata"
    assert json.loads(path.read_text())["monitor"] == {"good": []}


def test_an_empty_workdir_has_nothing_to_restore(tmp_path, state):
    assert Checkpoints(tmp_path, keep_newest=2, warn=print).restore_latest(like=state) is None


def test_nothing_is_left_behind_when_something_else_fails(tmp_path, monkeypatch):
    """A thread that still cleans up while the interpreter ends would print a traceback."""
    ended = []

    async def clean_up(*_, **__):
        await asyncio.sleep(0.2)
        ended.append(True)

    paths = ocp.checkpoint_manager.temporary_paths
    monkeypatch.setattr(paths, "cleanup_temporary_paths", clean_up)
    with (
        pytest.raises(ValueError, match="the first error"),
        Checkpoints(tmp_path, keep_newest=2, warn=pytest.fail),
    ):
        raise ValueError("the first error")
    assert ended


def test_a_failure_of_closing_hides_no_other_error(tmp_path, monkeypatch):
    async def clean_up(*_, **__):
        raise PermissionError("of the folder")

    paths = ocp.checkpoint_manager.temporary_paths
    monkeypatch.setattr(paths, "cleanup_temporary_paths", clean_up)
    warnings = []
    with (
        pytest.raises(ValueError, match="the first error"),
        Checkpoints(tmp_path, keep_newest=2, warn=warnings.append),
    ):
        raise ValueError("the first error")
    assert "could not be written" in warnings[0]
    assert "of the folder" in warnings[0]
    with (
        pytest.raises(OSError, match="of the folder"),
        Checkpoints(tmp_path, keep_newest=2, warn=pytest.fail),
    ):
        pass


@pytest.fixture(scope="module")
def two(tmp_path_factory, state):
    """A workdir with the checkpoints 1 and 2, both scored."""
    workdir = tmp_path_factory.mktemp("two")
    save_all(workdir, state, {1: 10.0, 2: 20.0}).close()
    return workdir


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def delete(path):
    path.unlink()


def files_of(workdir, step):
    place = workdir / FOLDER / str(step)
    return sorted(path.relative_to(place) for path in place.rglob("*") if path.is_file())


@pytest.mark.parametrize("damage", [flip, truncate, delete])
def test_damage_to_any_file_of_the_newest_checkpoint_is_named_and_the_one_before_used(
    tmp_path, two, state, damage
):
    files = files_of(two, 2)
    assert len(files) > 20
    for number, file in enumerate(files):
        workdir = tmp_path / str(number)
        shutil.copytree(two, workdir)
        damage(workdir / FOLDER / "2" / file)
        warnings = []
        checkpoints = Checkpoints(workdir, keep_newest=2, warn=warnings.append)
        step, *_ = checkpoints.restore_latest(like=state)
        if file.name in ("commit_success.txt", "_CHECKPOINT_METADATA"):
            assert (step, warnings) == (2, [])  # when it was committed; nothing of it is used
        elif file.name == "scores.json":
            assert step == 2  # and is evaluated again
            assert checkpoints.scores(2) is None
            if damage is not delete:
                assert warnings[0].endswith("scores.json is damaged; the scores are left out.")
        else:
            assert step == 1, file
            assert warnings[0].startswith("checkpoint 2 in ")
            assert f"is damaged ({file}" in warnings[0] or file.name == "files.json"
            assert (workdir / "damaged" / "2").is_dir()
        checkpoints.close()


def test_a_step_that_was_damaged_is_saved_anew(tmp_path, two, state):
    shutil.copytree(two, tmp_path, dirs_exist_ok=True)
    delete(tmp_path / FOLDER / "2" / "meta" / "metadata")
    checkpoints = Checkpoints(tmp_path, keep_newest=2, warn=lambda text: None)
    assert checkpoints.restore_latest(like=state).step == 1
    checkpoints.save(2, shifted(state, 2), meta={"variant": "tiny"})
    checkpoints.close()
    assert load_weights(tmp_path / FOLDER / "2").step == 2
    again = Checkpoints(tmp_path, keep_newest=2, warn=pytest.fail)
    assert again.restore_latest(like=state).step == 2
    again.close()


def test_unfinished_and_empty_checkpoints_are_named_and_left_out(tmp_path, two, state):
    shutil.copytree(two, tmp_path, dirs_exist_ok=True)
    unfinished = tmp_path / FOLDER / "3.orbax-checkpoint-tmp"
    shutil.copytree(tmp_path / FOLDER / "2", unfinished)
    (tmp_path / FOLDER / "4").mkdir()
    assert load_weights(tmp_path).step == 2
    warnings = []
    checkpoints = Checkpoints(tmp_path, keep_newest=2, warn=warnings.append)
    assert checkpoints.restore_latest(like=state).step == 2
    checkpoints.save(4, state, meta={})
    checkpoints.close()
    assert f"{unfinished} was left unfinished by a run that was stopped" in warnings[0]
    assert "checkpoint 4" in warnings[1]
    assert "(the folder is empty)" in warnings[1]
    assert sorted(path.name for path in (tmp_path / FOLDER).iterdir()) == ["2", "4"]


def test_the_best_is_remembered_over_a_restart(tmp_path, two, state):
    shutil.copytree(two, tmp_path, dirs_exist_ok=True)
    checkpoints = Checkpoints(tmp_path, keep_newest=1, warn=pytest.fail)
    checkpoints.restore_latest(like=state)
    for step in (3, 4):
        checkpoints.save(step, state, meta={})
        checkpoints.score(step, scores_of(15.0))
    assert checkpoints.steps == [2, 4]
    checkpoints.save(5, state, meta={})  # its evaluation never comes
    checkpoints.close()
    assert load_weights(tmp_path).step == 2
    assert [checkpoints.scores(step) for step in (2, 5)] == [scores_of(20.0), None]


def test_a_better_one_takes_the_place_of_the_best(tmp_path, two, state):
    shutil.copytree(two, tmp_path, dirs_exist_ok=True)
    checkpoints = Checkpoints(tmp_path, keep_newest=1, warn=pytest.fail)
    checkpoints.save(3, state, meta={})
    checkpoints.score(3, scores_of(30.0))
    assert checkpoints.steps == [3]
    checkpoints.close()
    assert [path.name for path in (tmp_path / FOLDER).iterdir()] == ["3"]


# A disk that is full, read-only or somebody else's.


def of_orbax_too(test):
    """Its threads raise as well, which pytest takes for an accident."""
    for warning in ("UnhandledThreadException", "UnraisableException"):
        test = pytest.mark.filterwarnings(f"ignore::pytest.Pytest{warning}Warning")(test)
    return test


@contextlib.contextmanager
def files_of_at_most(size):
    """Let the system refuse larger files: what a full disk does, without filling one."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@contextlib.contextmanager
def mounted(folder, size):
    """A small disk of its own, for those who may mount."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if not shutil.which("mount") or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("may not mount a file system")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


@contextlib.contextmanager
def as_somebody_else():
    """Root may write everywhere."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)


def assert_a_save_fails_loudly(workdir, state, failing):
    """`failing` is a context in which no checkpoint can be written into the workdir."""
    checkpoints = Checkpoints(workdir, keep_newest=2, warn=pytest.fail)
    message = rf"Checkpoint 3 could not be written to {re.escape(str(workdir))}.*are intact"

    def save():
        checkpoints.save(3, shifted(state, 3), meta={})
        checkpoints.wait()

    with failing, pytest.raises(OSError, match=message):
        save()
    with contextlib.suppress(OSError):
        checkpoints.close()
    # A thread of Orbax that is still at work when there is room again may complete the checkpoint
    # after all. Whichever is the newest then, it must hold what was saved. A run would have ended
    # with the save, and that thread with it; here nothing may write what is about to be removed.
    await_rest(workdir / FOLDER)
    again = Checkpoints(workdir, keep_newest=2, warn=print)
    newest = again.restore_latest(like=state)
    assert newest.step in (2, 3)
    jax.tree.map(np.testing.assert_array_equal, newest.state, shifted(state, newest.step))
    again.save(4, shifted(state, 4), meta={})  # and when there is room again, it works
    again.close()
    assert load_weights(workdir / FOLDER / "4").step == 4


def await_rest(folder, *, seconds=0.5):
    """Return when nothing has come to a folder or gone from it for so long."""
    seen, since = None, time.monotonic()
    while time.monotonic() - since < seconds:
        now = sorted(folder.rglob("*"))
        if now != seen:
            seen, since = now, time.monotonic()
        time.sleep(0.02)


@contextlib.contextmanager
def filled(disk):
    """A disk on which nothing is left."""
    filler = disk / "filler"
    with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    yield
    filler.unlink()


@contextlib.contextmanager
def read_only(disk):
    """A disk that lets nobody write."""
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    yield
    subprocess.run(["mount", "-o", "remount,rw", disk], check=True)


@of_orbax_too
def test_where_files_cannot_grow_a_save_fails_loudly(tmp_path, two, state):
    shutil.copytree(two, tmp_path, dirs_exist_ok=True)
    assert_a_save_fails_loudly(tmp_path, state, files_of_at_most(600))


@of_orbax_too
@pytest.mark.parametrize("failing", [filled, read_only])
def test_on_a_full_or_read_only_disk_a_save_fails_loudly(tmp_path, two, state, failing):
    disk = tmp_path / "disk"
    with mounted(disk, "1m"):
        shutil.copytree(two, disk / "run")
        assert_a_save_fails_loudly(disk / "run", state, failing(disk))


@of_orbax_too
@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="has other permissions")
def test_without_permission_a_save_fails_loudly(two, state):
    with tempfile.TemporaryDirectory() as folder:  # where others may look, unlike tmp_path
        os.chmod(folder, 0o755)
        workdir = Path(folder) / "run"
        shutil.copytree(two, workdir)

        @contextlib.contextmanager
        def forbidden():
            (workdir / FOLDER).chmod(0o555)
            with as_somebody_else():
                yield
            (workdir / FOLDER).chmod(0o755)

        assert_a_save_fails_loudly(workdir, state, forbidden())


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
    list_files(tmp_path / FOLDER / "1")  # the files are as they were written, what was read is not
    with pytest.raises(ValueError, match=rf"1 is damaged \(1 tensors differ .*, first {name}\)"):
        load_weights(tmp_path)


def test_no_checkpoint_says_what_to_do(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"There is no checkpoint in .*Train first"):
        load_weights(tmp_path / "nowhere")


def test_list_members_get_their_numbers_back():
    assert with_int_keys({"layers": {"0": {"kernel": 1}}}) == {"layers": {0: {"kernel": 1}}}


def test_weights_without_training_are_loaded_but_not_gone_on_from(tmp_path, state):
    params, batch_stats = jax.device_get((state.params, state.batch_stats))
    path = save_weights(tmp_path, params, batch_stats, meta={"variant": "tiny", "source": {}})
    assert path == tmp_path / FOLDER / "0"
    weights = load_weights(tmp_path)
    jax.tree.map(np.testing.assert_array_equal, weights.params, params)
    assert (weights.step, weights.meta["variant"]) == (0, "tiny")
    with pytest.raises(ValueError, match="holds a checkpoint already; choose another folder"):
        save_weights(tmp_path, params, batch_stats, meta={})
    checkpoints = Checkpoints(tmp_path, keep_newest=2, warn=print)
    with pytest.raises(ValueError, match=r"converted weights, .* --config.init_from="):
        checkpoints.restore_latest(like=state)
    checkpoints.close()


def test_a_bucket_keeps_checkpoints_as_a_disk_does(bucket, state):
    workdir = to_path("gs://bucket/run")
    checkpoints = save_all(workdir, state, {1: 10.0, 2: 50.0, 3: 20.0, 4: None})
    assert checkpoints.steps == [2, 3, 4]
    checkpoints.close()
    # The list of files is the last but the marks of Orbax, which all follow it or are not in it.
    written = [name for name in bucket.written if "/checkpoints/4/" in name]
    after = written[written.index("run/checkpoints/4/files.json") + 1 :]
    assert {name.rpartition("/")[2] for name in after} == {
        "_CHECKPOINT_METADATA",
        "commit_success.txt",
    }
    best = load_weights(workdir)
    assert best.step == 2
    assert str(best.path) == "gs://bucket/run/checkpoints/2"
    jax.tree.map(
        np.testing.assert_array_equal, best.params, jax.device_get(shifted(state, 2).params)
    )
    for name in written:
        if "/model/d/" in name:
            content = bytearray(bucket.objects[name][0])
            content[len(content) // 2] ^= 1
            bucket.put(name, bytes(content))
    warnings = []
    again = Checkpoints(workdir, keep_newest=2, warn=warnings.append)
    step, restored, _ = again.restore_latest(like=state)
    assert step == 3
    jax.tree.map(np.testing.assert_array_equal, restored, shifted(state, 3))
    assert "checkpoint 4 in gs://bucket/run/checkpoints is damaged (model/d/" in warnings[0]
    assert again.steps == [2, 3]
    again.close()
    assert "files.json" in bucket.below("run/damaged/4")
    assert not bucket.below("run/checkpoints/4")


def test_what_a_killed_save_left_in_a_bucket_is_no_checkpoint(bucket, state, two):
    bucket.upload(two, "run")
    for name in ("files.json", "scores.json", "commit_success.txt"):
        del bucket.objects[f"run/checkpoints/2/{name}"]
    workdir = to_path("gs://bucket/run")
    assert load_weights(workdir).step == 1
    checkpoints = Checkpoints(workdir, keep_newest=2, warn=pytest.fail)
    assert checkpoints.restore_latest(like=state).step == 1
    assert not bucket.below("run/checkpoints/2")
    checkpoints.save(2, shifted(state, 2), meta={"variant": "tiny"})
    checkpoints.close()
    assert load_weights(workdir / FOLDER / "2").step == 2


def test_checkpoints_copied_into_a_bucket_are_gone_on_from(bucket, state, two):
    bucket.upload(two, "run")
    checkpoints = Checkpoints(to_path("gs://bucket/run"), keep_newest=2, warn=pytest.fail)
    step, restored, _ = checkpoints.restore_latest(like=state)
    checkpoints.close()
    assert step == 2
    jax.tree.map(np.testing.assert_array_equal, restored, shifted(state, 2))
