"""What the benchmarks conclude from their measurements; measuring is not tested here."""

import dataclasses
import functools
import json
import re
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import optax
import pytest

from benchmarks import job, kernels, learning, scale, startup_profile
from benchmarks import report as page
from hrnet_jax import models, zoo
from hrnet_jax.commands.list_zoo import with_table
from hrnet_jax.commands.step_costs import Collective, collectives
from hrnet_jax.models import VARIANTS, split
from hrnet_jax.parallel.compiling import compiler_options
from hrnet_jax.parallel.mesh import make_mesh
from hrnet_jax.training.losses import cross_entropy
from hrnet_jax.training.optim import sgd
from hrnet_jax.training.state import initial_state
from hrnet_jax.training.step import make_train_step
from tests.command import run
from tests.parity import document

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize(
    ("ours", "theirs", "pooled", "holds"),
    [
        ([30.0, 32.0], [31.0, 33.0], 2**0.5, True),
        ([30.0, 31.0, 32.0], [26.0, 27.0, 28.0], 1.0, False),
        ([30.0, 31.0, 32.0], [28.0, 29.0, 30.0], 1.0, True),  # exactly twice
        ([30.0, 30.0], [27.0, 33.0], 3.0, True),  # sqrt((0 + 18) / 2)
        ([30.0, 30.0], [30.5, 30.5], 0.0, False),
        ([30.0], [30.0], None, None),
    ],
)
def test_means_are_compared_in_pooled_deviations(ours, theirs, pooled, holds):
    found = learning.verdict(ours, theirs)
    assert found["difference"] == pytest.approx(sum(ours) / len(ours) - sum(theirs) / len(theirs))
    assert found["pooled deviation"] == (None if pooled is None else pytest.approx(pooled))
    assert found["holds"] is holds


def test_a_run_is_read_from_the_log_of_either_side(tmp_path):
    path = tmp_path / "metrics.jsonl"
    ours = {"loss": 2.0, "images_per_second": 8.0, "data_wait": 0.1}
    entries = [
        {"step": 1, "loss": 3.0, "seconds": 9.0, "data seconds": 5.0},
        {"step": 2, "mIoU": 10.0, "aAcc": 50.0},
        {"step": 2, **ours},  # from a killed run; the resumed run writes the step again
        {"step": 2, **ours, "loss": 2.5},
        {"step": 2, "mIoU": 11.0},
        {"step": 4, "mIoU": 12.0},
    ]
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    assert learning.result_of(path, batch_size=4) == {
        "mIoU": 12.0,
        "curve": [[2, 11.0], [4, 12.0]],
        "loss": [(1, 3.0), (2, 2.5)],
        "seconds": 0.5,
        "data seconds": 0.05,
    }


def test_runs_of_other_settings_are_not_mixed(tmp_path):
    learning.check_same_config(tmp_path / "runs", {"steps": 4, "crop_size": (64, 96)})
    learning.check_same_config(tmp_path / "runs", {"steps": 4, "crop_size": (64, 96)})
    with pytest.raises(SystemExit, match=r"other settings \(steps 4 -> 8\); give those again"):
        learning.check_same_config(tmp_path / "runs", {"steps": 8, "crop_size": (64, 96)})


def report(*, ours: list[float], theirs: list[float]) -> dict:
    runs = {
        side: [
            {"mIoU": final, "curve": [[2, final / 2], [4, final]], "loss": [[1, 3.0], [4, 1.0]],
             "seconds": 2.0, "data seconds": 0.01, "CPU seconds of a batch": 0.125}
            for final in finals
        ]
        for side, finals in (("ours", ours), ("mmseg", theirs))
    }  # fmt: skip
    settings = {"steps": 4, "batch_size": 4, "crop_size": [64, 96]}
    return {
        "day": "2026-01-01", "machine": "abacus", "versions": {"jax": "1"}, "settings": settings,
        "runs": runs, "verdict": learning.verdict(ours, theirs),
    }  # fmt: skip


