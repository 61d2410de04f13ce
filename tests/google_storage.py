"""A bucket of Google Cloud Storage in memory: enough of its JSON API for gcsfs and TensorStore.

As in the real one, objects are whole or absent, and there are neither folders nor renames.
"""

import contextlib
import itertools
import json
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

BUCKET = "bucket"


class Storage(ThreadingHTTPServer):
    """Serves one bucket.

    Attributes:
        objects: contents and generation by name.
        written: the names of objects as they were written, in order.
        read: the names of objects whose contents were read, in order.
        before: called with each name before the object is written; may refuse by raising.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.objects: dict[str, tuple[bytes, int]] = {}
        self.written: list[str] = []
        self.read: list[str] = []
        self.before: Callable[[str], None] = lambda name: None
        self.uploads: dict[str, tuple[str, bytearray]] = {}
        self.lock = threading.Lock()
        self._count = itertools.count(1)

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), ConnectionError):  # a client was killed or is done
            super().handle_error(request, client_address)

    def next_number(self) -> int:
        return next(self._count)

    @property
    def environment(self) -> dict[str, str]:
        """Variables that make a process use this bucket instead of real ones."""
        url = f"http://127.0.0.1:{self.server_port}"
        return {
            "STORAGE_EMULATOR_HOST": url,  # gcsfs and google-cloud-storage
            "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",  # asks for the kind of bucket by gRPC
            "TENSORSTORE_GCS_HTTP_URL": url,
            "GOOGLE_AUTH_TOKEN_FOR_TESTING": "none",  # otherwise TensorStore looks for credentials
            "GOOGLE_CLOUD_PROJECT": "test",
        }

    def put(self, name: str, data: bytes) -> dict[str, Any]:
        self.before(name)
        with self.lock:
            self.objects[name] = (data, self.next_number())
            self.written.append(name)
        return self.describe(name)

    def describe(self, name: str) -> dict[str, Any]:
        data, generation = self.objects[name]
        return {
            "kind": "storage#object",
            "bucket": BUCKET,
            "name": name,
            "size": str(len(data)),
            "generation": str(generation),
            "metageneration": "1",
            "timeCreated": "2026-01-01T00:00:00.000Z",
            "updated": "2026-01-01T00:00:00.000Z",
        }

    def clear(self) -> None:
        """Forget everything."""
        self.objects.clear()
        self.written.clear()
        self.read.clear()
        self.before = lambda name: None

    def upload(self, source: Path, folder: str) -> None:
        """Put the files of a local folder into one of the bucket."""
        for path in source.rglob("*"):
            if path.is_file():
                self.put(f"{folder}/{path.relative_to(source).as_posix()}", path.read_bytes())

    def download(self, folder: str, target: Path) -> Path:
        """Write the objects of a folder of the bucket to a local one."""
        for name in self.below(folder):
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            (target / name).write_bytes(self.objects[f"{folder}/{name}"][0])
        return target

    def below(self, folder: str) -> list[str]:
        """Names of the objects below a folder, relative to it."""
        prefix = folder + "/"
        return sorted(n.removeprefix(prefix) for n in self.objects if n.startswith(prefix))


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # an answer goes out as one packet, or Nagle's algorithm holds it for 40 ms
    server: Storage

    def log_message(self, *_: object) -> None:
        pass

    def _answer(self, status: int, body: bytes | dict = b"", **headers: str) -> None:
        if isinstance(body, dict):
            body = json.dumps(body).encode()
            headers["Content-Type"] = "application/json"
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _handle(self) -> None:
        url = urlsplit(self.path)
        query = dict(parse_qsl(url.query))
        # Before the parts are unquoted: a name holds slashes.
        parts = [unquote(part) for part in url.path.split("/") if part]
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if "v1" in parts and parts[parts.index("v1") + 1 : parts.index("v1") + 3] != ["b", BUCKET]:
            return self._answer(404, {"error": {"code": 404, "message": "no such bucket"}})
        match self.command, parts:
            case "GET", ["storage", "v1", "b", _]:
                self._answer(200, {"kind": "storage#bucket", "name": BUCKET, "id": BUCKET})
            case "GET", ["storage", "v1", "b", _, "o"]:
                self._list(query)
            case "GET", ["storage", "v1", "b", _, "o", name] | [
                "download", "storage", "v1", "b", _, "o", name
            ]:  # fmt: skip
                self._get(name, query)
            case "DELETE", ["storage", "v1", "b", _, "o", name]:
                self._delete(name, query)
            case "POST", ["upload", "storage", "v1", "b", _, "o"]:
                self._upload(query, body)
            case "POST" | "PUT", ["resumable", number]:
                self._go_on(number, body)
            case "POST", ["storage", "v1", "b", _, "o", name, "moveTo", "o", target]:
                self._copy(name, target, moves=True)
            case "POST", ["storage", "v1", "b", _, "o", name, "rewriteTo", "b", _, "o", target]:
                self._copy(name, target, moves=False)
            case _:
                self._answer(501, {"error": {"code": 501, "message": self.path}})

    do_GET = do_POST = do_PUT = do_DELETE = _handle

    def _missing(self, name: str) -> None:
        self._answer(404, {"error": {"code": 404, "message": f"No such object: {name}"}})

    def _list(self, query: dict[str, str]) -> None:
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter")
        items, folders = [], set()
        with self.server.lock:
            for name in sorted(self.server.objects):
                rest = name.removeprefix(prefix)
                if not name.startswith(prefix) or name < query.get("startOffset", ""):
                    continue
                if "endOffset" in query and name >= query["endOffset"]:
                    continue
                if delimiter and delimiter in rest:
                    folders.add(prefix + rest.split(delimiter)[0] + delimiter)
                else:
                    items.append(self.server.describe(name))
        self._answer(200, {"items": items, "prefixes": sorted(folders)})

    def _get(self, name: str, query: dict[str, str]) -> None:
        found = self.server.objects.get(name)
        if found is None:
            return self._missing(name)
        data, generation = found
        if query.get("alt") != "media":
            return self._answer(200, self.server.describe(name))
        self.server.read.append(name)
        if query.get("ifGenerationNotMatch") == str(generation):
            return self._answer(304)
        headers = {"x-goog-generation": str(generation), "Content-Type": "application/octet-stream"}
        if wanted := self.headers.get("Range"):
            begin, _, end = wanted.removeprefix("bytes=").partition("-")
            first = int(begin) if begin else max(0, len(data) - int(end))
            last = min(int(end), len(data) - 1) if begin and end else len(data) - 1
            if first >= len(data):
                return self._answer(416, Content_Range=f"bytes */{len(data)}")
            headers["Content-Range"] = f"bytes {first}-{last}/{len(data)}"
            return self._answer(206, data[first : last + 1], **headers)
        self._answer(200, data, **headers)

    def _delete(self, name: str, query: dict[str, str]) -> None:
        with self.server.lock:
            gone = self.server.objects.pop(name, None)
        self._answer(204) if gone else self._missing(name)

    def _upload(self, query: dict[str, str], body: bytes) -> None:
        kind, name = query.get("uploadType"), query.get("name", "")
        if kind == "multipart":  # JSON, then the contents, between lines of a boundary
            boundary = self.headers["Content-Type"].split("boundary=")[1].strip('"').encode()
            _, head, rest = body.split(b"--" + boundary, 2)
            name = json.loads(head.partition(b"\n\n")[2])["name"]
            body = rest.partition(b"\n\n")[2].removesuffix(b"\n--" + boundary + b"--")
        name = name or json.loads(body or b"{}").get("name", "")
        if expected := query.get("ifGenerationMatch"):
            current = self.server.objects.get(name, (b"", 0))[1]
            if int(expected) != current:
                return self._answer(412, {"error": {"code": 412, "message": "conditionNotMet"}})
        if kind == "resumable":
            number = str(self.server.next_number())
            self.server.uploads[number] = (name, bytearray())
            place = f"http://127.0.0.1:{self.server.server_port}/resumable/{number}"
            return self._answer(200, Location=place)
        self._answer(200, self.server.put(name, body))

    def _go_on(self, number: str, body: bytes) -> None:
        name, data = self.server.uploads[number]
        data += body
        total = self.headers["Content-Range"].rpartition("/")[2]
        if total in ("*", "") or len(data) < int(total):
            return self._answer(308, Range=f"bytes=0-{len(data) - 1}")
        described = self.server.put(name, bytes(data))
        del self.server.uploads[number]
        self._answer(200, described)

    def _copy(self, name: str, target: str, *, moves: bool) -> None:
        with self.server.lock:
            found = self.server.objects.get(name)
            if found and moves:
                del self.server.objects[name]
        if not found:
            return self._missing(name)
        described = self.server.put(target, found[0])
        self._answer(200, described if moves else {"done": True, "resource": described})


@contextlib.contextmanager
def serving() -> Iterator[Storage]:
    """Serve a bucket while the block runs."""
    with Storage() as storage:
        thread = threading.Thread(target=storage.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield storage
        finally:
            storage.shutdown()
            thread.join()
