"""Storage in buckets, against real servers: rclone checks signatures, moto keeps to conditions."""

import gzip
import io
import itertools
import os
import random
import socket
import tempfile
import threading
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cache, partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import botocore.session
import pyarrow as pa
import pytest
from botocore import exceptions as boto
from botocore.awsrequest import AWSRequest, AWSResponse

from lglm_core import rooms, storage
from lglm_core.errors import InputError, RunError
from lglm_core.rooms.manifest import Manifest, Provenance
from lglm_core.storage import compressed as unpacked
from lglm_core.storage import retry as policy
from lglm_core.storage import s3_client
from lglm_core.storage.s3_client import S3Patience, connect
from tests.servers.process import free_ports
from tests.servers.s3 import S3Server, faulty, moto_s3, rclone_s3

BUCKET = "bucket"
MB = 1 << 20
Connect = Callable[..., None]
numbers = itertools.count()
shared_loader = cache(botocore.session.create_loader)  # reads what S3 is once, not once for each client


@pytest.fixture(scope="module")
def rclone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with rclone_s3(tmp_path_factory.mktemp("rclone")) as server:
        server.put_bucket(BUCKET)
        yield server


@pytest.fixture(scope="module")
def moto() -> Iterator[S3Server]:
    with moto_s3() as server:
        server.put_bucket(BUCKET)
        yield server


@pytest.fixture
def connected(monkeypatch: pytest.MonkeyPatch) -> Iterator[Connect]:
    """Reach a server as a user does: ``connected(server, AWS_…="changed")``; None takes a name away."""

    def to(server: S3Server, **changed: str | None) -> None:
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            monkeypatch.delenv(name)
        for name, value in {**server.environment, **changed}.items():
            if value is not None:
                monkeypatch.setenv(name, value)
        connect.cache_clear()

    monkeypatch.setattr(policy, "FIRST_DELAY_S", 0.01)  # else the tests wait most of their time
    monkeypatch.setattr(botocore.session, "create_loader", shared_loader)
    yield to
    connect.cache_clear()


@pytest.fixture(params=["rclone", "moto"])
def server(request: pytest.FixtureRequest, connected: Connect) -> S3Server:
    """Each of both servers in turn, and this process connected to it."""
    found: S3Server = request.getfixturevalue(request.param)
    connected(found)
    return found


@pytest.fixture
def folder(server: S3Server) -> str:
    """A prefix of its own on each of both servers."""
    return f"s3://{BUCKET}/{next(numbers)}"


@pytest.fixture
def moto_folder(moto: S3Server, connected: Connect) -> str:
    """A prefix of its own on moto."""
    connected(moto)
    return f"s3://{BUCKET}/{next(numbers)}"


@pytest.fixture
def rclone_folder(rclone: S3Server, connected: Connect) -> str:
    """A prefix of its own on rclone."""
    connected(rclone)
    return f"s3://{BUCKET}/{next(numbers)}"


OPERATIONS: Mapping[str, Callable[[str], object]] = {
    "is_file": storage.is_file,
    "is_folder": storage.is_folder,
    "read_bytes": storage.read_bytes,
    "read_range": lambda url: storage.read_range(url, 1, 2),
    "list_files": storage.list_files,
    "write_bytes": lambda url: storage.write_bytes(url, b"word"),
    "create": lambda url: storage.create(url, b"word"),
    "remove": storage.remove,
}


def refusal(action: Callable[..., object], *arguments: object, kind: type[Exception] = InputError) -> str:
    """The message of exactly this kind of error: one line, and nothing secret in it."""
    with pytest.raises(kind) as refused:
        action(*arguments)
    assert type(refused.value) is kind
    message = str(refused.value)
    assert "\n" not in message
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        assert name not in os.environ or os.environ[name] not in message
    return message


def names(folder: str) -> list[str]:
    return [file.name for file in storage.list_files(folder)]


# --- Writing and reading ---


KEYS = (
    *(
        "x",
        "a b",
        "a?b",
        "a#b",
        "a%b",
        "a%20b",
        "a+b",
        "a&b=c",
        "ü",
        "e\u0301",
        "😀",
        "a..b",
        "#",
        "'\"<>*:\\",
    ),
    *("deep/er/x", " y "),
)
KEYS_OF_MOTO = ("..", "../x", "x/../y", "x/./y", "x//y", "/x", "x/")


def test_what_was_written_is_read_listed_and_removed_whatever_its_key(folder: str):
    for key in KEYS:
        storage.write_bytes(storage.join(folder, key), key.encode())
    assert names(folder) == sorted(KEYS)
    for number, key in enumerate(KEYS):
        url = storage.join(folder, key)
        assert storage.is_file(url)
        assert storage.read_bytes(url) == key.encode()
        storage.remove(url)
        assert not storage.is_file(url)
        assert storage.is_empty(folder) or names(folder) == sorted(KEYS[number + 1 :])
    assert storage.is_empty(folder)


def test_a_key_is_no_path_and_nothing_in_it_is_resolved(moto_folder: str, moto: S3Server):
    for key in KEYS_OF_MOTO:
        storage.write_bytes(f"{moto_folder}/{key}", key.encode())
    prefix = f"{moto_folder.removeprefix(f's3://{BUCKET}/')}/"
    found = moto.client().list_objects_v2(Bucket=BUCKET, Prefix=prefix)["Contents"]
    assert [entry["Key"].removeprefix(prefix) for entry in found] == sorted(KEYS_OF_MOTO)
    assert names(moto_folder) == sorted(KEYS_OF_MOTO)
    for key in KEYS_OF_MOTO:
        assert storage.read_bytes(f"{moto_folder}/{key}") == key.encode()


