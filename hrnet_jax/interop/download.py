"""Download a published file: resume, check the hash, write atomically.

Nothing is downloaded unless a user asks for it. Proxies come from the usual environment variables
(https_proxy, no_proxy).
"""

import hashlib
import http.client
import re
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from hrnet_jax import __version__
from hrnet_jax.runs.paths import make_folder
from hrnet_jax.runs.terminal import Terminal

STALL = 30.0  # seconds without data before a connection is closed
PAUSE = 2.0  # seconds before the next attempt, doubled each time
ATTEMPTS = 5  # in a row that bring nothing new
_BLOCK = 1 << 16
_TRANSIENT = (  # worth another attempt
    TimeoutError,
    ConnectionResetError,
    ConnectionAbortedError,
    BrokenPipeError,
    http.client.HTTPException,
    ssl.SSLEOFError,
)


class _Interrupted(Exception):
    """The network failed; the same request may work later."""


class _Refused(Exception):
    """The request fails, and would fail again."""


def download(url: str, target: Path, *, sha256: str, advice: str, terminal: Terminal) -> None:
    """Download a file, unless `target` exists with the right hash.

    Partial data is kept in `<target>.part`, where the next call resumes, even after a kill.

    Args:
        url: of the file.
        target: path of the complete and checked file.
        sha256: first digits of the file's SHA-256; "" accepts any file.
        advice: what a user can do if it fails, for the end of the error message.
        terminal: for progress.

    Raises:
        ValueError: if the hash differs. The downloaded data is removed.
        ConnectionError: if the download fails. Partial data is kept.
    """
    if target.exists():
        if not (digest := _sha256(target)).startswith(sha256):
            raise ValueError(
                f"{target} exists, but its SHA-256 is {digest} and should begin with {sha256}; "
                "remove it, then start again."
            )
        terminal.line(f"{target} exists already.")
        return
    make_folder(target.parent)
    part = target.with_name(f"{target.name}.part")
    terminal.line(f"Downloading {url}")
    try:
        _complete(url, part, sha256=sha256, terminal=terminal)
    except (_Interrupted, _Refused) as error:
        text = f"Cannot download {url}: {error}."
        if kept := _size(part):
            text += f" {kept:,} bytes are kept in {part}; the same command resumes there."
        raise ConnectionError(f"{text}\n{advice}") from error
    if not (digest := _sha256(part)).startswith(sha256):
        size = _size(part)
        part.unlink()
        raise ValueError(
            f"{url} is another file ({size:,} bytes): its SHA-256 is {digest} and should begin "
            f"with {sha256}. It was removed.\n{advice}"
        )
    part.replace(target)


def _complete(url: str, part: Path, *, sha256: str, terminal: Terminal) -> None:
    """Fetch the rest of `part`, or all of it if its beginning belongs to another file."""
    resumed = _fetch(url, part, terminal=terminal)
    if resumed and not _sha256(part).startswith(sha256):
        terminal.warn(f"{part} mixes different files; downloading it again.")
        part.unlink()
        _fetch(url, part, terminal=terminal)


def _fetch(url: str, part: Path, *, terminal: Terminal) -> bool:
    """Complete `part` over several connections if needed; return whether it was resumed."""
    failures, furthest = 0, _size(part)
    resumed = furthest > 0
    while True:
        try:
            _fetch_rest(url, part, terminal=terminal)
            return resumed
        except _Interrupted as error:
            failures = 0 if _size(part) > furthest else failures + 1
            furthest, resumed = max(furthest, _size(part)), True
            if failures >= ATTEMPTS:
                raise
            pause = PAUSE * 2**failures
            terminal.warn(f"{error}; trying again in {pause:.0f} s.")
            time.sleep(pause)


def _fetch_rest(url: str, part: Path, *, terminal: Terminal) -> None:
    """Fetch the bytes that `part` lacks over one connection."""
    have = _size(part)
    response = _open(url, have)
    if response is None:
        return
    with response:
        if have and response.status != 206:
            terminal.line("The server cannot resume a download; starting from the beginning.")
            have = 0
        total = have + int(response.headers.get("Content-Length") or 0)
        with (
            part.open("ab" if have else "wb") as file,
            terminal.live(part.stem, total=total, done=have, in_bytes=True) as live,
        ):
            for block in _blocks(response):
                file.write(block)
                have += len(block)
                live.advance(len(block))
    if have < total:
        raise _Interrupted(f"the connection ended after {have:,} of {total:,} bytes")


def _open(url: str, have: int) -> http.client.HTTPResponse | None:
    """Request the bytes from offset `have`; return None if there are no more.

    A server may send the whole file instead, with status 200.
    """
    headers = {"User-Agent": f"hrnet-jax/{__version__}", "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
    try:
        request = urllib.request.Request(url, headers=headers)
        response = urllib.request.urlopen(request, timeout=STALL)
    except urllib.error.HTTPError as error:
        error.close()
        if have and error.code == 416:  # no more bytes; the hash decides whether all is right
            return None
        text = f"the server answered {error.code} {error.reason}"
        transient = error.code in (408, 429) or error.code >= 500
        raise (_Interrupted if transient else _Refused)(text) from error
    except (OSError, http.client.HTTPException) as error:
        raise _classify(error) from error
    start = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
    if response.status == 206 and (start is None or int(start[1]) != have):
        response.close()
        raise _Refused("the server sent another part of the file than requested")
    return response


def _blocks(response: http.client.HTTPResponse) -> Iterator[bytes]:
    try:
        while block := response.read1(_BLOCK):
            yield block
    except (OSError, http.client.HTTPException) as error:
        raise _classify(error) from error


def _classify(error: Exception) -> _Interrupted | _Refused:
    reason = error.reason if isinstance(error, urllib.error.URLError) else error
    text = f"{reason}" or type(reason).__name__
    text = f"no data for {STALL:.0f} s" if isinstance(reason, TimeoutError) else text
    return _Interrupted(text) if isinstance(reason, _TRANSIENT) else _Refused(text)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
