"""Downloads over connections that break are taken up where they stopped."""

import random
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from lglm_core import storage
from lglm_core.errors import RunError
from lglm_core.storage import retry
from tests.lglm_core.storage.contract import BODY, refusal
from tests.servers.faulty import FaultyProxy, proxied
from tests.servers.s3 import S3Server, faulty
from tests.servers.web import Fate, Website

MB = 1 << 20
Connect = Callable[..., None]


# --- From S3 ---


@pytest.fixture
def broken_off(server: S3Server, folder: str, connect_to: Connect) -> Iterator[tuple[str, bytes, Any]]:
    """An object of 4 MiB; the first six answers break off in the middle of the bytes that are left."""
    body = random.Random(1).randbytes(4 * MB)
    storage.write_bytes(f"{folder}/x", body)
    with faulty(server, share=0.5, seed=7, kinds=("drop_body",)) as bad:
        connect_to(bad)
        yield f"{folder}/x", body, bad


def test_a_stream_that_breaks_off_resumes(broken_off: tuple[str, bytes, Any]):
    url, body, bad = broken_off
    with storage.open_stream(url) as stream:
        assert stream.read() == body
    assert (bad.requests, bad.faults) == (7, 6)


def test_a_range_that_breaks_off_resumes(broken_off: tuple[str, bytes, Any]):
    url, body, bad = broken_off
    assert storage.read_range(url, 12_345, 3 * MB) == body[12_345 : 12_345 + 3 * MB]
    assert (bad.requests, bad.faults) == (7, 6)


def test_a_download_resumes_where_it_stopped(server: S3Server, folder: str, connect_to: Connect):
    """Every answer brings half of the missing bytes, so nine tenths have arrived after the fourth."""
    body = random.Random(1).randbytes(4 * MB)
    storage.write_bytes(f"{folder}/x", body)
    with faulty(server, share=1, kinds=("drop_body",)) as bad:
        connect_to(bad)
        with storage.open_stream(f"{folder}/x") as stream:
            assert stream.read(len(body) * 9 // 10) == body[: len(body) * 9 // 10]
        assert bad.requests == 4


def test_a_copy_over_a_connection_that_breaks_is_whole(broken_off: tuple[str, bytes, Any]):
    url, body, bad = broken_off
    with storage.local_copy(url) as path:
        assert path.read_bytes() == body
    assert bad.faults == 6


def test_an_object_that_is_replaced_while_it_is_read_fails_the_run(
    server: S3Server, folder: str, connect_to: Connect
):
    storage.write_bytes(f"{folder}/x", random.Random(3).randbytes(4 * MB))
    with faulty(server, share=1, kinds=("drop_body",)) as bad:
        connect_to(bad)
        with storage.open_stream(f"{folder}/x") as stream:
            stream.read(1)
            storage.write_bytes(f"{folder}/x", random.Random(4).randbytes(4 * MB))
            message = refusal(stream.read, kind=RunError)
    assert message == f"{folder}/x: was replaced while it was read; run the same command again"


def test_an_object_that_is_replaced_by_a_shorter_one_while_it_is_read_fails_the_run(
    server: S3Server, folder: str, connect_to: Connect
):
    storage.write_bytes(f"{folder}/x", random.Random(3).randbytes(4 * MB))
    with faulty(server, share=0.5, seed=9, kinds=("drop_body",)) as bad:
        connect_to(bad)
        with storage.open_stream(f"{folder}/x") as stream:
            stream.read(1)
            storage.write_bytes(f"{folder}/x", b"short")
            assert "was replaced while it was read" in refusal(stream.read, kind=RunError)


def test_an_object_that_is_deleted_while_it_is_read_is_unreadable(
    server: S3Server, folder: str, connect_to: Connect
):
    storage.write_bytes(f"{folder}/x", random.Random(3).randbytes(4 * MB))
    with faulty(server, share=0.5, seed=9, kinds=("drop_body",)) as bad:  # the first answer, then none
        connect_to(bad)
        with storage.open_stream(f"{folder}/x") as stream:
            stream.read(1)
            server.client().delete_object(Bucket="bucket", Key=f"{folder.rpartition('/')[2]}/x")
            assert "no such object" in refusal(stream.read, kind=storage.UnreadableFile)


def test_an_s3_server_that_stops_in_the_middle_fails_the_run(
    moto_folder: str, moto: S3Server, connect_to: Connect, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(retry, "RETRY_FOR_S", 0.2)
    storage.write_bytes(f"{moto_folder}/x", random.Random(5).randbytes(4 * MB))
    with faulty(moto, share=1, kinds=("drop_body",)) as going:
        connect_to(going)
        stream = storage.open_stream(f"{moto_folder}/x")
        stream.read(1)
    with stream:
        message = refusal(stream.read, kind=RunError)
    assert "stopped answering" in message


# --- From a web server ---


def test_many_threads_read_from_a_web_server_over_a_bad_connection(site: Website):
    site.files |= {f"/{n}": random.Random(n).randbytes(20_000) for n in range(100)}
    with proxied(
        FaultyProxy(
            "127.0.0.1", int(site.url.rpartition(":")[2]), 0.3, 0, ("503", "drop_request", "drop_body")
        )
    ) as proxy:
        urls = [f"http://127.0.0.1:{proxy.port}/{n}" for n in range(100)]
        with ThreadPoolExecutor(16) as pool:
            assert list(pool.map(storage.read_bytes, urls)) == [site.files[f"/{n}"] for n in range(100)]
    assert proxy.faults.total() > 20


@pytest.mark.parametrize("etags", [True, False])
def test_a_lost_connection_to_a_web_server_resumes_where_it_broke_off(site: Website, etags: bool):
    site.etags = etags
    site.fates = [Fate(body_bytes=100_000), Fate(body_bytes=50_000)]
    assert storage.read_bytes(f"{site.url}/x") == BODY
    assert site.asked("Range") == [None, "bytes=100000-", "bytes=150000-"]


def test_a_range_from_a_web_server_resumes_after_a_lost_connection(site: Website):
    site.fates = [Fate(body_bytes=10)]
    assert storage.read_range(f"{site.url}/x", 1000, 50) == BODY[1000:1050]
    assert site.asked("Range") == ["bytes=1000-1049", "bytes=1010-1049"]


@pytest.mark.parametrize("chunked", [True, False])
def test_a_server_without_ranges_sends_it_all_again(site: Website, chunked: bool):
    site.ranges, site.chunked = False, chunked
    site.fates = [Fate(body_bytes=100_000)] * 3
    assert storage.read_bytes(f"{site.url}/x") == BODY
    assert len(site.seen) == 4


@pytest.mark.parametrize(("etags", "ranges"), [(True, True), (True, False), (False, True)])
def test_a_file_that_is_replaced_while_it_is_read_fails_the_run(site: Website, etags: bool, ranges: bool):
    site.etags, site.ranges = etags, ranges
    site.fates = [Fate(body_bytes=100_000)]
    with storage.open_stream(f"{site.url}/x") as stream:
        stream.read(1)
        site.files["/x"] = BODY + b"more"
        assert "was replaced while it was read" in refusal(stream.read, kind=RunError)


def test_a_web_server_that_stops_in_the_middle_fails_the_run(site: Website, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(retry, "RETRY_FOR_S", 0.2)
    site.fates = [Fate(body_bytes=10), *[Fate(body_bytes=0)] * 1000]
    message = refusal(storage.read_bytes, f"{site.url}/x", kind=RunError)
    assert "fails or stopped answering (" in message