def test_a_key_that_the_server_does_not_take_is_refused_in_its_words(rclone_folder: str):
    for url in (f"{rclone_folder}/../x", f"{rclone_folder}/x//y"):
        message = refusal(storage.write_bytes, url, b"")
        assert message.startswith(f"{url}: the S3 server at http://127.0.0.1:")
        assert "refuses PutObject (InvalidArgument: Object name contains unsupported characters" in message


def test_what_is_written_again_is_replaced(folder: str):
    storage.write_bytes(f"{folder}/x", b"old and long")
    storage.write_bytes(f"{folder}/x", b"new")
    assert storage.read_bytes(f"{folder}/x") == b"new"


def test_a_range_ends_where_the_object_does(folder: str):
    body = bytes(range(100))
    storage.write_bytes(f"{folder}/x", body)
    for offset, size in ((0, 5), (10, 5), (98, 5), (0, 1000), (99, 1), (100, 5), (1000, 5), (10, 0)):
        assert storage.read_range(f"{folder}/x", offset, size) == body[offset : offset + size]


def test_an_empty_object_is_a_file_without_content(folder: str):
    storage.write_bytes(f"{folder}/x", b"")
    assert storage.is_file(f"{folder}/x")
    assert storage.read_bytes(f"{folder}/x") == b""
    assert storage.read_range(f"{folder}/x", 0, 5) == storage.read_range(f"{folder}/x", 3, 5) == b""
    assert [file.size for file in storage.list_files(folder)] == [0]


def test_a_stream_is_read_piece_by_piece(folder: str):
    body = random.Random(0).randbytes(3 * MB)
    storage.write_bytes(f"{folder}/x", body)
    with storage.open_stream(f"{folder}/x") as stream:
        pieces = [stream.read(1), stream.read(2 * MB), stream.read(), stream.read(5)]
    assert pieces == [body[:1], body[1 : 2 * MB + 1], body[2 * MB + 1 :], b""]


def test_a_file_in_several_parts_comes_back_byte_for_byte(server: S3Server, folder: str, connected: Connect):
    body = random.Random(0).randbytes(20 * MB + 1)
    with faulty(server, share=0) as counting:
        connected(counting)
        storage.write_bytes(f"{folder}/x", body)
        assert counting.requests == 5  # it is begun, three parts of 8 MiB at most are put, it is completed
        assert storage.read_bytes(f"{folder}/x") == body
        assert storage.read_range(f"{folder}/x", 8 * MB - 2, 4) == body[8 * MB - 2 : 8 * MB + 2]


def test_the_digest_of_an_object_is_that_of_its_bytes(folder: str):
    storage.write_bytes(f"{folder}/x", b"abc")
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-2, B.1
    assert storage.sha256(f"{folder}/x") == expected


def test_a_local_copy_lives_as_long_as_its_block(folder: str):
    body = random.Random(0).randbytes(2 * MB)
    storage.write_bytes(f"{folder}/x", body)
    with storage.local_copy(f"{folder}/x") as path:
        assert path.read_bytes() == body
    assert not path.parent.exists()


def test_tables_come_back(folder: str):
    table = pa.table({"key": ["a", "b"], "labels": [[1], []]})
    storage.write_parquet(f"{folder}/x.parquet", table)
    assert storage.read_parquet(f"{folder}/x.parquet").equals(table)
    assert storage.read_parquet(f"{folder}/x.parquet", ["key"]).column_names == ["key"]


def test_a_table_that_is_none_is_refused_by_name(folder: str):
    storage.write_bytes(f"{folder}/x.parquet", b"PAR1 but no more")
    message = refusal(storage.read_parquet, f"{folder}/x.parquet")
    assert message.startswith(f"{folder}/x.parquet: not a readable Parquet file")


def test_a_block_that_raises_publishes_nothing_and_leaves_what_was_there(folder: str):
    storage.write_bytes(f"{folder}/old", b"old")
    for name in ("old", "new"):
        with pytest.raises(RuntimeError), storage.write_whole(f"{folder}/{name}") as staged:
            staged.write_bytes(b"half")
            raise RuntimeError
    assert names(folder) == ["old"]
    assert storage.read_bytes(f"{folder}/old") == b"old"
    assert not staged.parent.exists()


def test_nothing_is_there_under_its_name_before_it_is_whole(folder: str):
    with storage.write_whole(f"{folder}/x") as staged:
        staged.write_bytes(b"all")
        assert not storage.is_file(f"{folder}/x")
    assert storage.read_bytes(f"{folder}/x") == b"all"


# --- Folders ---


def test_a_file_is_no_folder_and_a_folder_no_file(folder: str):
    storage.write_bytes(f"{folder}/room/x", b"")
    assert storage.is_file(f"{folder}/room/x") and not storage.is_folder(f"{folder}/room/x")
    assert storage.is_folder(f"{folder}/room") and not storage.is_file(f"{folder}/room")
    assert storage.is_folder(f"{folder}/room/") and storage.is_folder(f"s3://{BUCKET}")
    assert not storage.is_file(f"s3://{BUCKET}")


def test_a_folder_whose_name_begins_alike_is_another(folder: str):
    storage.write_bytes(f"{folder}/room-2/x", b"")
    storage.write_bytes(f"{folder}/room.json", b"")
    assert storage.is_empty(f"{folder}/room") and not storage.is_folder(f"{folder}/room")
    storage.write_bytes(f"{folder}/room/y", b"")
    assert names(f"{folder}/room") == ["y"]
    storage.remove(f"{folder}/room")
    assert names(folder) == ["room-2/x", "room.json"]


def test_files_are_listed_at_any_depth_by_name_with_size_and_etag(folder: str):
    for name in ("b.txt", "a/z.txt", "a/b/c.txt"):
        storage.write_bytes(f"{folder}/{name}", name.encode())
    found = storage.list_files(folder)
    assert [(file.name, file.size) for file in found] == [("a/b/c.txt", 9), ("a/z.txt", 7), ("b.txt", 5)]
    assert storage.list_files(folder) == storage.list_files(f"{folder}/") == found
    storage.write_bytes(f"{folder}/b.txt", b"other")
    assert [one.etag == two.etag for one, two in zip(found, storage.list_files(folder), strict=True)] == [
        *(True, True),
        False,
    ]


