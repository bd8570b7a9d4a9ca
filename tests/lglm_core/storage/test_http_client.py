"""The connections to web servers: kept, retried, redirected, through proxies."""

import base64
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from types import SimpleNamespace

import pytest

from lglm_core import storage
from lglm_core.errors import RunError
from lglm_core.storage import http_client, retry
from lglm_core.storage.http_client import connect
from tests.lglm_core.storage.contract import BODY, refusal
from tests.servers.process import free_ports
from tests.servers.web import Fate, Website, website

pytestmark = pytest.mark.usefixtures("fresh_web")


def test_connections_are_used_again(site: Website, monkeypatch: pytest.MonkeyPatch):
    for _ in range(5):
        storage.read_bytes(f"{site.url}/x")
        storage.is_file(f"{site.url}/x")
    pool = connect(site.url).pool.connection_from_url(site.url)
    assert (pool.num_requests, pool.num_connections) == (10, 1)


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_a_server_that_fails_is_asked_again(site: Website, status: int):
    site.fates = [Fate(status)] * 3
    assert storage.read_bytes(f"{site.url}/x") == BODY
    assert len(site.seen) == 4


@pytest.mark.parametrize("told", ["seconds", "date"])
def test_a_server_that_asks_for_time_gets_it(site: Website, monkeypatch: pytest.MonkeyPatch, told: str):
    slept: list[float] = []
    monkeypatch.setattr(http_client, "time", SimpleNamespace(monotonic=time.monotonic, sleep=slept.append))
    later = datetime.now(UTC) + timedelta(seconds=60)
    asked = "5" if told == "seconds" else format_datetime(later, usegmt=True)
    site.fates = [Fate(429, {"Retry-After": asked})]
    assert storage.read_bytes(f"{site.url}/x") == BODY
    assert slept == ([5] if told == "seconds" else [pytest.approx(57, abs=3)])


def test_a_silent_server_is_refused_once_it_is_given_up(site: Website, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(retry, "READ_TIMEOUT_S", 0.1)
    monkeypatch.setattr(retry, "RETRY_FOR_UNANSWERED_S", 0.2)
    site.fates = [Fate(delay_s=0.5)] * 5
    message = refusal(storage.read_bytes, f"{site.url}/x")
    assert message == (
        f"{site.url}/x: no web server answers at {site.url} (ReadTimeoutError); "
        "check the address and the network"
    )


def test_an_address_where_no_web_server_listens_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(retry, "RETRY_FOR_UNANSWERED_S", 0.05)
    nowhere = f"http://127.0.0.1:{free_ports(1)[0]}"
    for read in (storage.is_file, storage.read_bytes, lambda url: storage.read_range(url, 0, 1)):
        message = refusal(read, f"{nowhere}/x")
        assert f"no web server answers at {nowhere} (NewConnectionError)" in message


def test_a_server_that_keeps_failing_fails_the_run(site: Website, monkeypatch: pytest.MonkeyPatch):
    assert storage.is_file(f"{site.url}/x")
    monkeypatch.setattr(retry, "RETRY_FOR_S", 0.2)
    site.fates = [Fate(503)] * 1000
    message = refusal(storage.read_bytes, f"{site.url}/x", kind=RunError)
    assert message == f"{site.url}/x: the web server at {site.url} fails or stopped answering (503)"


def test_redirects_are_followed_a_few_times(site: Website):
    site.redirects = {"/moved": "/again", "/again": f"{site.url}/x", "/round": "/round"}
    assert storage.is_file(f"{site.url}/moved") and storage.read_bytes(f"{site.url}/moved") == BODY
    message = refusal(storage.read_bytes, f"{site.url}/round", kind=storage.UnreadableFile)
    assert message == f"{site.url}/round: redirected more than 5 times"
    for target in ("ftp://host/x", "file:///etc/passwd", "http://[bad"):
        site.redirects["/off"] = target
        message = refusal(storage.read_bytes, f"{site.url}/off", kind=storage.UnreadableFile)
        assert message == f"{site.url}/off: leads to what is no web address"


def test_a_password_is_sent_but_to_no_other_server_and_never_shown(site: Website):
    site.password = f"Basic {base64.b64encode(b'me:se@cret').decode()}"
    address = site.url.replace("://", "://me:se%40cret@")
    assert storage.read_bytes(f"{address}/x?sig=secret") == BODY
    message = refusal(storage.read_bytes, f"{address}/none?sig=secret", kind=storage.UnreadableFile)
    assert message.startswith(f"{site.url}/none: ") and "cret" not in message
    assert "cret" not in refusal(storage.read_parquet, f"{address}/x?sig=secret")
    with website({"/x": BODY}) as other:
        site.redirects["/other"] = f"{other.url}/x"
        assert storage.read_bytes(f"{address}/other") == BODY
        assert other.asked("Authorization") == [None]


def test_a_proxy_is_used_if_one_is_set(site: Website, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("http_proxy", site.url.replace("://", "://me:secret@"))
    assert storage.read_bytes("http://no-such-host.invalid/x") == BODY
    assert site.seen[-1][1] == "http://no-such-host.invalid/x"
    assert site.asked("Proxy-Authorization") == [f"Basic {base64.b64encode(b'me:secret').decode()}"]
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    assert storage.read_bytes(f"{site.url}/x") == BODY
    assert site.seen[-1][1] == "/x"
