"""The commands in `convert/`, in their own processes, as a user starts them."""

import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from convert import from_pytorch, to_pytorch
from hrnet_jax import zoo
from hrnet_jax.interop.pth import read_pth
from hrnet_jax.runs.stored_weights import load_weights
from tests.interop.test_download import Server
from tests.interop.tiny_files import mmseg_state, write

ROOT = Path(__file__).parent.parent


def test_there_and_back(tmp_path, capsys):
    path = write(tmp_path / "tiny.pth", mmseg_state())
    from_pytorch.main([str(path), "--output", str(tmp_path / "run")])
    to_pytorch.main([str(tmp_path / "run"), "--output", str(tmp_path / "back.pth")])
    state = read_pth(tmp_path / "back.pth").content["state_dict"]
    assert all(np.array_equal(state[key], value) for key, value in mmseg_state().items())
    output = capsys.readouterr().out
    for text in ("SHA-256", "3 (road, sky, car), from the file", "tiny", "tensors", "bytes"):
        assert text in output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["tiny-0badcafe.pth"], "by its name, the SHA-256 begins with 0badcafe"),
        (["nowhere.pth"], "nowhere.pth"),
        (["tiny-0badcafe.pth", "--any-hash", "--config", "configs/hr18_cityscapes.py:40k"],
         "looks like tiny with 3 classes, not hr18 with 19"),
        (["tiny-0badcafe.pth", "--config", "README.md"], "README.md is not a recipe, a Python"),
        (["tiny-0badcafe.pth", "--config", "configs/hr19.py"], "did you mean configs/hr18_"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_error(tmp_path, arguments, message):
    write(tmp_path / "tiny-0badcafe.pth", mmseg_state())
    arguments[0] = str(tmp_path / arguments[0])
    with pytest.raises(SystemExit) as stop:
        from_pytorch.main([*arguments, "--output", str(tmp_path / "run")])
    assert str(stop.value).startswith("Error: ")
    assert message in str(stop.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("command", [from_pytorch, to_pytorch])
def test_the_commands_explain_themselves(command, capsys):
    with pytest.raises(SystemExit, match="0"):
        command.main(["--help"])
    assert f"python -m {command.__name__}" in capsys.readouterr().out


def test_errors_end_with_exit_code_one(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "convert.to_pytorch", str(tmp_path), "--output", "a.pth"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.startswith("Error: There is no checkpoint in")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("command", [from_pytorch, to_pytorch])
def test_an_interrupt_is_answered_as_everywhere(command, tmp_path, monkeypatch, capsys):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "to_checkpoint", interrupted, raising=False)
    monkeypatch.setattr(command, "to_file", interrupted, raising=False)
    with pytest.raises(SystemExit) as left:
        command.main([str(tmp_path / "a.pth"), "--output", str(tmp_path / "b.pth")])
    assert left.value.code == 130
    assert capsys.readouterr().out == "Stopped.\n"


@pytest.fixture
def mirror(tmp_path, monkeypatch):
    """A copy of the publisher's server with one file, of the tiny network."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server = Server()
    server.content = write(tmp_path / "source.pth", mmseg_state(19), CLASSES=None).read_bytes()
    digits = hashlib.sha256(server.content).hexdigest()[:8]
    row = zoo.Row("tiny", "cityscapes", "80k", zoo.Upload(f"20200601_000000-{digits}", 1.5, 2.5))
    monkeypatch.setattr(zoo, "ROWS", (row,))
    yield server
    server.close()


def test_a_row_of_the_zoo_is_fetched_and_converted(mirror, capsys):
    (row,) = zoo.ROWS
    from_pytorch.main(["--zoo", row.name, "--mirror", f"{mirror.host}/copy/"])
    assert mirror.paths == [f"/copy/mmsegmentation/v0.5/hrnet/{row.name}/{row.file()}"]
    weights = load_weights(zoo.locate(row.name))
    assert weights.meta["zoo"] == {"name": row.name, "file": row.file()}
    assert weights.path == Path.cwd() / "weights" / row.name / "checkpoints" / "0"
    assert "mIoU 1.50, ms+flip 2.50" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="holds a checkpoint already; choose another --output"):
        from_pytorch.main(["--zoo", row.name])
    assert len(mirror.paths) == 1


def test_a_row_that_does_not_come_is_fetched_by_hand(mirror):
    (row,) = zoo.ROWS
    mirror.script = [404]
    with pytest.raises(SystemExit) as stop:
        from_pytorch.main(["--zoo", row.name, "--mirror", mirror.host, "--output", "out"])
    for text in (
        f"Error: Cannot download {mirror.host}/mmsegmentation/", "answered 404", row.url,
        f"python -m convert.from_pytorch {row.file()} --output out", "https_proxy", "--mirror",
    ):  # fmt: skip
        assert text in str(stop.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--zoo", "fcn_hr18"], "The zoo has no row 'fcn_hr18'"),
        (["--zoo", "{row}", "a.pth"], "give a file or --zoo, not both"),
        (
            ["--zoo", "{row}", "--mirror", "ftp://x"],
            "--mirror ftp://x must begin with http:// or https://",
        ),
        (["--zoo", "{row}", "--output", "gs://bucket/x"], "--output gs://bucket/x is in a bucket"),
        (["a.pth"], "give a file and --output DIR, or --zoo NAME"),
        (["--output", "x"], "give a file and --output DIR, or --zoo NAME"),
    ],
)
def test_a_mistake_about_the_zoo_is_one_error(mirror, arguments, message):
    with pytest.raises(SystemExit, match=f"Error: {message}"):
        from_pytorch.main([text.format(row=zoo.ROWS[0].name) for text in arguments])
    assert mirror.paths == []
