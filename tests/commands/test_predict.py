import dataclasses
import io
import json
import os
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from hrnet_jax import models
from hrnet_jax.commands.predict import check_same_weights, input_files, predict
from hrnet_jax.models import split
from hrnet_jax.runs.stored_weights import Weights
from hrnet_jax.runs.terminal import Terminal
from tests import tiny  # noqa: F401 -- adds the variant "toy"


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    _, params, batch_stats = split(models.build("toy", num_classes=2))
    meta = {
        "variant": "toy", "classes": ["a", "b"], "palette": [[255, 0, 0], [0, 255, 0]],
        "mean": [120, 120, 120], "std": [60, 60, 60],
        "config": {"eval": {"image_size": [32, 64]}, "model": {"dtype": "float32"}},
    }  # fmt: skip
    return Weights(
        params=params,
        batch_stats=batch_stats,
        meta=meta,
        step=0,
        path=tmp_path_factory.getbasetemp(),
    )


def test_paths_may_begin_at_home(home, weights):
    Image.new("RGB", (40, 20), (90, 60, 30)).save(home / "x.png")
    assert not predict(weights, ["~/x.png"], output="~/all", terminal=quiet())
    assert (home / "all" / "x_overlay.png").exists()


def test_folders_keep_their_inner_structure(weights, tmp_path):
    (tmp_path / "in" / "deep").mkdir(parents=True)
    for name in ("one.png", "deep/two.jpg", "deep/notes.txt"):
        path = tmp_path / "in" / name
        if path.suffix == ".txt":
            path.write_text("no image")
        else:
            Image.new("RGB", (40, 20), (90, 60, 30)).save(path)
    terminal = Terminal(Console(file=io.StringIO()))
    failures = predict(weights, [str(tmp_path / "in")], output=tmp_path / "out", terminal=terminal)
    found = sorted(str(p.relative_to(tmp_path / "out")) for p in (tmp_path / "out").rglob("*.png"))
    assert found == [
        "deep/two_label.png", "deep/two_overlay.png", "one_label.png", "one_overlay.png"
    ]  # fmt: skip
    assert not failures


def quiet() -> Terminal:
    return Terminal(Console(file=io.StringIO(), width=200))


def test_probabilities_say_what_the_labels_say(weights, tmp_path):
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (37, 53, 3), np.uint8)).save(
        tmp_path / "x.png"
    )
    predict(weights, [str(tmp_path / "x.png")], output=tmp_path / "out", terminal=quiet(),
            probabilities=True)  # fmt: skip
    found = np.load(tmp_path / "out" / "x_probabilities.npz")["probabilities"]
    assert found.shape == (2, 37, 53)
    assert found.dtype == np.float16
    np.testing.assert_allclose(found.sum(0), 1, atol=2e-3)
    label = np.asarray(Image.open(tmp_path / "out" / "x_label.png"))
    is_clear = abs(found[0] - found[1]) > 2e-3
    np.testing.assert_array_equal(found.argmax(0)[is_clear], label[is_clear])


def test_what_is_done_is_kept_and_a_broken_image_is_named(weights, tmp_path):
    for name in ("a", "b"):
        Image.new("RGB", (40, 20), (90, 60, 30)).save(tmp_path / f"{name}.png")
    (tmp_path / "broken.png").write_bytes(b"\x89PNG nothing")
    pattern, terminal = str(tmp_path / "*.png"), quiet()
    failures = predict(weights, [pattern], output=tmp_path / "out", terminal=terminal)
    assert len(failures) == 1
    assert "broken.png" in failures[0]
    before = (tmp_path / "out" / "a_label.png").stat().st_mtime_ns
    (tmp_path / "out" / "b_label.png").unlink()
    predict(weights, [pattern], output=tmp_path / "out", terminal=terminal)
    assert "Labelling 3 files (1 done before)" in terminal.console.file.getvalue()
    assert (tmp_path / "out" / "b_label.png").exists()
    assert (tmp_path / "out" / "a_label.png").stat().st_mtime_ns == before
    other = dataclasses.replace(weights, path=tmp_path / "other")
    with pytest.raises(ValueError, match="holds predictions of other weights"):
        predict(other, [pattern], output=tmp_path / "out", terminal=terminal)


def film(path, frames, codec="mp4v"):
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*codec), 10, (64, 32))
    random = np.random.default_rng(0)
    for _ in range(frames):
        writer.write(random.integers(0, 256, (32, 64, 3), np.uint8))
    writer.release()
    return path


def frames_of(path):
    return cv2.VideoCapture(str(path)).get(cv2.CAP_PROP_FRAME_COUNT)


def test_a_video_becomes_a_video_once(weights, tmp_path):
    source, out, terminal = film(tmp_path / "film.mp4", 3), tmp_path / "out", quiet()
    assert predict(weights, [str(source)], output=out, terminal=terminal) == []
    target = out / "film_overlay.mp4"
    assert frames_of(target) == 3
    assert cv2.VideoCapture(str(target)).read()[1].shape == (32, 64, 3)
    before = target.stat().st_mtime_ns
    predict(weights, [str(source)], output=out, terminal=terminal, probabilities=True)
    assert target.stat().st_mtime_ns == before
    told = terminal.console.file.getvalue()
    assert "Labelling 1 file (1 done before)" in told
    assert told.count("--probabilities are not written for videos") == 1


