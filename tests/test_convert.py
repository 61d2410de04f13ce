"""The commands in `convert/`, in processes of their own as a user starts them."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from convert import from_pytorch, to_pytorch
from hrnet_jax.interop.pth import read_pth
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
        (["tiny-0badcafe.pth"], "the name promises a SHA-256 that begins with 0badcafe"),
        (["nowhere.pth"], "nowhere.pth"),
        (["tiny-0badcafe.pth", "--any-hash", "--config", "configs/hr18_cityscapes.py:40k"],
         "looks like tiny with 3 classes, not hr18 with 19"),
        (["tiny-0badcafe.pth", "--config", "configs"], "--config configs is no Python file"),
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
