import io

from rich.console import Console

from hrnet_jax.commands.draw_minicity import draw_minicity
from hrnet_jax.config import recipes
from hrnet_jax.data import minicity
from hrnet_jax.runs.terminal import Terminal


def test_minicity_is_drawn_once_and_says_so(tmp_path, monkeypatch):
    drawn = []

    def write(root, *, train, val, track):
        assert len(list(track([None] * (train + val)))) == 250
        root.mkdir()
        drawn.append(root)

    monkeypatch.setattr(minicity, "write", write)
    config = recipes.minicity(variant="hr18s")
    config.data.root = str(tmp_path / "city")
    terminal = Terminal(Console(file=io.StringIO(), soft_wrap=True))
    for _ in range(2):
        draw_minicity(config, terminal=terminal)
    assert drawn == [tmp_path / "city"]
    before, after = terminal.console.file.getvalue().splitlines()
    assert before == f"Drawing 250 scenes into {tmp_path / 'city'} ..."
    assert after.startswith(f"Drew 250 scenes into {tmp_path / 'city'} in ")


def test_other_datasets_are_not_drawn(tmp_path):
    config = recipes.cityscapes(variant="hr18", schedule="40k")
    config.data.root = str(tmp_path / "city")
    draw_minicity(config, terminal=Terminal())
    assert not (tmp_path / "city").exists()