def test_damaged_videos_are_named_and_the_others_labelled(weights, tmp_path):
    (tmp_path / "bad.mp4").write_bytes(b"nothing")
    content = film(tmp_path / "cut.avi", 6, codec="MJPG").read_bytes()
    (tmp_path / "cut.avi").write_bytes(content[: len(content) * 6 // 10])
    film(tmp_path / "good.mp4", 2)
    out, terminal = tmp_path / "out", quiet()
    for _ in range(2):  # what was cut off is not done
        failures = predict(weights, [str(tmp_path / "*.*")], output=out, terminal=terminal)
        assert len(failures) == 2
        assert re.search(r"Cannot read the video .*bad\.mp4", failures[0])
        expected = (
            r"The video .*cut\.avi declares 6 frames, but 3 can be read; is it cut off\? They"
        )
        assert re.search(expected, failures[1])
    assert f"Warning: {failures[1]}" in terminal.console.file.getvalue().replace("\n", "")
    assert sorted(path.name for path in out.glob("*.mp4")) == [
        "cut_overlay_partial.mp4", "good_overlay.mp4",
    ]  # fmt: skip
    assert frames_of(out / "cut_overlay_partial.mp4") == 3


def test_inputs_that_hold_no_image_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist"):
        input_files([str(tmp_path / "nothing.png")], output=tmp_path / "out")
    with pytest.raises(FileNotFoundError, match=r"holds no images \(looked for .png"):
        input_files([str(tmp_path)], output=tmp_path / "out")


def test_inputs_in_a_bucket_are_refused_with_what_to_do(bucket, tmp_path):
    with pytest.raises(ValueError, match=r"--input gs://bucket/a is in a bucket.*gcloud stor"):
        input_files(["gs://bucket/a"], output=tmp_path / "out")


def test_two_files_of_one_name_are_not_mixed_up(tmp_path):
    for name in ("x.png", "x.jpg"):
        Image.new("RGB", (4, 4)).save(tmp_path / name)
    with pytest.raises(ValueError, match=r"x\.jpg and .*x\.png would both become x_label\.png"):
        input_files([str(tmp_path)], output=tmp_path / "out")


def test_hidden_files_and_earlier_outputs_are_no_inputs(tmp_path):
    (tmp_path / "out").mkdir()
    for name in ("x.png", "._x.png", "out/x_label.png"):
        Image.new("RGB", (4, 4)).save(tmp_path / name)
    found = input_files([str(tmp_path)], output=tmp_path / "out")
    assert [path.name for path, _ in found] == ["x.png"]


def test_what_killed_it_left_is_removed_and_nothing_else(weights, tmp_path):
    Image.new("RGB", (40, 20)).save(tmp_path / "x.png")
    (tmp_path / "out").mkdir()
    left, foreign = (tmp_path / "out" / f".{n}_overlay.png.{os.getpid()}.tmp" for n in "xy")
    left.touch()
    foreign.touch()
    predict(weights, [str(tmp_path / "x.png")], output=tmp_path / "out", terminal=quiet())
    assert [p.name for p in (tmp_path / "out").glob(".*")] == [foreign.name]


@pytest.mark.parametrize("text", ["{damaged", "[1]", ""])
def test_a_damaged_mark_is_named(weights, tmp_path, text):
    (tmp_path / "predict.json").write_text(text)
    with pytest.raises(ValueError, match=r"/predict\.json is damaged \(.*Remove it if they are"):
        check_same_weights(tmp_path, weights)


@pytest.mark.parametrize("changes", [{"eval": {"mode": "slide"}}, {"model": {"dtype": "bfloat16"}}])
def test_predictions_of_another_protocol_are_not_mixed_in(weights, tmp_path, changes):
    (tmp_path / "predict.json").write_text(json.dumps({"checkpoint": str(weights.path)}))
    check_same_weights(tmp_path, weights)  # one written before protocols were noted
    config = {**weights.meta["config"], **changes}
    other = dataclasses.replace(weights, meta={**weights.meta, "config": config})
    with pytest.raises(ValueError, match=r"of another protocol \(.*, whole .* in float32\);"):
        check_same_weights(tmp_path, other)


def test_a_file_given_twice_is_one(tmp_path, monkeypatch):
    Image.new("RGB", (4, 4)).save(tmp_path / "x.jpg")
    monkeypatch.chdir(tmp_path)
    found = input_files(["x.jpg", str(tmp_path / "x.jpg"), str(tmp_path)], output=tmp_path / "out")
    assert [name for _, name in found] == [Path("x")]


def test_a_gif_is_read_and_a_dead_link_is_named(weights, tmp_path):
    Image.new("RGB", (40, 20), (90, 60, 30)).save(tmp_path / "x.gif")
    (tmp_path / "dead.png").symlink_to(tmp_path / "nothing.png")
    failures = predict(weights, [str(tmp_path)], output=tmp_path / "out", terminal=quiet())
    assert (tmp_path / "out" / "x_label.png").exists()
    assert len(failures) == 1
    assert "dead.png" in failures[0]


def test_a_file_in_two_folders_that_are_given_has_results_for_both(weights, tmp_path):
    (tmp_path / "in" / "deep").mkdir(parents=True)
    Image.new("RGB", (40, 20)).save(tmp_path / "in" / "deep" / "x.png")
    inputs, out = [str(tmp_path / "in"), str(tmp_path / "in" / "deep")], tmp_path / "out"
    predict(weights, inputs, output=out, terminal=quiet())
    labels = sorted(str(path.relative_to(out)) for path in out.rglob("*_label.png"))
    assert labels == ["deep/x_label.png", "x_label.png"]
