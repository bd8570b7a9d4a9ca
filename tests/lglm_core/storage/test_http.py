"""Files on web servers, against a real one that is as bad as each test wants it."""

import base64
import csv
import io
import random
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from PIL import Image

from lglm_core import storage
from lglm_core.dataset.plan import make_plan
from lglm_core.dataset.shard_writer import write_shard
from lglm_core.errors import InputError, RunError
from lglm_core.labels.glove import glove_embeddings
from lglm_core.labels.vocabulary import LabelVocabulary
from lglm_core.sources.table import TableSource
from lglm_core.storage import retry as patience
from lglm_core.storage.http_client import _pool, connect
from lglm_core.storage.retry import RetryPolicy
from tests.servers.faulty import FaultyProxy, proxied
from tests.servers.process import free_ports
from tests.servers.web import Fate, Website, website

BODY = random.Random(0).randbytes(300_000)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(patience, "FIRST_DELAY_S", 0.01)  # else the tests wait most of their time
    connect.cache_clear()
    _pool.cache_clear()
    yield
    connect.cache_clear()
    _pool.cache_clear()


@pytest.fixture
def site() -> Iterator[Website]:
    with website({"/x": BODY, "/empty": b"", "/a b/ü%.jpg": b"named"}) as served:
        yield served


def refusal(action: object, *arguments: object, kind: type[Exception] = InputError) -> str:
    with pytest.raises(kind) as refused:
        action(*arguments)  # type: ignore[operator]
    assert type(refused.value) is kind
    assert "\n" not in str(refused.value)
    return str(refused.value)


# --- Reading ---


def test_a_file_is_read_whole_in_pieces_and_as_a_copy(site: Website):
    url = f"{site.url}/x"
    assert storage.is_file(url) and not storage.is_file(f"{site.url}/none")
    assert storage.read_bytes(url) == BODY
    with storage.open_stream(url) as stream:
        assert [stream.read(1), stream.read(200_000), stream.read()] == [
            BODY[:1],
            BODY[1:200_001],
            BODY[200_001:],
        ]
    with storage.local_copy(url) as path:
        assert path.read_bytes() == BODY
    assert not path.exists()
    assert storage.read_bytes(f"HTTP{url[4:]}") == BODY


@pytest.mark.parametrize("ranges", [True, False])
def test_a_range_ends_where_the_file_does(site: Website, ranges: bool):
    site.ranges = ranges
    for offset, size in ((0, 5), (10, 5), (299_998, 5), (0, 10**6), (300_000, 5), (10**6, 5), (7, 0)):
        assert storage.read_range(f"{site.url}/x", offset, size) == BODY[offset : offset + size]
    assert storage.read_range(f"{site.url}/empty", 0, 5) == b""


def test_an_empty_file_is_one(site: Website):
    assert storage.is_file(f"{site.url}/empty") and storage.read_bytes(f"{site.url}/empty") == b""


@pytest.mark.parametrize("path", ["/a b/ü%25.jpg", "/a%20b/%C3%BC%25.jpg"])
def test_an_address_may_be_written_as_people_write_it(site: Website, path: str):
    assert storage.read_bytes(f"{site.url}{path}?width=3#top") == b"named"
    assert site.seen[-1][1].endswith("?width=3")


@pytest.mark.parametrize("ranges", [True, False])
def test_where_heads_are_not_allowed_one_byte_is_asked_for(site: Website, ranges: bool):
    site.head, site.ranges = False, ranges
    assert storage.is_file(f"{site.url}/x") and not storage.is_file(f"{site.url}/none")
    assert storage.locate(f"{site.url}/x").stat().size == len(BODY)
    assert storage.is_file(f"{site.url}/empty")


def test_connections_are_used_again(site: Website, monkeypatch: pytest.MonkeyPatch):
    for _ in range(5):
        storage.read_bytes(f"{site.url}/x")
        storage.is_file(f"{site.url}/x")
    pool = connect(site.url).pool.connection_from_url(site.url)
    assert (pool.num_requests, pool.num_connections) == (10, 1)


