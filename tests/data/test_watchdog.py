import multiprocessing
import pickle
import time

import pytest

from hrnet_jax.data import watchdog as notes
from hrnet_jax.data.watchdog import Notes


def read(taken, name, seconds):
    with taken.of(f"{name}.jpg", f"{name}.png"):
        time.sleep(seconds)


def test_a_note_stands_only_while_files_are_read(tmp_path):
    taken = Notes(tmp_path)
    with taken.of("ä.jpg", "b.png"):
        (note,) = tmp_path.iterdir()
        assert note.read_bytes() == "ä.jpg\nb.png".encode()
    assert list(tmp_path.iterdir()) == []


def test_notes_reach_workers_and_their_folder_goes_in_the_end():
    taken = Notes()
    assert pickle.loads(pickle.dumps(taken)) == taken
    with taken.watched(), taken.of("a.jpg"):
        assert taken.folder.is_dir()
    assert not taken.folder.exists()


def test_a_stuck_worker_is_killed_and_its_files_are_named(monkeypatch):
    monkeypatch.setattr(notes, "_LIMIT", 0.2)
    taken = Notes()
    worker = multiprocessing.get_context("spawn").Process(target=read, args=(taken, "a", 600))
    worker.start()
    with taken.watched():
        worker.join(30)
        assert worker.exitcode == -9
        error = taken.worker_died(RuntimeError("ended with exit code -9."))
    told = (
        f"Worker process {worker.pid} ended while it was reading\n  a.jpg\n  a.png\nIt was killed"
    )
    assert told in str(error)


def test_many_short_readings_are_not_stuck(monkeypatch):
    monkeypatch.setattr(notes, "_LIMIT", 0.3)
    taken = Notes()
    with taken.watched():
        for _ in range(10):
            read(taken, "a", 0.05)


def test_a_death_between_two_files_says_so(tmp_path):
    error = Notes(tmp_path).worker_died(RuntimeError("It had exit code 7."))
    assert "ended between two files\nIt had exit code 7." in str(error)
    with pytest.raises(OSError, match="between two files"):  # main answers those in one line
        raise error