def test_a_missing_folder_is_not_an_empty_one(folder: str):
    assert "no such folder" in refusal(storage.list_files, f"{folder}/none")
    assert storage.is_empty(f"{folder}/none")


def test_removing_takes_files_folders_and_nothing(folder: str):
    for name in ("keep", "x", "room/y", "room/deep/z"):
        storage.write_bytes(f"{folder}/{name}", b"")
    for name in ("x", "room", "none"):
        storage.remove(f"{folder}/{name}")
    assert names(folder) == ["keep"]


def test_a_folder_of_several_pages_is_listed_in_order_and_removed(moto_folder: str, moto: S3Server):
    expected = [f"{number % 7}/{number:04d}" for number in range(1005)]  # a page holds 1,000
    prefix, client = moto_folder.rpartition("/")[2], moto.client()
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda name: client.put_object(Bucket=BUCKET, Key=f"{prefix}/{name}"), expected))
    client.put_object(Bucket=BUCKET, Key=f"{prefix}-2/x")
    assert names(moto_folder) == sorted(expected)
    storage.remove(moto_folder)
    assert storage.is_empty(moto_folder)
    assert names(f"{moto_folder}-2") == ["x"]


def test_what_lies_within_a_folder(moto: S3Server, connected: Connect):
    connected(moto)
    for url, folder, expected in (
        ("s3://b/images/tags", "s3://b/images", True),
        ("s3://b/images", "s3://b/images/", True),
        ("s3://b/images/", "s3://b/images", True),
        ("s3://b/images", "s3://b", True),
        ("s3://b", "s3://b/", True),
        ("s3://b/images-2", "s3://b/images", False),
        ("s3://b/images", "s3://b/images/tags", False),
        ("s3://b-2/images", "s3://b/images", False),
        ("images/tags", "s3://b/images", False),
        ("s3://b/images/tags", "images", False),
    ):
        assert storage.lies_within(url, folder) == expected, (url, folder)


# --- Creating what must not be there ---


def test_what_is_there_already_is_not_replaced_but_returned(moto_folder: str):
    assert storage.create(f"{moto_folder}/x", b"first") == b"first"
    assert storage.create(f"{moto_folder}/x", b"second") == b"first"
    assert storage.read_bytes(f"{moto_folder}/x") == b"first"


def test_a_store_that_ignores_conditions_lets_the_last_writer_win_and_says_so(rclone_folder: str):
    storage.create(f"{rclone_folder}/x", b"first")
    assert storage.create(f"{rclone_folder}/x", b"second") == b"second"
    assert storage.read_bytes(f"{rclone_folder}/x") == b"second"


def create_at_once(url: str, writers: int = 6) -> set[bytes]:
    """Let several writers create one object together; what they were told stands there."""
    together = threading.Barrier(writers)

    def create(number: int) -> bytes:
        together.wait()
        return storage.create(url, b"%d" % number)

    with ThreadPoolExecutor(writers) as pool:
        return set(pool.map(create, range(writers)))


def test_of_many_writers_at_once_one_wins_and_all_are_told(moto_folder: str):
    for attempt in range(3):
        told = create_at_once(f"{moto_folder}/{attempt}")
        assert told == {storage.read_bytes(f"{moto_folder}/{attempt}")}


def test_also_when_answers_are_lost(moto_folder: str, moto: S3Server, connected: Connect):
    with faulty(moto, share=0.5, seed=11, kinds=("drop_request",)) as bad:
        connected(bad)
        told = create_at_once(f"{moto_folder}/x")
    connected(moto)
    assert told == {storage.read_bytes(f"{moto_folder}/x")}
    assert bad.proxy.faults["drop_after"] > 0


def test_who_lost_the_answer_to_the_first_put_still_learns_that_it_won(
    moto_folder: str, moto: S3Server, connected: Connect
):
    # With this seed the first request is done but not answered, and the next three are.
    with faulty(moto, share=0.5, seed=14, kinds=("drop_request",)) as bad:
        connected(bad)
        assert storage.create(f"{moto_folder}/x", b"mine") == b"mine"
        assert bad.proxy.faults == Counter(drop_after=1)
        assert bad.requests == 3  # the put, the put again, and the look at what stands there


# --- Answers that the servers of the tests do not give by themselves ---


class Body(io.BytesIO):
    """The raw body of an answer, as botocore reads it."""

    def stream(self) -> Iterator[bytes]:
        yield self.read()


def answer(
    *codes: tuple[int, str], operation: str = "*", when: Callable[[AWSRequest], bool] | None = None
) -> None:
    """Let this process's client meet these answers in turn instead of the server's; the last one stays.

    Status 0 is the server's own answer.
    """
    left = list(codes)

    def respond(request: AWSRequest, **_: Any) -> AWSResponse | None:
        if when is not None and not when(request):
            return None
        status, code = left.pop(0) if len(left) > 1 else left[0]
        if status == 0:
            return None
        text = f"<Error><Code>{code}</Code><Message>Words of the server.</Message></Error>".encode()
        return AWSResponse(request.url, status, {"content-type": "application/xml"}, Body(text))

    connect().client.meta.events.register(f"before-send.s3.{operation}", respond)


def test_a_store_that_knows_no_conditions_still_keeps_what_is_there(moto_folder: str):
    answer((501, "NotImplemented"), when=lambda request: "If-None-Match" in request.headers)
    assert storage.create(f"{moto_folder}/x", b"first") == b"first"
    assert storage.create(f"{moto_folder}/x", b"second") == b"first"


