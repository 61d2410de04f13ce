import io
import json

from rich.console import Console

from hrnet_jax.writer import MetricsWriter, Terminal, clock, read_metrics


def test_clock():
    assert [clock(s) for s in (0.0, 75.0, 3599.6, 7384.0)] == ["0:00", "1:15", "1:00:00", "2:03:04"]


def test_a_resumed_run_rewrites_what_came_after_its_checkpoint(tmp_path):
    writer = MetricsWriter(tmp_path, start=0)
    for step in (10, 20, 30):
        writer.write(step, {"loss": step / 10})
    writer.close()
    with writer.path.open("a") as file:
        file.write('{"step": 40, "lo')  # killed while writing
    resumed = MetricsWriter(tmp_path, start=20)
    resumed.write(30, {"loss": float("nan")})
    resumed.close()
    entries = read_metrics(tmp_path / "metrics.jsonl")
    assert [(e["step"], e["loss"]) for e in entries] == [(10, 1.0), (20, 2.0), (30, None)]
    assert all(json.loads(line) for line in resumed.path.read_text().splitlines())
    assert list((tmp_path / "tensorboard").iterdir())


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


def test_the_live_line_tells_rate_and_time_to_go():
    terminal = Terminal(Console(file=io.StringIO(), force_terminal=True))
    with terminal.live("Training", total=10, done=4) as live:
        assert live.eta == "-:--"
        live.advance()
        assert live.rate > 0
        assert live.eta != "-:--"