def test_the_section_says_whether_the_criterion_holds(tmp_path):
    rows, text = learning.section(report(ours=[30.0, 32.0], theirs=[20.0, 22.0]))
    assert rows == ["| 2 | 15.50 ± 0.71 | 10.50 ± 0.71 |", "| 4 | 31.00 ± 1.41 | 21.00 ± 1.41 |"]
    assert "+10.00, pooled standard deviation 1.41: the criterion **does not hold**" in text
    assert "| ours | 30.00, 32.00 | 2.00 | 0.0100 | 0.125 |" in text
    alone = report(ours=[30.0], theirs=[20.0])
    assert "one seed, so there is no verdict" in learning.section(alone)[1]
    learning.draw(alone, tmp_path / "picture.png")
    assert (tmp_path / "picture.png").stat().st_size > 1000


def test_a_section_takes_only_its_own_place(tmp_path):
    document.store("learning", rows=["| 2 | 1 | 2 |"], run="of today", docs=tmp_path)
    document.store("logits", rows=["| hr18s |"], run="of tomorrow", docs=tmp_path)
    text = (tmp_path / "parity.md").read_text()
    assert re.findall("^## (.*)", text, flags=re.MULTILINE) == ["Logits", "Learning"]
    assert "| 2 | 1 | 2 |\n\nof today" in text


def test_the_page_is_that_of_its_rows():
    stored = json.loads((document.DOCS / "parity.json").read_text())
    assert (document.DOCS / "parity.md").read_text() == document.document(stored)


def test_the_predicted_hours_are_those_of_the_stored_costs():
    text = (ROOT / "docs" / "reproduce.md").read_text()
    stored = json.loads(scale.STEPS.read_text())
    table = scale.times(stored)
    compiled = [row.config for row in zoo.ROWS if f"{row.variant} cityscapes" in stored]
    assert re.findall("`(configs/.*?)`", table) == compiled
    assert text == with_table(text, table, mark="times"), "python -m benchmarks.scale zoo"


def test_a_part_within_another_counts_for_itself_only():
    clock = iter([(2.0, 1.0), (5.0, 3.0), (6.0, 3.5), (10.0, 4.5), (11.0, 4.5)])
    parts = startup_profile.Parts(lambda: next(clock), since=(0.0, 0.0))
    with parts.of("outer"), parts.of("inner"):
        pass
    parts.charge()
    assert parts.seconds == {
        "everything else": [3.0, 1.0], "outer": [7.0, 3.0], "inner": [1.0, 0.5],
    }  # fmt: skip


def test_the_start_of_the_pipeline_is_no_part_of_the_rate(tmp_path):
    path = tmp_path / "metrics.jsonl"
    entries = [
        {"step": 10, "images_per_second": 1.0},
        {"step": 20, "images_per_second": 4.0, "loss": 1.0},
        {"step": 25, "images_per_second": 8.0},
        {"step": 25, "mIoU": 10.0},
    ]
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    # Of batches of 2: 5 s and 1.25 s.
    assert job.rate_of(path) == pytest.approx(30 / 6.25)


def job_report() -> dict:
    start = {"imports": [2.0, 1.5], "everything else": [1.0, 1.0]}
    return {
        "conditions": {"threads": 2},
        "images per second": {
            "minicity": {
                "training": [9.0, 9.5], "step alone": [10.0, 10.0], "pipeline alone": [90.0, 9.5]
            }
        },
        "start": {"new run": [start, start | {"first step": [4.0, 8.0]}]},
    }  # fmt: skip


def test_training_is_measured_by_the_slower_of_step_and_pipeline():
    (turns,) = job_report()["images per second"].values()
    assert job.shares(turns) == pytest.approx([0.9, 1.0])
    found = job.medians(job_report()["start"]["new run"])
    assert found["imports"] == (2.0, 1.5)
    assert found["first step"] == (2.0, 4.0)  # of none and 4 s
    assert found["together"] == (5.0, 6.5)
    assert list(found)[-1] == "together"


def test_the_section_of_the_whole_job_has_both_tables():
    text = "\n".join(page.job(job_report()))
    assert "| minicity | training / the slower of both | 0.95 [0.90, 1.00] |" in text
    assert "| imports | 2.00 | 1.50 |" in text
    assert "start, new run" in text


def test_the_page_has_the_notes_of_its_writer():
    text = (ROOT / "docs" / "performance.md").read_text()
    for note in (page.SCALING_NOTE, page.KERNELS_NOTE, page.ROOFLINE_NOTE):
        assert note.strip() in text, "python -m benchmarks.report benchmarks/results"