def test_many_threads_read_over_a_bad_connection(site: Website):
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


# --- Bad days ---


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_a_server_that_fails_is_asked_again(site: Website, status: int):
    site.fates = [Fate(status)] * 3
    assert storage.read_bytes(f"{site.url}/x") == BODY
    assert len(site.seen) == 4


def test_a_server_that_asks_for_time_gets_it(site: Website):
    site.fates = [Fate(429, {"Retry-After": "1"})]
    started = time.monotonic()
    assert storage.read_bytes(f"{site.url}/x") == BODY
    assert 1 <= time.monotonic() - started < 3


def test_no_time_is_granted_beyond_patience(monkeypatch: pytest.MonkeyPatch):
    assert RetryPolicy().delay(1, time.monotonic(), at_least=10**6) == pytest.approx(10, abs=0.1)


@pytest.mark.parametrize("etags", [True, False])
def test_a_lost_connection_is_taken_up_where_it_broke_off(site: Website, etags: bool):
    site.etags = etags
    site.fates = [Fate(body_bytes=100_000), Fate(body_bytes=50_000)]
    assert storage.read_bytes(f"{site.url}/x") == BODY
    assert site.asked("Range") == [None, "bytes=100000-", "bytes=150000-"]


def test_a_lost_range_is_taken_up_within_it(site: Website):
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


def test_what_a_body_without_length_was_cut_to_is_not_taken_for_whole(site: Website):
    site.lengths = False
    message = refusal(storage.read_bytes, f"{site.url}/x", kind=storage.UnreadableFile)
    assert message == f"{site.url}/x: the web server does not tell which bytes it sends"


