import io
import json
import shutil

import cv2
import numpy as np
import pytest
from PIL import Image as PILImage
from rich.console import Console

from hrnet_jax.commands.doctor import doctor
from hrnet_jax.config import recipes
from hrnet_jax.runs.terminal import Terminal


@pytest.fixture
def examined(tiny_city, tmp_path):
    """A function that lets the doctor see a copy of the tiny city, with faults planted into it."""

    def examine(plant=lambda root: None):
        root = tmp_path / "city"
        shutil.copytree(tiny_city, root)
        plant(root)
        config = recipes.minicity(variant="hr18s")
        config.data.root = str(root)
        output = io.StringIO()
        terminal = Terminal(Console(file=output, width=120, soft_wrap=True))
        findings = doctor(config, workdir=tmp_path / "run", terminal=terminal)
        report = json.loads((tmp_path / "run/doctor/report.json").read_text())
        return findings, output.getvalue(), report

    return examine


def files(root, pattern):
    return sorted(root.rglob(pattern))


def test_a_clean_dataset_gets_frequencies_weights_and_a_picture(examined, tmp_path):
    findings, text, report = examined()
    assert findings == report["findings"] == []
    assert "8 train and 4 val examples." in text
    assert "No problem found." in text
    road = report["splits"]["train"]["classes"]["road"]
    share = road["pixels"] / sum(c["pixels"] for c in report["splits"]["train"]["classes"].values())
    assert f"{share:.2%}" in text
    assert "--config.train.class_weights='(" in text
    with PILImage.open(tmp_path / "run/doctor/samples.png") as sheet:
        assert sheet.width > 900
        assert np.asarray(sheet).std() > 20


def test_wrong_counts_are_findings(tiny_city, tmp_path):
    config = recipes.cityscapes(variant="hr18s", schedule="40k")
    config.data.root = str(tiny_city)
    terminal = Terminal(Console(file=io.StringIO(), width=120, soft_wrap=True))
    findings = doctor(config, workdir=tmp_path, terminal=terminal)
    assert [(f.kind, f.split) for f in findings] == [("count", "train"), ("count", "val")]
    text = terminal.console.file.getvalue()
    assert "train: 8 examples, but cityscapes has 2975 officially" in text
    assert "-> Unpack the whole archives again" in text
    assert "2 problems found." in text


def test_every_planted_fault_is_told_in_one_run(examined):
    def plant(root):
        labels = files(root / "gtFine/train", "*labelIds.png")
        images = files(root / "leftImg8bit/train", "*.png")
        raw = cv2.imread(str(labels[0]), cv2.IMREAD_UNCHANGED)
        raw[3, 4] = 200
        cv2.imwrite(str(labels[0]), raw)
        images[1].write_bytes(images[1].read_bytes()[:500])
        labels[2].unlink()
        val = files(root / "leftImg8bit/val", "*.png")
        shutil.copy(images[3], val[0])

    findings, text, report = examined(plant)
    assert {finding.kind for finding in findings} == {"pairs", "values", "unreadable", "overlap"}
    assert "value 200: 1 pixels, the first at (y=3, x=4)" in text
    assert "It ends too early" in text
    assert "images of dataset 'minicity' have no label" in text
    assert "images of val that train holds too, byte for byte: 1" in text
    assert f"{len(findings)} problems found." in text
    assert len(report["findings"]) == len(findings)
    assert report["splits"]["train"]["examples"] == 7


def test_a_split_without_folders_is_a_finding_not_the_end(examined):
    findings, text, _ = examined(lambda root: shutil.rmtree(root / "leftImg8bit/val"))
    assert [(f.kind, f.split) for f in findings] == [("pairs", "val")]
    assert "there is no folder" in text


def test_an_empty_split_is_a_finding(examined):
    def plant(root):
        for path in [
            *files(root / "leftImg8bit/val", "*.png"),
            *files(root / "gtFine/val", "*.png"),
        ]:
            path.unlink()

    findings, text, _ = examined(plant)
    assert [(f.kind, f.split) for f in findings] == [("pairs", "val")]
    assert "Split 'val' of dataset 'minicity' is empty" in text


def test_without_any_folder_there_is_one_error(examined):
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        examined(lambda root: shutil.rmtree(root))
