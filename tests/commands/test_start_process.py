import io

from rich.console import Console

from hrnet_jax.commands.start_process import keep_compiled_programs
from hrnet_jax.runs.terminal import Terminal
from tests.command import run


def test_a_home_in_which_nothing_can_be_written_is_a_warning(tmp_path, monkeypatch):
    (tmp_path / "cache").touch()  # a file where a folder is needed
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    terminal = Terminal(Console(file=io.StringIO(), width=200))
    keep_compiled_programs(terminal)
    assert "compiled programs cannot be cached" in terminal.console.file.getvalue()


def test_a_terminal_without_unicode_stops_nothing():
    run("--mode=zoo", environment={"PYTHONIOENCODING": "ascii"})
