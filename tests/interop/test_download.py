"""Against a local server with the faults of servers and networks."""

import hashlib
import http.server
import io
import threading
import time

import numpy as np
import pytest
from rich.console import Console

from hrnet_jax.interop import download as module
from hrnet_jax.interop.download import download
from hrnet_jax.runs.terminal import Terminal

CONTENT = np.random.default_rng(0).bytes(300_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
HALF = len(CONTENT) // 2


class Server:
    """Serves CONTENT by its script, one entry per request; the last one repeats."""

    def __init__(self):
        self.script, self.ranges, self.paths, self.content = ["right"], [], [], CONTENT
        self.stopped = threading.Event()
        server = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                server.answer(self)

            def log_message(self, *_):
                pass

        self._http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.host = f"http://127.0.0.1:{self._http.server_port}"
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.01,))
        self._thread.start()

    def answer(self, request):
        how = self.script.pop(0) if len(self.script) > 1 else self.script[0]
        self.paths.append(request.path)
        self.ranges.append(request.headers.get("Range"))
        if isinstance(how, int):
            request.send_error(how)
            return
        start = int((self.ranges[-1] or "bytes=0-")[6:-1])
        start = 0 if how.endswith("no ranges") else start
        if start >= len(self.content):
            request.send_error(416)
            return
        body = self.content[start:]
        request.send_response(206 if start else 200)
        request.send_header("Content-Length", str(len(body)))
        if start:
            sent = start - 1 if how == "another part" else start
            request.send_header("Content-Range", f"bytes {sent}-{len(CONTENT) - 1}/{len(CONTENT)}")
        request.end_headers()
        if how.startswith("right") or how == "another part":
            request.wfile.write(body)
        elif how.startswith("truncates"):
            request.wfile.write(body[: len(body) // 2])
        elif how == "stalls":
            request.wfile.write(body[: len(body) // 2])
            request.wfile.flush()
            self.stopped.wait(10)
        elif how == "stalls at once":
            self.stopped.wait(10)

    def close(self):
        self.stopped.set()
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(module, "PAUSE", 0.001)
    monkeypatch.setattr(module, "STALL", 0.2)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr("urllib.request._opener", None)  # it caches the proxies of its first use
    server = Server()
    yield server
    server.close()


class Fetch:
    def __init__(self, url, folder):
        self.url, self.target, self.part = url, folder / "a.pth", folder / "a.pth.part"
        self.terminal = Terminal(Console(file=io.StringIO(), width=300))

    def __call__(self, sha256=SHA256[:8]):
        advice = "Fetch it by hand."
        download(self.url, self.target, sha256=sha256, advice=advice, terminal=self.terminal)

    @property
    def output(self):
        return self.terminal.console.file.getvalue()


@pytest.fixture
def fetch(server, tmp_path):
    return Fetch(f"{server.host}/a.pth", tmp_path / "sub")


def is_complete(fetch) -> bool:
    return [p.name for p in fetch.target.parent.iterdir()] == ["a.pth"] and (
        fetch.target.read_bytes() == CONTENT
    )


def test_a_file_is_fetched_once(server, fetch):
    fetch()
    assert is_complete(fetch)
    fetch()
    assert server.ranges == [None]
    assert "exists already" in fetch.output


@pytest.mark.parametrize("fault", ["stalls", "truncates"])
def test_a_broken_connection_is_resumed_where_it_broke(server, fetch, fault):
    server.script = [fault, "right"]
    fetch()
    assert is_complete(fetch)
    assert server.ranges == [None, f"bytes={HALF}-"]
    reason = {"stalls": "no data for 0 s", "truncates": "ended after 150,000 of 300,000 bytes"}
    assert reason[fault] in fetch.output
    assert "trying again" in fetch.output


@pytest.mark.parametrize("fault", ["stalls at once", 503, 429])
def test_a_transient_fault_is_retried(server, fetch, fault):
    server.script = [fault, "right"]
    fetch()
    assert is_complete(fetch)
    assert server.ranges == [None, None]


def test_a_killed_command_is_resumed(server, fetch):
    fetch.part.parent.mkdir()
    fetch.part.write_bytes(CONTENT[:1000])
    fetch()
    assert is_complete(fetch)
    assert server.ranges == ["bytes=1000-"]


def test_a_complete_part_only_needs_its_name(server, fetch):
    fetch.part.parent.mkdir()
    fetch.part.write_bytes(CONTENT)
    fetch()
    assert is_complete(fetch)
    assert server.ranges == [f"bytes={len(CONTENT)}-"]


def test_a_server_without_ranges_starts_again(server, fetch):
    server.script = ["truncates", "right, no ranges"]
    fetch()
    assert is_complete(fetch)
    assert "starting from the beginning" in fetch.output


@pytest.mark.parametrize("size", [1000, 400_000])
def test_the_beginning_of_another_file_is_dropped(server, fetch, size):
    fetch.part.parent.mkdir()
    fetch.part.write_bytes(bytes(size))
    fetch()
    assert is_complete(fetch)
    assert server.ranges == [f"bytes={size}-", None]
    assert "mixes different files; downloading it again" in fetch.output


def test_a_wrong_file_is_named_by_both_hashes_and_removed(server, fetch):
    server.content = b"<html>Log in to this network</html>"
    found = hashlib.sha256(server.content).hexdigest()
    with pytest.raises(ValueError, match=rf"is {found} and should begin with {SHA256[:8]}\.") as e:
        fetch()
    assert "It was removed.\nFetch it by hand." in str(e.value)
    assert list(fetch.target.parent.iterdir()) == []
    fetch(sha256="")  # accepts any file
    assert fetch.target.read_bytes() == server.content
    with pytest.raises(ValueError, match=r"a\.pth exists, but its SHA-256 is .* remove it"):
        fetch()


def test_an_absent_file_is_reported_at_once(server, fetch):
    server.script = [404]
    with pytest.raises(
        ConnectionError, match=r"a\.pth: the server answered 404 Not Found\.\nFetch"
    ):
        fetch()
    assert len(server.ranges) == 1


def test_endless_faults_end_and_keep_the_partial_file(server, fetch):
    server.script = ["truncates", 503]
    with pytest.raises(
        ConnectionError, match=r"answered 503 .* 150,000 bytes are kept in .*\.part"
    ):
        fetch()
    assert len(server.ranges) == 1 + module.ATTEMPTS
    assert fetch.part.read_bytes() == CONTENT[:HALF]
    server.script = ["right"]
    fetch()
    assert is_complete(fetch)


def test_a_server_without_ranges_that_always_truncates_fails(server, fetch):
    server.script = ["truncates, no ranges"]
    with pytest.raises(ConnectionError, match="ended after 150,000 of 300,000"):
        fetch()
    assert len(server.ranges) == 1 + module.ATTEMPTS


def test_a_part_that_was_not_requested_is_not_appended(server, fetch):
    server.script = ["truncates", "another part"]
    with pytest.raises(ConnectionError, match="another part of the file than requested"):
        fetch()
    assert fetch.part.read_bytes() == CONTENT[:HALF]


def test_without_a_network_the_advice_comes_at_once(fetch, server, monkeypatch):
    server.close()
    begin = time.perf_counter()
    monkeypatch.setattr(module, "PAUSE", 60.0)
    with pytest.raises(ConnectionError, match=r"Connection refused\.\nFetch it by hand\.$"):
        fetch()
    assert time.perf_counter() - begin < 5


def test_the_proxy_of_the_environment_is_used(server, tmp_path, monkeypatch):
    monkeypatch.setenv("http_proxy", server.host)
    monkeypatch.setenv("no_proxy", "")
    url = "http://weights.example/a.pth"  # a name that only the proxy can resolve
    download(url, tmp_path / "a.pth", sha256=SHA256, advice="", terminal=Terminal())
    assert (tmp_path / "a.pth").read_bytes() == CONTENT
