import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from hrnet_jax import zoo
from hrnet_jax.commands import list_zoo
from hrnet_jax.config import recipes
from tests.config.test_recipes import ROWS, load

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(("row", "expected"), list(zip(zoo.ROWS, ROWS, strict=True)))
def test_a_row_is_a_recipe_with_its_figures(row, expected):
    name, schedule, *_, miou, miou_ms_flip = expected
    assert row.config == f"configs/{name}.py:{schedule}"
    assert recipes.of_row(row).to_dict() == load(name, schedule).to_dict()
    assert (row.upload.miou, row.upload.miou_ms_flip) == (float(miou), float(miou_ms_flip))
    height, width = recipes.of_row(row).train.crop_size
    assert f"_{height}x{width}_" in row.name


@pytest.mark.parametrize("name", list_zoo.DOCUMENTS)
def test_the_documents_say_what_the_program_says(name):
    text = (ROOT / name).read_text()
    written = list_zoo.with_table(text, list_zoo.DOCUMENTS[name]())
    assert text == written, "run: python -m hrnet_jax.commands.list_zoo"
    with pytest.raises(ValueError, match=r"has no marks <!-- zoo --> and <!-- /zoo -->"):
        list_zoo.with_table("# A document\n<!-- zoo -->\n", "table")


def printed(rows, folder) -> str:
    console = Console(file=io.StringIO(), width=120)
    console.print(list_zoo.table(rows, folder=folder))
    return console.file.getvalue()


def test_the_table_says_what_is_here(tmp_path):
    scored, converted, broken, absent = zoo.ROWS[:4]
    for row in (scored, converted, broken):
        (tmp_path / row.name / "checkpoints").mkdir(parents=True)
    for row, text in (
        (scored, json.dumps({"published": {"measured": 73.854, "protocol": "whole"}})),
        (broken, json.dumps({"mIoU": 1.0})),  # of another measurement
        (absent, json.dumps({"published": {"measured": 1.0, "protocol": "whole"}})),
    ):
        (tmp_path / row.name / "eval").mkdir(parents=True)
        (tmp_path / row.name / "eval" / "scores.json").write_text(text)
    here = [list_zoo.here(row, folder=tmp_path) for row in zoo.ROWS[:4]]
    assert here == ["73.85 (whole)", "converted", "converted", ""]
    text = printed(zoo.ROWS, tmp_path)
    assert sum("fcn_" in line for line in text.splitlines()) == 25
    (line,) = [line for line in text.splitlines() if f" {scored.name} " in line]
    assert [cell.strip() for cell in line.split("│")[1:-1]] == [
        scored.name, "73.86", "75.91", "1.7", "23.74", "73.85 (whole)"
    ]  # fmt: skip
    assert "one V100" in text


def test_one_row_is_described_with_its_addresses():
    row = zoo.get("fcn_hr18_512x512_80k_ade20k")
    text = list_zoo.describe(row)
    for part in (
        row.url, row.log_url, f"--zoo {row.name}", f"--checkpoint {row.name}",
        "--config configs/hr18_ade20k.py:80k", "20200614_185145-66f20cb7.pth: mIoU 35.51",
    ):  # fmt: skip
        assert part in text
