import io
import re
import time

from rich.console import Console

from hrnet_jax.runs.paths import to_path
from hrnet_jax.runs.terminal import Terminal


def test_lines_where_there_is_no_terminal():
    out = io.StringIO()
    terminal = Terminal(Console(file=out))
    terminal.line("[red]not markup[/red]")
    with terminal.announced("Compiling"):
        pass
    assert list(terminal.track([1, 2], "Counting", total=2)) == [1, 2]
    text = out.getvalue()
    assert "[red]not markup[/red]" in text
    assert "Compiling ...\nCompiling: 0.0 s" in text


def test_only_what_comes_over_a_network_is_announced(bucket):
    out = io.StringIO()
    terminal = Terminal(Console(file=out))
    for name in ("runs/a", "gs://bucket/a"):
        with terminal.announced_if_remote(to_path(name)):
            pass
    assert out.getvalue() == "Reading gs://bucket/a ...\nReading gs://bucket/a: 0.0 s\n"


def live_terminal():
    out = io.StringIO()
    return Terminal(Console(file=out, force_terminal=True, width=200)), out


def test_the_live_line_tells_rate_and_time_to_go():
    terminal, out = live_terminal()
    with terminal.live("Training", total=10, done=4) as live:
        assert (live.rate, live.eta) == (0, "-:--:--")
        time.sleep(0.1)
        live.advance()
        live.show("loss [red]1[/red]")
        assert 0 < live.rate < 10
        assert re.fullmatch(r"0:00:\d\d", live.eta)
    assert re.search(r"Training.* 5/10.*0:00:\d\d.*loss \[red\]1\[/red\]", out.getvalue())


def test_rate_and_time_to_go_are_known_without_a_terminal():
    terminal = Terminal(Console(file=io.StringIO()))
    with terminal.live("Training", total=10) as live:
        time.sleep(0.1)
        live.advance()
        assert 0 < live.rate < 10
        assert live.eta.startswith("0:00:")


def test_bytes_are_counted_in_megabytes():
    terminal, out = live_terminal()
    with terminal.live("Copying", total=8_000_000, in_bytes=True) as live:
        time.sleep(0.1)
        live.advance(4_000_000)
    assert re.search(r"4\.0/8\.0 MB.* MB/s", out.getvalue())
