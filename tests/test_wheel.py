"""The wheel in environments without our folder.

One borrows the dependencies of this environment; the other installs what the wheel's metadata asks.
"""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import hrnet_jax
from hrnet_jax import models
from hrnet_jax.interop.keys import torch_state_dict
from hrnet_jax.interop.pth_write import write_pth
from hrnet_jax.models import split

pytestmark = pytest.mark.slow  # fetches the build backend, and once all dependencies

ROOT = Path(__file__).parent.parent
IMPORT_ALL = """
import importlib, importlib.metadata, pkgutil, hrnet_jax
print(hrnet_jax.__file__, importlib.metadata.version("hrnet-jax"))
for module in pkgutil.walk_packages(hrnet_jax.__path__, "hrnet_jax."):
    importlib.import_module(module.name)
"""
CONVERT = """
from hrnet_jax.commands.convert import to_checkpoint
from hrnet_jax.config.load import load_predictor
to_checkpoint("random.pth", "run")
print(*load_predictor("run").classes)
"""
FIRST_STEPS = """
from pathlib import Path
from hrnet_jax.data import minicity
from hrnet_jax.commands.convert import to_checkpoint
from hrnet_jax.config.load import load_predictor
minicity.write(Path("city"), train=1, val=1, height=64, width=128)
to_checkpoint("random.pth", "run")
predictor = load_predictor("run")
(photo,) = Path("city/leftImg8bit/val").rglob("*.png")
print(*predictor(photo).shape)
"""


PIP = ["-m", "pip", "--quiet", "--disable-pip-version-check"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The wheel, with random weights in the same folder."""
    folder = tmp_path_factory.mktemp("wheel")
    arguments = ["wheel", "--no-deps", "--wheel-dir", str(folder), str(ROOT)]
    subprocess.run([sys.executable, *PIP, *arguments], check=True, timeout=200)
    _, params, batch_stats = split(models.build("hr18s", num_classes=21))
    write_pth(folder / "random.pth", {"state_dict": torch_state_dict(params, batch_stats)})
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def home(wheel, tmp_path_factory) -> Path:
    """A folder with the environment `env`, random weights and a photo."""
    home = tmp_path_factory.mktemp("home")
    shutil.copy(wheel.with_name("random.pth"), home)
    venv.create(home / "env")
    site = sysconfig.get_path(
        "purelib", vars={"base": str(home / "env"), "platbase": str(home / "env")}
    )
    install = ["install", "--no-deps", "--target", site, str(wheel)]
    subprocess.run([sys.executable, *PIP, *install], check=True)
    # Python reads no .pth files in a folder that a .pth file adds, so our editable installation,
    # which is such a file, stays out.
    Path(site, "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(pixels).save(home / "photo.png")
    return home


def run(home: Path, *arguments: str, code: int = 0, timeout: float = 230) -> str:
    """What a command prints, or its errors if a failure is expected."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [str(home / "env" / "bin" / "python"), *arguments],
        cwd=home, env=environment, capture_output=True, text=True, timeout=timeout, check=False,
    )  # fmt: skip
    assert done.returncode == code, done.stdout + done.stderr
    return done.stderr if code else done.stdout


def test_the_wheel_has_every_file_of_the_package_and_no_other(wheel):
    with zipfile.ZipFile(wheel) as archive:
        found = {name for name in archive.namelist() if ".dist-info/" not in name}
    expected = {path.relative_to(ROOT) for path in (ROOT / "hrnet_jax").rglob("*.py")}
    for folder in ("configs", "convert"):  # as names of packages they are too common
        files = (ROOT / folder).glob("*.py")
        expected |= {Path("hrnet_jax") / path.relative_to(ROOT) for path in files}
    assert found == set(map(str, expected))


def test_every_module_is_imported_from_it(home):
    path, version = run(home, "-c", IMPORT_ALL).split()
    assert Path(path).is_relative_to(home)
    assert version == hrnet_jax.__version__ == "0.1.0"


def test_what_it_advises_works_there(home):
    """Recipes and the converter are in other places than in a clone."""
    advice = run(home, "-m", "hrnet_jax.main", "--mode=zoo", "cityscapes", "hr18", "160k")
    (command,) = re.findall(r"get +python (-m \S+)", advice)
    converted = run(home, *command.split(), "random.pth", "--output=converted")
    assert "converted/checkpoints/0" in converted
    assert f"python {command} FILE.pth" in run(home, *command.split(), "--help")
    (recipe,) = re.findall(r"--config (\S+)", advice)
    untrained = run(home, "-m", "hrnet_jax.main", "--mode=eval", "--config", recipe, code=1)
    assert re.match(r"Error: There is no checkpoint in \S*runs/hr18_cityscapes_160k\.", untrained)
    mistyped = run(home, "-m", "hrnet_jax.main", "--config=configs/hr18_cityscape.py", code=1)
    assert "; did you mean configs/hr18_cityscapes.py" in mistyped


def test_it_lists_the_zoo_converts_and_predicts(home):
    listed = run(home, "-m", "hrnet_jax.main", "--mode=zoo", "cityscapes", "hr48", "160k")
    assert "fcn_hr48_512x1024_160k_cityscapes_20200602_190946-59b7973e.pth" in listed
    assert run(home, "-c", CONVERT).startswith("background aeroplane ")
    run(home, "-m", "hrnet_jax.main", "--mode=predict", "--checkpoint=run", "--input=photo.png",
        "--output=out")  # fmt: skip
    with Image.open(home / "out" / "photo_label.png") as label:
        assert label.size == (64, 64)
        assert np.asarray(label).max() < 21


def test_what_it_asks_for_is_enough(wheel, tmp_path):
    """pip installs it with its dependencies; then a new user draws, loads and labels."""
    venv.create(tmp_path / "env", with_pip=True)
    shutil.copy(wheel.with_name("random.pth"), tmp_path)
    run(tmp_path, *PIP, "install", str(wheel), timeout=900)
    run(tmp_path, "-m", "pip", "check")
    assert run(tmp_path, "-c", FIRST_STEPS) == "64 128\n"
    run(tmp_path, "-m", "hrnet_jax.main", "--mode=predict", "--checkpoint=run", "--input=city",
        "--output=out")  # fmt: skip
    assert run(tmp_path, "-c", IMPORT_ALL).split()[1] == hrnet_jax.__version__
    assert list((tmp_path / "out").rglob("*_label.png"))