@pytest.mark.slow
def test_a_start_is_taken_apart(tiny_city, tmp_path):
    script = (
        "from tests import tiny; from benchmarks import startup_profile; startup_profile.main()"
    )
    file, begin = tmp_path / "start.json", time.perf_counter()
    run(
        str(file), str(begin), "2", "--config=tests/tiny_config.py",
        f"--config.data.root={tiny_city}", f"--workdir={tmp_path / 'run'}", module=("-c", script),
    )  # fmt: skip
    passed = time.perf_counter() - begin
    found = json.loads(file.read_text())
    assert {"interpreter", "imports", "step: trace", "first step", "random weights"} <= set(found)
    assert all(seconds >= 0 for seconds, _ in found.values())
    assert 0.5 * passed < sum(seconds for seconds, _ in found.values()) < passed
    log = (tmp_path / "run" / "metrics.jsonl").read_text()
    steps = [json.loads(line)["step"] for line in log.splitlines()]
    assert steps == [1]


def totals(sums: list[Collective]) -> tuple[int, int]:
    return sum(c.times for c in sums), sum(c.times * c.bytes for c in sums)


@pytest.mark.parametrize("variant", ["hr18s", "hr18"])
def test_sums_follow_from_parameters_and_statistics(variant):
    """Equal to the byte for the two whose programs for eight devices were compiled."""
    stored = json.loads(scale.STEPS.read_text())[f"{variant} cityscapes"]["collectives"]
    compiled = [Collective(*fields) for fields in stored]
    _, params, batch_stats = split(models.build(variant, num_classes=19))
    state = initial_state(params, batch_stats, optimizer=optax.identity())
    assert totals(scale.summed(state, like=compiled)) == totals(compiled)


def test_w48_differs_from_w18_in_the_width_only():
    assert dataclasses.replace(VARIANTS["hr18"], width=48) == VARIANTS["hr48"]


@pytest.mark.slow
def test_sums_are_those_of_a_network_of_another_width(monkeypatch):
    """On eight devices: the number of sums does not depend on the width; the bytes follow."""
    narrow = VARIANTS["tiny"]
    monkeypatch.setitem(VARIANTS, "wider", dataclasses.replace(narrow, width=3 * narrow.width))
    found, rule = {}, {}
    optimizer = sgd(lambda _: 0.01, momentum=0.9, weight_decay=0.0005)
    for variant in ("tiny", "wider"):
        structure, params, batch_stats = split(models.build(variant, num_classes=3))
        state = initial_state(params, batch_stats, optimizer=optimizer)
        loss = functools.partial(cross_entropy, ignore_label=255)
        step = make_train_step(structure, optimizer, loss=loss, mesh=make_mesh(), dtype=jnp.float32)
        batch = {
            "image": jax.ShapeDtypeStruct((8, 64, 64, 3), jnp.float32),
            "label": jax.ShapeDtypeStruct((8, 64, 64), jnp.uint8),
        }
        found[variant] = collectives(step.lower(state, batch).compile().as_text() or "")
        rule[variant] = scale.summed(state, like=found["tiny"])
        assert {(c.kind, c.devices) for c in found[variant]} == {("all-reduce", 8)}
    assert {name: totals(sums) for name, sums in found.items()} == {
        name: totals(sums) for name, sums in rule.items()
    }


def test_kernels_are_told_apart_by_what_they_compute():
    def program(x, kernel, matrix):
        y = jax.lax.conv_general_dilated(
            x, kernel, (2, 2), ((1, 1), (1, 1)), dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        return y.reshape(-1, 48) @ matrix

    arrays = jnp.ones((1, 64, 64, 32)), jnp.ones((3, 3, 32, 48)), jnp.ones((48, 64))
    options = compiler_options("cpu")
    text = jax.jit(program, compiler_options=options).lower(*arrays).compile().as_text()
    found = list(kernels.kernels_of(text).values())
    assert ("convolutions to 48 channels", 2 * 32 * 32 * 48 * 9 * 32) in found
    assert "matrix products" in {kind for kind, _ in found}