@pytest.mark.parametrize(
    "passing", [(503, "SlowDown"), (500, "InternalError"), (429, "TooManyRequests"), (400, "RequestTimeout")]
)
def test_what_passes_is_tried_again(moto_folder: str, passing: tuple[int, str]):
    storage.write_bytes(f"{moto_folder}/x", b"word")
    answer(passing, passing, (0, ""))
    assert storage.read_bytes(f"{moto_folder}/x") == b"word"


def test_two_conditional_puts_that_meet_are_tried_again(moto_folder: str):
    answer((409, "ConditionalRequestConflict"), (0, ""), operation="PutObject")
    assert storage.create(f"{moto_folder}/x", b"word") == b"word"


@pytest.mark.parametrize(
    ("status", "code", "kind", "words"),
    [
        (403, "AccessDenied", storage.UnreadableFile, "these credentials may not GetObject here"),
        (404, "NoSuchKey", storage.UnreadableFile, "no such object"),
        (404, "NoSuchBucket", InputError, "there is no bucket 'bucket' at http://127.0.0.1:"),
        (400, "ExpiredToken", InputError, "refuses the credentials (ExpiredToken); check AWS_ACCESS_KEY_ID"),
        (403, "RequestTimeTooSkewed", InputError, "refuses the credentials (RequestTimeTooSkewed)"),
        (405, "MethodNotAllowed", InputError, "refuses GetObject (MethodNotAllowed: Words of the server.)"),
        (503, "SlowDown", RunError, "keeps failing (SlowDown)"),
    ],
)
def test_each_refusal_is_one_line_that_says_whose_fault_it_is(
    moto_folder: str,
    monkeypatch: pytest.MonkeyPatch,
    status: int,
    code: str,
    kind: type[Exception],
    words: str,
):
    monkeypatch.setattr(policy, "FIRST_PATIENCE_S", 0.2)
    answer((status, code), operation="GetObject")
    message = refusal(storage.read_bytes, f"{moto_folder}/x", kind=kind)
    assert message.startswith(f"{moto_folder}/x: ")
    assert words in message


# --- Connections that break ---


@pytest.fixture
def broken_off(server: S3Server, folder: str, connected: Connect) -> Iterator[tuple[str, bytes, Any]]:
    """An object of 4 MiB whose first six answers break off in the middle of what they still had to give."""
    body = random.Random(1).randbytes(4 * MB)
    storage.write_bytes(f"{folder}/x", body)
    with faulty(server, share=0.5, seed=7, kinds=("drop_body",)) as bad:
        connected(bad)
        yield f"{folder}/x", body, bad


def test_a_stream_that_breaks_off_is_taken_up(broken_off: tuple[str, bytes, Any]):
    url, body, bad = broken_off
    with storage.open_stream(url) as stream:
        assert stream.read() == body
    assert (bad.requests, bad.faults) == (7, 6)


def test_a_range_that_breaks_off_is_taken_up(broken_off: tuple[str, bytes, Any]):
    url, body, bad = broken_off
    assert storage.read_range(url, 12_345, 3 * MB) == body[12_345 : 12_345 + 3 * MB]
    assert (bad.requests, bad.faults) == (7, 6)


