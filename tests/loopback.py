"""A web server on 127.0.0.1 for tests: a folder with range requests, answers made on the spot, faults on request."""

from __future__ import annotations

import json
import re
import socket
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self
from urllib.parse import unquote, urlsplit


@dataclass(frozen=True)
class Fault:
    """What goes wrong with one request.

    Args:
        status: instead of the file; with 200 and nothing else the connection ends half way.
        retry_after: seconds in the header of that name.
        location: where a redirect leads.
        drip: seconds between the bytes of an answer that never ends; 0 sends nothing at all.
    """

    status: int = 200
    retry_after: int | None = None
    location: str | None = None
    drip: float | None = None

    @property
    def cut(self) -> bool:
        """The answer begins as usual and stops in the middle."""
        return self.status == 200 and self.drip is None


BUSY = Fault(503)
CUT = Fault()
MISSING = Fault(404)
SILENT = Fault(drip=0)
DRIPPING = Fault(drip=0.05)


@dataclass(frozen=True)
class Request:
    """One request as it came in; ``moment`` in seconds of the monotonic clock."""

    method: str
    path: str
    query: str
    body: Any
    moment: float
    headers: Mapping[str, str]


class Loopback:
    """Serves a folder while the context is open.

    ``faults[path]`` are used up one request at a time; None among them is a request that goes well.
    ``answers[path]`` makes JSON from the request instead of a file; ``delay`` seconds pass before every answer.
    """

    def __init__(self, folder: Path, delay: float = 0.0) -> None:
        self.folder, self.delay = folder, delay
        self.requests: list[Request] = []
        self.faults: dict[str, list[Fault | None]] = defaultdict(list)
        self.answers: dict[str, Callable[[Request], Any]] = {}
        self.closing = threading.Event()
        self._lock = threading.Lock()
        self._server = _Server(self)
        self.address = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()

    def url(self, path: str) -> str:
        """The address of a path below the folder."""
        return f"{self.address}/{path}"

    def count(self, path: str) -> int:
        """How often a path was asked for."""
        return sum(request.path == path for request in self.requests)

    def take(self, request: Request) -> Fault | None:
        """Note a request; what goes wrong with it."""
        with self._lock:
            self.requests.append(request)
            waiting = self.faults[request.path]
            return waiting.pop(0) if waiting else None


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, loopback: Loopback) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.loopback = loopback

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is no error here; what else goes wrong shows in the test."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # otherwise each answer waits 40 ms for an acknowledgment
    server: _Server

    def do_GET(self) -> None:
        loopback = self.server.loopback
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length)) if length else None
        parts = urlsplit(self.path)
        path = unquote(parts.path).lstrip("/")
        request = Request(self.command, path, parts.query, body, time.monotonic(), dict(self.headers))
        fault = loopback.take(request)
        time.sleep(loopback.delay)
        if fault and fault.drip is not None:
            self._drip(fault.drip)
        elif fault and not fault.cut:
            self._send(fault.status, b"no", fault.retry_after, location=fault.location)
        elif path in loopback.answers:
            self._send(200, json.dumps(loopback.answers[path](request)).encode(), cut=bool(fault))
        elif (loopback.folder / path).is_file():
            self._file(loopback.folder / path, cut=bool(fault))
        else:
            self._send(404, b"no such file")

    do_POST = do_HEAD = do_GET

    def _drip(self, pause: float) -> None:
        """Keep the connection open, byte by byte, until the client or the server ends."""
        self.close_connection = True
        if not pause:
            self.server.loopback.closing.wait()
            return
        self.send_response(200)
        self.send_header("Content-Length", "1000000")
        self.end_headers()
        while not self.server.loopback.closing.wait(pause):
            self.wfile.write(b" ")
            self.wfile.flush()

    def _file(self, path: Path, *, cut: bool) -> None:
        size, asked = path.stat().st_size, re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range") or "")
        if asked is None:
            return self._send(200, path.read_bytes(), cut=cut)
        if asked[1]:
            first, last = int(asked[1]), min(int(asked[2] or size), size - 1)
        else:  # the last so many bytes
            first, last = max(0, size - int(asked[2])), size - 1
        if first > last:
            return self._send(416, b"", content_range=f"bytes */{size}")
        with path.open("rb") as file:
            file.seek(first)
            content = file.read(last + 1 - first)
        return self._send(206, content, content_range=f"bytes {first}-{last}/{size}", cut=cut)

    def _send(
        self,
        status: int,
        content: bytes,
        retry_after: int | None = None,
        *,
        content_range: str | None = None,
        location: str | None = None,
        cut: bool = False,
    ) -> None:
        self.send_response(status)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(content)))
        if retry_after is not None:
            self.send_header("Retry-After", str(retry_after))
        if location:
            self.send_header("Location", location)
        if content_range:
            self.send_header("Content-Range", content_range)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content[: len(content) // 2] if cut else content)
        if cut:
            self.wfile.flush()
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:
        """Keep test output quiet."""
