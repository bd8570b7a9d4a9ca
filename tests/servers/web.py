"""A web server with files in memory, as good or as bad as a test wants it."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.message import Message
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit


@dataclass
class Fate:
    """What becomes of one request in place of its answer."""

    status: int = 0
    """Answered with this status, and no body; 0: as usual, but for what is said below."""
    headers: dict[str, str] = field(default_factory=dict)
    body_bytes: int | None = None
    """So much of the body is sent, then the connection is closed."""
    delay_s: float = 0.0


@dataclass
class Website:
    """``files`` by path, and how they are served; ``seen`` are the requests so far."""

    files: dict[str, bytes]
    url: str = ""
    ranges: bool = True
    head: bool = True
    etags: bool = True
    chunked: bool = False
    lengths: bool = True
    password: str | None = None
    """What stands in the header Authorization, else the answer is 401."""
    fates: list[Fate] = field(default_factory=list)
    """Of the requests that come next, one each."""
    redirects: dict[str, str] = field(default_factory=dict)
    seen: list[tuple[str, str, Message]] = field(default_factory=list)

    def asked(self, name: str) -> list[str | None]:
        """One header of every request so far."""
        return [headers.get(name) for _, _, headers in self.seen]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # otherwise every body waits 40 ms for the client to acknowledge the head
    site: Website

    def do_GET(self) -> None:
        site = self.site
        site.seen.append((self.command, self.path, self.headers))
        path = unquote(urlsplit(self.path).path)
        fate = site.fates.pop(0) if site.fates else Fate()
        time.sleep(fate.delay_s)
        if path in site.redirects:
            fate = Fate(302, {"Location": site.redirects[path]})
        elif site.password and self.headers.get("Authorization") != site.password:
            fate = Fate(401)
        elif self.command == "HEAD" and not site.head:
            fate = Fate(405)
        elif not fate.status and path not in site.files:
            fate = Fate(404)
        if fate.status:
            self._head(fate.status, {"Content-Length": "0", **fate.headers})
        else:
            self._file(site.files[path], fate)

    do_HEAD = do_GET  # noqa: N815 - http.server's name

    def _file(self, data: bytes, fate: Fate) -> None:
        etag = f'"{sha256(data).hexdigest()[:16]}"'
        status, headers = 200, {"ETag": etag} if self.site.etags else {}
        wanted = self.headers.get("Range") if self.headers.get("If-Range", etag) == etag else None
        if wanted and self.site.ranges:
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            start, stop = int(first), min(int(last or len(data)) + 1, len(data))
            if start >= len(data):
                self._head(416, {"Content-Length": "0", "Content-Range": f"bytes */{len(data)}"})
                return
            status = 206
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(data)}"
            data = data[start:stop]
        if self.site.chunked and status == 200:
            headers["Transfer-Encoding"] = "chunked"
            data = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in _pieces(data)) + b"0\r\n\r\n"
        elif self.site.lengths:
            headers["Content-Length"] = str(len(data))
        else:
            headers["Connection"] = "close"
        self._head(status, headers)
        if self.command == "GET":
            self.wfile.write(data[: fate.body_bytes])
            self.close_connection |= fate.body_bytes is not None or not self.site.lengths

    def _head(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


class _Server(ThreadingHTTPServer):
    def handle_error(self, *_: object) -> None:
        """Say nothing: a client may go when it has what it wants."""


def _pieces(data: bytes, size: int = 1000) -> Iterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


@contextmanager
def website(files: dict[str, bytes] | None = None) -> Iterator[Website]:
    """Serve *files* by their paths, such as ``/a.jpg``, from a thread of its own."""
    site = Website(files or {})
    handler = type("Handler", (_Handler,), {"site": site})
    with _Server(("127.0.0.1", 0), handler) as server:
        site.url = f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        try:
            yield site
        finally:
            server.shutdown()
