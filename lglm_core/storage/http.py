"""Files on web servers, ``http://`` and ``https://``: read only, and without folders."""

import re
import sys
from io import BufferedReader
from typing import Any
from urllib.parse import unquote

from urllib3 import BaseHTTPResponse
from urllib3.exceptions import LocationParseError
from urllib3.util import Url, make_headers, parse_url

from lglm_core.errors import InputError
from lglm_core.storage.http_client import TRANSIENT, WebServer, connect, discard
from lglm_core.storage.location import Location, ReadOnly, StoredFile, UnreadableFile, exists
from lglm_core.storage.resuming import CHUNK, Download
from lglm_core.storage.url import redact_url

OK, PART, NO_SUCH_PART = 200, 206, 416
MISSING = {404, 410}
FORBIDDEN = {401, 403}
HEAD_REFUSED = {400, *FORBIDDEN, 405, 501}  # a signed address may be valid for GET alone


class HttpLocation(ReadOnly):
    """The file at a web address; only its server gets to see the user and password in the address."""

    def __init__(self, url: str) -> None:
        self.url = redact_url(url)
        self.address = _parsed(url)
        self.server: WebServer = connect(f"{self.address.scheme}://{self.address.netloc}")

    def is_file(self) -> bool:
        """Tell whether the server has a file at this address."""
        return exists(self)

    def stat(self) -> StoredFile:
        """Return name, size and ETag, by a HEAD request; the size is -1 if the server does not tell it."""
        answer = self.ask("HEAD")
        if answer.status in HEAD_REFUSED or (answer.status == OK and _length(answer) is None):
            discard(answer)
            answer = self.ask("GET", Range="bytes=0-0")
        discard(answer)
        if answer.status == NO_SUCH_PART:  # not even one byte
            return StoredFile(self.url.rpartition("/")[2], 0, "")
        if answer.status not in (OK, PART):
            raise self.refusal(answer)
        size = _total(answer) if answer.status == PART else _length(answer)
        return StoredFile(self.url.rpartition("/")[2], -1 if size is None else size, _etag(answer))

    def is_folder(self) -> bool:
        """Return True: a web server does not tell, and a missing file below is found when it is read."""
        return True

    def lies_within(self, other: Location) -> bool:
        """Tell whether this is *other* or lies below it."""
        return isinstance(other, HttpLocation) and f"{self.url}/".startswith(f"{other.url.rstrip('/')}/")

    def open(self) -> BufferedReader:
        """Open the file for reading from its start to its end."""
        return BufferedReader(_Download(self, 0, None), CHUNK)

    def read_range(self, offset: int, size: int) -> bytes:
        """Read *size* bytes from *offset*; a server without ranges sends all bytes before them, too."""
        if size <= 0:
            return b""
        with _Download(self, offset, offset + size) as download:
            return download.readall()

    def list_files(self) -> list[StoredFile]:
        """Refuse: a web server does not list its files."""
        raise InputError(
            f"{self.url}: a web server lists no files; name a .zip or .tar on it, "
            "a table of addresses, or a folder on a disk or in a bucket"
        )

    def ask(self, method: str, **headers: str) -> BaseHTTPResponse:
        """Send a request, with retries, and return the answer before its body is read."""
        if self.address.auth:
            headers |= make_headers(basic_auth=unquote(self.address.auth))
        url = self.address._replace(auth=None, fragment=None).url
        return self.server.request(method, url, headers, shown_as=self.url)

    def refusal(self, answer: BaseHTTPResponse) -> UnreadableFile:
        """Return the exception to raise for an answer that brings no file."""
        discard(answer)
        status = f"{answer.status} {answer.reason or ''}".strip()
        if answer.status in MISSING:
            return UnreadableFile(f"{self.url}: the web server has no such file ({status})", missing=True)
        if answer.status in FORBIDDEN:
            return UnreadableFile(f"{self.url}: the web server does not let us read it ({status})")
        return UnreadableFile(f"{self.url}: the web server gives no file, but answers {status}")


class _Download(Download):
    """The bytes of a file; if a server ignores ranges and sends all, the unwanted bytes are skipped."""

    _transient = TRANSIENT

    def __init__(self, location: HttpLocation, start: int, stop: int | None) -> None:
        self._location = location
        self._unwanted = 0  # bytes that still come before the wanted ones
        super().__init__(location.url, location.server.retry_policy, start, stop)

    def _given_up(self, error: Exception) -> Exception:
        return self._location.server.gave_up(self._url, type(error).__name__)

    def _read(self, most: int) -> bytes:
        while self._unwanted:
            data = super()._read(min(self._unwanted, CHUNK))
            if not data:
                return b""
            self._unwanted -= len(data)
        return super()._read(most)

    def _request(self) -> None:
        answer = self._location.ask("GET", **self._wanted())
        self._body, self._end = answer, self._position
        if answer.status == NO_SUCH_PART:  # the range begins behind the file's end
            if self._version is not None:  # but the file was longer before
                raise self._replaced()
            return
        if answer.status not in (OK, PART):
            raise self._location.refusal(answer)
        begins = _beginning(answer) if answer.status == PART else 0
        total = _total(answer) if answer.status == PART else _length(answer)
        self._check_version((_etag(answer), total))
        if begins is None or begins > self._position or (total is None and not _ends_visibly(answer)):
            answer.close()
            raise UnreadableFile(f"{self._url}: the web server does not tell which bytes it sends")
        self._unwanted = self._position - begins
        self._end = min(end for end in (total, self._stop, sys.maxsize) if end is not None)

    def _wanted(self) -> dict[str, str]:
        if not self._position and self._stop is None:
            return {}
        last = "" if self._stop is None else self._stop - 1
        headers = {"Range": f"bytes={self._position}-{last}"}
        if isinstance(self._version, tuple) and self._version[0].startswith('"'):  # not a weak ETag
            headers["If-Range"] = self._version[0]
        return headers


def _parsed(url: str) -> Url:
    try:
        address = parse_url(url)
    except LocationParseError:
        address = Url()
    if not address.host:  # the message does not repeat it: any part of it may be a secret
        raise UnreadableFile(f"{url.partition('://')[0]}://…: not a web address")
    return address


def _etag(answer: BaseHTTPResponse) -> str:
    return answer.headers.get("ETag") or answer.headers.get("Last-Modified") or ""


def _length(answer: BaseHTTPResponse) -> int | None:
    told = answer.headers.get("Content-Length", "")
    return int(told) if told.isdecimal() else None


def _ends_visibly(answer: Any) -> bool:
    """Tell whether a body of unknown length that ends differs from one that broke off."""
    return bool(answer.chunked)


def _content_range(answer: BaseHTTPResponse) -> re.Match[str] | None:
    return re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", answer.headers.get("Content-Range", "").strip())


def _beginning(answer: BaseHTTPResponse) -> int | None:
    found = _content_range(answer)
    return int(found[1]) if found else None


def _total(answer: BaseHTTPResponse) -> int | None:
    found = _content_range(answer)
    return int(found[2]) if found and found[2].isdecimal() else None
