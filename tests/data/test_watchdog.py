import multiprocessing
import pickle
import time

import pytest

from hrnet_jax.data.watchdog import Watchdog


def read(watchdog, name, seconds):
    with watchdog.reading(f"{name}.jpg", f"{name}.png"):
        time.sleep(seconds)


def test_a_note_exists_only_while_files_are_read(tmp_path):
    watchdog = Watchdog(tmp_path)
    with watchdog.reading("ä.jpg", "b.png"):
        (note,) = tmp_path.iterdir()
        assert note.read_bytes() == "ä.jpg\nb.png".encode()
    assert list(tmp_path.iterdir()) == []


def test_a_watchdog_reaches_workers_by_pickle():
    watchdog = Watchdog()
    assert pickle.loads(pickle.dumps(watchdog)) == watchdog


def test_the_folder_is_removed_in_the_end():
    watchdog = Watchdog()
    with watchdog.running(), watchdog.reading("a.jpg"):
        assert watchdog.folder.is_dir()
    assert not watchdog.folder.exists()


def test_a_stuck_worker_is_killed_and_its_files_are_named():
    watchdog = Watchdog(limit=0.2)
    worker = multiprocessing.get_context("spawn").Process(target=read, args=(watchdog, "a", 600))
    worker.start()
    with watchdog.running():
        worker.join(30)
        assert worker.exitcode == -9
        error = watchdog.worker_died(RuntimeError("ended with exit code -9."))
    text = f"Worker process {worker.pid} ended while reading\n  a.jpg\n  a.png\nIt was killed"
    assert text in str(error)


def test_many_short_readings_are_not_stuck():
    watchdog = Watchdog(limit=0.3)
    worker = multiprocessing.get_context("spawn").Process(target=read_often, args=(watchdog,))
    worker.start()
    with watchdog.running():
        worker.join(30)
    assert worker.exitcode == 0


def read_often(watchdog):
    for _ in range(10):
        read(watchdog, "a", 0.05)


def test_a_death_between_two_files_is_reported(tmp_path):
    error = Watchdog(tmp_path).worker_died(RuntimeError("It had exit code 7."))
    assert "ended between two files\nIt had exit code 7." in str(error)
    with pytest.raises(OSError, match="between two files"):  # which `main` prints in one line
        raise error