def test_it_is_taken_up_where_it_stopped(server: S3Server, folder: str, connected: Connect):
    """Every answer brings half of what is missing: the fourth gets beyond nine tenths, no first one would."""
    body = random.Random(1).randbytes(4 * MB)
    storage.write_bytes(f"{folder}/x", body)
    with faulty(server, share=1, kinds=("drop_body",)) as bad:
        connected(bad)
        with storage.open_stream(f"{folder}/x") as stream:
            assert stream.read(len(body) * 9 // 10) == body[: len(body) * 9 // 10]
        assert bad.requests == 4


def test_a_copy_over_a_connection_that_breaks_is_whole(broken_off: tuple[str, bytes, Any]):
    url, body, bad = broken_off
    with storage.local_copy(url) as path:
        assert path.read_bytes() == body
    assert bad.faults == 6


def test_a_large_file_arrives_whole_over_a_bad_connection(
    moto_folder: str, moto: S3Server, connected: Connect
):
    """Also where the answer to the last request is lost, and the server knows the upload no more."""
    body = random.Random(2).randbytes(17 * MB)
    with faulty(moto, share=0.3, seed=2) as bad:
        connected(bad)
        storage.write_bytes(f"{moto_folder}/x", body)
        assert bad.faults > 0
    connected(moto)
    assert storage.read_bytes(f"{moto_folder}/x") == body


def test_an_upload_that_the_server_no_longer_knows_is_made_again(moto_folder: str):
    body = random.Random(2).randbytes(9 * MB)
    answer((404, "NoSuchUpload"), (404, "NoSuchUpload"), (0, ""), operation="CompleteMultipartUpload")
    storage.write_bytes(f"{moto_folder}/x", body)
    assert storage.read_bytes(f"{moto_folder}/x") == body


def test_an_object_that_is_replaced_while_it_is_read_fails_the_run(
    server: S3Server, folder: str, connected: Connect
):
    storage.write_bytes(f"{folder}/x", random.Random(3).randbytes(4 * MB))
    with faulty(server, share=1, kinds=("drop_body",)) as bad:
        connected(bad)
        with storage.open_stream(f"{folder}/x") as stream:
            stream.read(1)
            storage.write_bytes(f"{folder}/x", random.Random(4).randbytes(4 * MB))
            message = refusal(stream.read, kind=RunError)
    assert message == f"{folder}/x: was replaced while it was read; run the same command again"


def test_an_object_that_is_deleted_while_it_is_read_is_unreadable(
    server: S3Server, folder: str, connected: Connect
):
    storage.write_bytes(f"{folder}/x", random.Random(3).randbytes(4 * MB))
    with faulty(server, share=0.5, seed=9, kinds=("drop_body",)) as bad:  # the first answer, then none
        connected(bad)
        with storage.open_stream(f"{folder}/x") as stream:
            stream.read(1)
            server.client().delete_object(Bucket=BUCKET, Key=f"{folder.rpartition('/')[2]}/x")
            assert "no such object" in refusal(stream.read, kind=storage.UnreadableFile)


def test_an_object_that_is_replaced_between_two_reads_is_read_anew(folder: str):
    storage.write_bytes(f"{folder}/x", b"old")
    assert storage.read_bytes(f"{folder}/x") == b"old"
    storage.write_bytes(f"{folder}/x", b"new")
    assert storage.read_bytes(f"{folder}/x") == b"new"


# --- Servers that do not answer ---


def test_an_address_where_nothing_listens_is_refused_within_the_first_patience(
    connected: Connect, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(policy, "FIRST_PATIENCE_S", 0.2)
    nowhere = f"http://127.0.0.1:{free_ports(1)[0]}"
    connected(S3Server(nowhere, "key-of-nobody", "their-secret"))
    for operation in OPERATIONS.values():
        started = time.monotonic()
        message = refusal(operation, "s3://bucket/x")
        assert time.monotonic() - started < 5
        assert message == (
            f"s3://bucket/x: no S3 server answers at {nowhere} (EndpointConnection); "
            "check AWS_ENDPOINT_URL and the network"
        )


def test_a_server_that_takes_a_connection_but_never_answers_is_refused(
    connected: Connect, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(policy, "FIRST_PATIENCE_S", 0.3)
    monkeypatch.setattr(policy, "READ_TIMEOUT_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        nowhere = f"http://127.0.0.1:{silent.getsockname()[1]}"
        connected(S3Server(nowhere, "key-of-nobody", "their-secret"))
        message = refusal(storage.read_bytes, "s3://bucket/x")
    assert f"no S3 server answers at {nowhere} (ReadTimeout)" in message


def test_a_server_that_stops_answering_fails_the_run(
    moto_folder: str, moto: S3Server, connected: Connect, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(policy, "PATIENCE_S", 0.2)
    with faulty(moto, share=0) as going:
        connected(going)
        storage.is_file(f"{moto_folder}/x")
    for operation in OPERATIONS.values():
        message = refusal(operation, f"{moto_folder}/x", kind=RunError)
        assert message.startswith(f"{moto_folder}/x: the S3 server at {going.url} stopped answering (")


def test_also_in_the_middle_of_an_object(
    moto_folder: str, moto: S3Server, connected: Connect, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(policy, "PATIENCE_S", 0.2)
    storage.write_bytes(f"{moto_folder}/x", random.Random(5).randbytes(4 * MB))
    with faulty(moto, share=1, kinds=("drop_body",)) as going:
        connected(going)
        stream = storage.open_stream(f"{moto_folder}/x")
        stream.read(1)
    with stream:
        message = refusal(stream.read, kind=RunError)
    assert "stopped answering" in message


# --- Addresses and credentials that are wrong ---


def test_a_bucket_that_is_not_there_is_refused_by_name(server: S3Server):
    for operation in OPERATIONS.values():
        message = refusal(operation, "s3://no-such-bucket/x")
        assert message == (
            f"s3://no-such-bucket/x: there is no bucket 'no-such-bucket' at {server.url}; "
            "create it, or mend the address"
        )


def test_a_server_that_only_misses_the_object_is_asked_for_its_bucket(moto_folder: str):
    answer((404, "NoSuchKey"), operation="GetObject")
    assert "there is no bucket" in refusal(storage.read_bytes, "s3://no-such-bucket/x")
    assert "no such object" in refusal(storage.read_bytes, f"{moto_folder}/x", kind=storage.UnreadableFile)


def test_an_object_that_is_missing_is_one_unreadable_file(folder: str):
    for read in (
        storage.read_bytes,
        storage.sha256,
        storage.open_stream,
        storage.read_parquet,
        lambda url: storage.read_range(url, 3, 4),
        lambda url: storage.local_copy(url).__enter__(),
    ):
        message = refusal(read, f"{folder}/none", kind=storage.UnreadableFile)
        assert message == f"{folder}/none: no such object"


def test_a_wrong_secret_is_refused(rclone: S3Server, connected: Connect):
    connected(replace(rclone, secret="not-the-secret"))
    for operation in OPERATIONS.values():
        message = refusal(operation, f"s3://{BUCKET}/x")
        assert message == (
            f"s3://{BUCKET}/x: the S3 server at {rclone.url} refuses the credentials "
            "(SignatureDoesNotMatch); check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
        )


def test_a_key_that_the_server_does_not_know_is_refused(rclone: S3Server, connected: Connect):
    connected(replace(rclone, key="nobody-we-know"))
    message = refusal(storage.read_bytes, f"s3://{BUCKET}/x")
    assert f"the S3 server at {rclone.url} refuses the credentials (" in message


def test_without_credentials_it_says_how_to_give_them(rclone: S3Server, connected: Connect):
    connected(rclone, AWS_ACCESS_KEY_ID=None, AWS_SECRET_ACCESS_KEY=None)
    for operation in OPERATIONS.values():
        message = refusal(operation, f"s3://{BUCKET}/x")
        assert message == (
            f"s3://{BUCKET}/x: no S3 credentials (Unable to locate credentials); "
            "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
        )


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"AWS_SECRET_ACCESS_KEY": None}, "AWS_SECRET_ACCESS_KEY"),
        ({"AWS_PROFILE": "nobody"}, "nobody"),
        ({"AWS_ENDPOINT_URL": "somebody:their-password@host:9000"}, "AWS_ENDPOINT_URL is not the URL"),
        ({"AWS_DEFAULT_REGION": "us east"}, "us east"),
    ],
    ids=["half the credentials", "no such profile", "an endpoint without scheme", "no region"],
)
def test_settings_that_make_no_client_are_refused(
    moto: S3Server, connected: Connect, changed: dict[str, str | None], words: str
):
    connected(moto, **changed)
    message = refusal(storage.read_bytes, f"s3://{BUCKET}/x")
    assert message.startswith("S3 cannot be used as it is configured: ")
    assert words in message
    assert "their-password" not in message


def test_credentials_in_an_address_are_refused_without_repeating_them(moto: S3Server, connected: Connect):
    connected(moto)
    for user in ("AKIAEXAMPLE:wJalrXUtnFEMI", "AKIAEXAMPLE:", "wJalrXUtnFEMI"):
        for operation in OPERATIONS.values():
            message = refusal(operation, f"s3://{user}@{BUCKET}/x")
            assert "credentials and server belong into AWS_ACCESS_KEY_ID" in message
            assert "AKIAEXAMPLE" not in message and "wJalrXUtnFEMI" not in message


def test_an_address_with_a_server_in_it_or_without_a_bucket_is_refused(moto: S3Server, connected: Connect):
    connected(moto)
    assert "AWS_ENDPOINT_URL" in refusal(storage.is_file, "s3://127.0.0.1:9000/bucket/x")
    for url in ("s3://", "s3:///x"):
        message = refusal(storage.is_file, url)
        assert message == f"{url}: names no bucket; s3://bucket/key was expected"


def test_what_stands_before_the_host_in_the_endpoint_is_never_shown(
    moto: S3Server, connected: Connect, monkeypatch: pytest.MonkeyPatch
):
    host = moto.url.removeprefix("http://")
    connected(moto, AWS_ENDPOINT_URL=f"http://somebody:their-password@{host}")
    assert connect().endpoint == moto.url
    messages = [refusal(storage.read_bytes, "s3://no-such-bucket/x")]
    monkeypatch.setattr(policy, "FIRST_PATIENCE_S", 0.1)
    nowhere = f"127.0.0.1:{free_ports(1)[0]}"
    connected(moto, AWS_ENDPOINT_URL=f"http://somebody:their-password@{nowhere}")
    messages.append(refusal(storage.read_bytes, f"s3://{BUCKET}/x"))
    for message, shown in zip(messages, (host, nowhere), strict=True):
        assert f"at http://{shown}" in message
        assert "somebody" not in message and "their-password" not in message


# --- Patience ---


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A clock that stands at ``now``."""
    stopped = SimpleNamespace(now=1000.0)
    for module in (policy, s3_client):
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: stopped.now))
    return stopped


@pytest.fixture
def longest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chance takes the longest delay each time."""
    monkeypatch.setattr(policy, "random", SimpleNamespace(uniform=lambda low, high: high))


def test_delays_double_up_to_a_limit(clock: SimpleNamespace, longest: None):
    patience = S3Patience(answered=True)
    delays = [patience.delay(attempts, clock.now) for attempts in (1, 2, 3, 4, 8, 9, 50, 5000)]
    assert delays == pytest.approx([0.2, 0.4, 0.8, 1.6, 20.0, 20.0, 20.0, 20.0])


def test_a_delay_is_a_random_part_of_the_longest(clock: SimpleNamespace, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(policy, "random", random.Random(0))
    delays = [S3Patience(answered=True).delay(4, clock.now) for _ in range(500)]
    assert min(delays) >= 0 and max(delays) <= 1.6
    quarters = Counter(int(delay / 0.4) for delay in delays)
    assert all(90 < quarters[quarter] < 160 for quarter in range(4)), quarters


@pytest.mark.parametrize(("answered", "patience_s"), [(False, 10.0), (True, 300.0)])
def test_no_delay_reaches_beyond_the_patience_and_then_there_is_none(
    clock: SimpleNamespace, longest: None, answered: bool, patience_s: float
):
    patience = S3Patience(answered=answered)
    since = clock.now
    clock.now = since + patience_s - 0.5
    assert patience.delay(10, since) == pytest.approx(0.5)
    for clock.now in (since + patience_s, since + patience_s + 1):
        assert patience.delay(10, since) is None


def after(
    patience: S3Patience,
    context: dict[str, Any],
    *,
    status: int | None = None,
    code: str = "",
    raised: Exception | None = None,
) -> float | None:
    """What botocore is told after one attempt, of a request that began just now unless *context* knows."""
    context.setdefault("began", s3_client.time.monotonic())
    response = None if status is None else (SimpleNamespace(status_code=status), {"Error": {"Code": code}})
    return patience.after_attempt(
        response=response,
        caught_exception=raised,
        attempts=1,
        request_dict={"context": context},
        operation=None,
    )


@pytest.mark.parametrize(("status", "answered"), [(200, True), (404, True), (403, True), (503, False)])
def test_any_answer_but_a_failing_one_shows_that_the_address_is_right(status: int, answered: bool):
    patience = S3Patience()
    after(patience, {}, status=status)
    assert patience.answered == answered
    after(patience, {}, status=503)
    assert patience.answered == answered


def test_an_answered_server_gets_more_patience_than_a_new_one(clock: SimpleNamespace):
    patience, context = S3Patience(), {"began": clock.now - 11}
    assert after(patience, context, status=503) is None
    after(patience, {}, status=200)
    assert after(patience, context, status=503) is not None


def test_the_first_patience_begins_with_the_request_so_that_silence_counts(clock: SimpleNamespace):
    patience, context = S3Patience(), {}
    assert after(patience, context, status=503) is not None
    clock.now += 9
    assert after(patience, context, status=503) is not None
    clock.now += 2
    assert after(patience, context, status=503) is None
    assert after(patience, {}, status=503) is not None


def test_later_patience_begins_with_the_first_failure(clock: SimpleNamespace):
    patience, context = S3Patience(answered=True), {"began": clock.now - 1000}  # a long upload, say
    assert after(patience, context, status=503) is not None
    clock.now += policy.PATIENCE_S + 1
    assert after(patience, context, status=503) is None


@pytest.mark.parametrize(
    ("happened", "again"),
    [
        ({"status": 200}, False),
        ({"status": 404, "code": "NoSuchKey"}, False),
        ({"status": 403, "code": "AccessDenied"}, False),
        ({"status": 412, "code": "PreconditionFailed"}, False),
        ({"status": 400, "code": "RequestTimeout"}, True),
        ({"status": 409, "code": "OperationAborted"}, True),
        ({"status": 429}, True),
        ({"status": 500, "code": "InternalError"}, True),
        ({"raised": boto.EndpointConnectionError(endpoint_url="http://host")}, True),
        ({"raised": boto.ConnectionClosedError(endpoint_url="http://host")}, True),
        ({"raised": boto.ReadTimeoutError(endpoint_url="http://host")}, True),
        ({"raised": boto.NoCredentialsError()}, False),
        ({"raised": ValueError()}, False),
    ],
    ids=str,
)
def test_only_what_may_pass_is_tried_again(happened: dict[str, Any], again: bool):
    assert (after(S3Patience(), {}, **happened) is not None) == again


# --- What is no S3 server, no object, no key ---


@pytest.fixture(params=[200, 301, 307])
def website(request: pytest.FixtureRequest, connected: Connect) -> Iterator[None]:
    """What listens on the port is a web server; it says the same to everything."""

    class Page(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            body = b"<!doctype html><p>console<br>"
            self.send_response(request.param)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        do_HEAD = do_PUT = do_POST = do_GET  # noqa: N815 - http.server's names

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Page) as site:
        threading.Thread(target=site.serve_forever, daemon=True).start()
        connected(S3Server(f"http://127.0.0.1:{site.server_port}", "key-of-nobody", "their-secret"))
        yield
        site.shutdown()


@pytest.mark.parametrize("name", ["read_bytes", "is_folder", "is_file"])
def test_a_server_that_is_no_s3_is_refused(website: None, monkeypatch: pytest.MonkeyPatch, name: str):
    monkeypatch.setattr(policy, "FIRST_PATIENCE_S", 0.2)
    assert "check AWS_ENDPOINT_URL" in refusal(OPERATIONS[name], f"s3://{BUCKET}/x")


def test_a_server_that_is_silent_is_refused_after_one_silence(
    connected: Connect, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(policy, "READ_TIMEOUT_S", 1)
    monkeypatch.setattr(policy, "FIRST_PATIENCE_S", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        connected(S3Server(f"http://127.0.0.1:{silent.getsockname()[1]}", "key-of-nobody", "their-secret"))
        started = time.monotonic()
        assert "no S3 server answers at" in refusal(storage.read_bytes, f"s3://{BUCKET}/x")
        assert time.monotonic() - started < 1.9


@pytest.mark.parametrize(
    "endpoint",
    [
        "somebody:their-password@127.0.0.1:9",
        "http://somebody:their-password@",
        "http://somebody:their-pass/word@127.0.0.1:9",
        "http://somebody:their-pass#word@127.0.0.1:9",
    ],
)
def test_an_endpoint_that_is_none_is_not_repeated_with_its_password(
    moto: S3Server, connected: Connect, endpoint: str
):
    connected(moto, AWS_ENDPOINT_URL=endpoint)
    assert "their-pass" not in refusal(storage.read_bytes, f"s3://{BUCKET}/x")


def test_another_spelling_of_the_scheme_does_not_repeat_credentials(moto_folder: str):
    assert "secret" not in refusal(storage.is_file, "S3://key:secret@bucket/x")
    storage.write_bytes(f"S3{moto_folder[2:]}/x", b"word")
    assert storage.read_bytes(f"{moto_folder}/x") == b"word"


@pytest.mark.parametrize("url", ["s3://my bucket/x", "s3://bucket"])
def test_what_can_be_no_object_is_refused_in_one_line(moto: S3Server, connected: Connect, url: str):
    connected(moto)
    assert "not an address S3 can use" in refusal(storage.read_bytes, url)


def test_the_mark_that_a_console_puts_for_a_folder_is_no_file_in_it(moto: S3Server, moto_folder: str):
    key = f"{moto_folder.rpartition('/')[2]}/"
    moto.client().put_object(Bucket=BUCKET, Key=key, Body=b"")
    assert storage.is_empty(moto_folder)
    for room in (moto_folder, f"{moto_folder}/"):
        assert rooms.find(room, RECIPE) is None
    storage.write_bytes(f"{moto_folder}/x", b"")
    assert names(moto_folder) == ["x"]


def test_an_object_that_is_replaced_by_a_shorter_one_while_it_is_read_fails_the_run(
    server: S3Server, folder: str, connected: Connect
):
    storage.write_bytes(f"{folder}/x", random.Random(3).randbytes(4 * MB))
    with faulty(server, share=0.5, seed=9, kinds=("drop_body",)) as bad:
        connected(bad)
        with storage.open_stream(f"{folder}/x") as stream:
            stream.read(1)
            storage.write_bytes(f"{folder}/x", b"short")
            assert "was replaced while it was read" in refusal(stream.read, kind=RunError)


def test_a_key_that_could_not_be_deleted_just_now_is_tried_again(moto_folder: str):
    storage.write_bytes(f"{moto_folder}/x", b"")
    left = [1]

    def respond(request: AWSRequest, **_: object) -> AWSResponse | None:
        if not left:
            return None
        left.pop()
        key = f"{moto_folder.rpartition('/')[2]}/x"
        error = f"<Error><Key>{key}</Key><Code>SlowDown</Code><Message>m</Message></Error>"
        body = Body(f"<DeleteResult>{error}</DeleteResult>".encode())
        return AWSResponse(request.url, 200, {"content-type": "application/xml"}, body)

    connect().client.meta.events.register("before-send.s3.DeleteObjects", respond)
    storage.remove(moto_folder)
    assert not left
    assert storage.is_empty(moto_folder)


# --- Rooms ---


RECIPE = Provenance("dataset", {"table": "abc"}, {"source": "table", "share": 0.2})
OTHER = Provenance("dataset", {"table": "xyz"}, {"source": "table", "share": 0.3})
DIFFERENCES = (  # to who comes second, by which of the two came first
    'table was "abc", now "xyz"; share was 0.2, now 0.3',
    'table was "xyz", now "abc"; share was 0.3, now 0.2',
)


def manifest(recipe: Provenance, fingerprint: str) -> Manifest:
    return Manifest(recipe.kind, fingerprint * 64, recipe.inputs, recipe.options, {"written": 3})


def test_a_room_goes_from_begun_to_complete(folder: str):
    assert rooms.find(folder, RECIPE) is None
    assert storage.is_empty(folder)
    rooms.begin(folder, RECIPE)
    assert names(folder) == ["unfinished.json", "writer.json"]
    assert rooms.find(folder, RECIPE) is None
    rooms.commit(folder, manifest(RECIPE, "f"))
    assert names(folder) == ["manifest.json"]
    assert rooms.find(folder, RECIPE) == rooms.require(folder, "dataset") == manifest(RECIPE, "f")


@pytest.mark.parametrize("finish", [False, True], ids=["begun", "complete"])
def test_a_room_of_another_recipe_is_refused_with_the_differences(folder: str, finish: bool):
    rooms.begin(folder, RECIPE)
    if finish:
        rooms.commit(folder, manifest(RECIPE, "f"))
    message = refusal(rooms.find, folder, OTHER)
    assert message.startswith(f"{folder}: made from something else: {DIFFERENCES[0]}")


def test_a_folder_with_foreign_files_and_a_file_in_place_of_one_are_refused(folder: str):
    storage.write_bytes(f"{folder}/holiday.jpg", b"")
    assert "the folder holds other files" in refusal(rooms.find, folder, RECIPE)
    assert "a file is there" in refusal(rooms.find, f"{folder}/holiday.jpg", RECIPE)


def both_at_once(actions: Sequence[Callable[[], object]]) -> list[Exception | None]:
    """Start them together; what each of them raised."""
    together = threading.Barrier(len(actions))

    def run(action: Callable[[], object]) -> Exception | None:
        together.wait()
        try:
            action()
        except Exception as error:
            return error
        return None

    with ThreadPoolExecutor(len(actions)) as pool:
        return list(pool.map(run, actions))


def test_of_two_that_begin_one_room_differently_at_once_one_is_refused(moto_folder: str):
    for attempt in range(3):
        room = f"{moto_folder}/{attempt}"
        raised = both_at_once([partial(rooms.begin, room, recipe) for recipe in (RECIPE, OTHER)])
        winner = raised.index(None)
        refused = raised[1 - winner]
        assert isinstance(refused, InputError)
        assert f"{room}: made from something else: {DIFFERENCES[winner]}" in str(refused)
        assert rooms.find(room, (RECIPE, OTHER)[winner]) is None  # and it may go on


def test_two_may_begin_one_room_alike(moto_folder: str):
    assert both_at_once([partial(rooms.begin, moto_folder, RECIPE)] * 2) == [None, None]


def test_a_manifest_is_never_replaced_by_another(moto_folder: str):
    manifests = [manifest(RECIPE, "e"), manifest(RECIPE, "f")]
    raised = both_at_once([partial(rooms.commit, moto_folder, one) for one in manifests])
    winner = raised.index(None)
    message = refusal(rooms.commit, moto_folder, manifests[1 - winner])  # and once more, afterwards
    assert message == f"{moto_folder}: another run completed this room meanwhile; name another folder"
    assert str(raised[1 - winner]) == message
    assert rooms.read_manifest(moto_folder) == manifests[winner]
    assert rooms.commit(moto_folder, manifests[winner]) == manifests[winner]  # the same again is no other


def test_whose_answers_get_lost_begins_and_completes_its_room(
    moto_folder: str, moto: S3Server, connected: Connect
):
    with faulty(moto, share=0.5, seed=11, kinds=("drop_request",)) as bad:
        connected(bad)
        rooms.begin(moto_folder, RECIPE)
        rooms.commit(moto_folder, manifest(RECIPE, "f"))
        assert bad.proxy.faults["drop_after"] > 0
    connected(moto)
    assert names(moto_folder) == ["manifest.json"]


def test_a_room_that_was_completed_meanwhile_is_not_begun_anew(folder: str):
    assert rooms.find(folder, OTHER) is None
    rooms.begin(folder, RECIPE)
    rooms.commit(folder, manifest(RECIPE, "f"))
    assert "made from something else" in refusal(rooms.begin, folder, OTHER)
    assert rooms.find(folder, RECIPE) == manifest(RECIPE, "f")
    assert names(folder) == ["manifest.json"]


# --- Packed texts ---


def test_a_text_packed_in_a_bucket_is_read_and_no_copy_of_it_stays(
    folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    text = random.Random(0).randbytes(3 * MB)
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as opened:
        opened.writestr("v.txt", text)
    storage.write_bytes(f"{folder}/v.zip", archive.getvalue())
    storage.write_bytes(f"{folder}/v.txt.gz", gzip.compress(text, 1))
    for name in ("v.zip", "v.zip/v.txt", "v.txt.gz"):
        with unpacked.open_unpacked(f"{folder}/{name}") as (_, stream):
            assert stream.read() == text
    assert list(tmp_path.iterdir()) == []