def test_a_silent_server_is_refused_after_the_first_patience(site: Website, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(patience, "READ_TIMEOUT_S", 0.1)
    monkeypatch.setattr(patience, "FIRST_PATIENCE_S", 0.2)
    site.fates = [Fate(delay_s=0.5)] * 5
    message = refusal(storage.read_bytes, f"{site.url}/x")
    assert message == (
        f"{site.url}/x: no web server answers at {site.url} (ReadTimeoutError); "
        "check the address and the network"
    )


def test_where_nothing_listens_it_is_the_address(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(patience, "FIRST_PATIENCE_S", 0.2)
    nowhere = f"http://127.0.0.1:{free_ports(1)[0]}"
    for read in (storage.is_file, storage.read_bytes, lambda url: storage.read_range(url, 0, 1)):
        message = refusal(read, f"{nowhere}/x")
        assert f"no web server answers at {nowhere} (NewConnectionError)" in message


def test_a_server_that_keeps_failing_fails_the_run(site: Website, monkeypatch: pytest.MonkeyPatch):
    assert storage.is_file(f"{site.url}/x")
    monkeypatch.setattr(patience, "PATIENCE_S", 0.2)
    site.fates = [Fate(503)] * 1000
    message = refusal(storage.read_bytes, f"{site.url}/x", kind=RunError)
    assert message == f"{site.url}/x: the web server at {site.url} fails or stopped answering (503)"


def test_also_in_the_middle_of_a_file(site: Website, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(patience, "PATIENCE_S", 0.2)
    site.fates = [Fate(body_bytes=10), *[Fate(body_bytes=0)] * 1000]
    message = refusal(storage.read_bytes, f"{site.url}/x", kind=RunError)
    assert "fails or stopped answering (" in message


# --- What is not to be had ---


@pytest.mark.parametrize(
    ("status", "words", "missing"),
    [
        (404, "has no such file (404 Not Found)", True),
        (410, "has no such file (410 Gone)", True),
        (401, "does not let us read it (401 Unauthorized)", False),
        (403, "does not let us read it (403 Forbidden)", False),
        (418, "gives no file, but answers 418", False),
    ],
)
def test_a_file_that_is_not_to_be_had_is_one_unreadable_file(
    site: Website, status: int, words: str, missing: bool
):
    for read in (storage.read_bytes, lambda url: storage.read_range(url, 3, 4)):
        site.fates = [Fate(status)]
        with pytest.raises(storage.UnreadableFile, match="the web server ") as refused:
            read(f"{site.url}/x")
        assert words in str(refused.value) and refused.value.missing == missing
    assert len(site.seen) == 2  # asked once each


@pytest.mark.parametrize("status", [401, 403])
def test_whether_a_forbidden_file_is_there_is_not_guessed(site: Website, status: int):
    site.fates = [Fate(status), Fate(status)]
    assert "does not let us read it" in refusal(storage.is_file, f"{site.url}/x", kind=storage.UnreadableFile)


@pytest.mark.parametrize("url", ["http://", "http:///x", "http://me:secr/et@host/x", "https://host:port/x"])
def test_what_is_no_web_address_is_refused_without_repeating_it(url: str):
    message = refusal(storage.read_bytes, url, kind=storage.UnreadableFile)
    assert message == f"{url.partition(':')[0]}://…: not a web address"


def test_a_web_server_is_only_read(site: Website):
    url = f"{site.url}/x"
    for write in (
        lambda: storage.write_bytes(url, b""),
        lambda: storage.create(url, b""),
        lambda: storage.remove(url),
        lambda: storage.remove_unfinished(url),
        lambda: storage.is_empty(url),
    ):
        assert refusal(write) == (
            f"{url}: archives and web servers are only read; name a folder on a disk or in a bucket"
        )
    assert "a web server lists no files" in refusal(storage.list_files, site.url)
    assert site.seen == []


def test_below_a_web_address_is_what_begins_with_it():
    assert storage.lies_within("http://host/a/b", "http://host/a")
    assert not storage.lies_within("http://host/ab", "http://host/a")
    assert not storage.lies_within("a/b", "http://host/a")


# --- Redirects, credentials, proxies ---


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


# --- What uses it ---


def jpeg(shade: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 8), (shade, 0, 0)).save(file, "JPEG")
    return file.getvalue()


def test_a_table_and_its_pictures_may_lie_on_web_servers(site: Website, tmp_path: Path):
    site.files |= {f"/p/{n}.jpg": jpeg(n) for n in range(3)}
    rows = [("0.jpg", "dog"), (f"{site.url}/p/1.jpg?sig=1", "cat"), ("gone.jpg", "")]
    text = io.StringIO()
    csv.writer(text).writerows([("image", "labels", "split"), *[(*row, "train") for row in rows]])
    site.files["/labels.csv"] = text.getvalue().encode()
    source = TableSource(f"{site.url}/labels.csv?sig=1", f"{site.url}/p")
    (shard,) = make_plan(source, 10).shards
    receipt = write_shard(shard, LabelVocabulary(source.labels()), str(tmp_path))
    assert len(receipt.index) == 2
    assert [(reject.status, reject.error) for reject in receipt.rejects] == [
        ("missing", "the web server has no such file (404 Not Found)")
    ]


def test_word_vectors_may_lie_on_a_web_server(site: Website):
    site.files["/glove.2d.txt"] = b"dog 1 2\ncat 3 4\n"
    labels = LabelVocabulary(["cat", "dog"])
    found = glove_embeddings(labels, f"{site.url}/glove.2d.txt?sig=secret")
    assert found.vectors.tolist() == [[3, 4], [1, 2]]
    site.files["/glove.2d.txt"] = b"dog 1 2\ncat 3\n"
    message = refusal(
        glove_embeddings, LabelVocabulary(["cat", "dog"]), f"{site.url}/glove.2d.txt?sig=secret"
    )
    assert message.startswith(f"{site.url}/glove.2d.txt, line 2: ")
