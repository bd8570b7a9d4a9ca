"""Files in buckets, on real servers: rclone checks signatures, moto honours conditional requests."""

import random
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import urllib3
from botocore.awsrequest import AWSRequest, AWSResponse

from lglm_core import storage
from lglm_core.storage.s3_client import connect
from tests.lglm_core.storage.answers import Body, answer
from tests.lglm_core.storage.contract import (
    FILES,
    CreatingContract,
    WritableContract,
    create_at_once,
    names,
    refusal,
)
from tests.servers.s3 import S3Server, faulty

MB = 1 << 20
Connect = Callable[..., None]


def put_files(server: S3Server) -> str:
    client = server.client()
    for name, data in FILES.items():
        client.put_object(Bucket="bucket", Key=f"stored/{name}", Body=data)
    return "s3://bucket/stored"


class TestS3OnMoto(CreatingContract):
    missing = "no such object"

    @pytest.fixture(scope="class")
    def put(self, moto: S3Server) -> str:
        return put_files(moto)

    @pytest.fixture
    def stored(self, put: str, moto: S3Server, connect_to: Connect) -> str:
        connect_to(moto)
        return put

    @pytest.fixture
    def out(self, moto_folder: str) -> str:
        return moto_folder


class TestS3OnRclone(WritableContract):
    missing = "no such object"

    @pytest.fixture(scope="class")
    def put(self, rclone: S3Server) -> str:
        return put_files(rclone)

    @pytest.fixture
    def stored(self, put: str, rclone: S3Server, connect_to: Connect) -> str:
        connect_to(rclone)
        return put

    @pytest.fixture
    def out(self, rclone_folder: str) -> str:
        return rclone_folder


# --- Keys ---


KEYS_OF_MOTO = ("..", "../x", "x/../y", "x/./y", "x//y", "/x", "x/")


def test_a_key_is_no_path_and_nothing_in_it_is_resolved(moto_folder: str, moto: S3Server):
    for key in KEYS_OF_MOTO:
        storage.write_bytes(f"{moto_folder}/{key}", key.encode())
    prefix = f"{moto_folder.removeprefix('s3://bucket/')}/"
    found = moto.client().list_objects_v2(Bucket="bucket", Prefix=prefix)["Contents"]
    assert [entry["Key"].removeprefix(prefix) for entry in found] == sorted(KEYS_OF_MOTO)
    assert names(moto_folder) == sorted(KEYS_OF_MOTO)
    for key in KEYS_OF_MOTO:
        assert storage.read_bytes(f"{moto_folder}/{key}") == key.encode()


def test_a_key_that_the_server_rejects_is_refused_with_its_reason(rclone_folder: str):
    for url in (f"{rclone_folder}/../x", f"{rclone_folder}/x//y"):
        message = refusal(storage.write_bytes, url, b"")
        assert message.startswith(f"{url}: the S3 server at http://127.0.0.1:")
        assert "refuses PutObject (InvalidArgument: Object name contains unsupported characters" in message


@pytest.mark.parametrize("url", ["s3://my bucket/x", "s3://bucket"])
def test_an_address_without_a_valid_object_is_refused(moto: S3Server, connect_to: Connect, url: str):
    connect_to(moto)
    assert "not an address S3 can use" in refusal(storage.read_bytes, url)


def test_another_spelling_of_the_scheme_does_not_repeat_credentials(moto_folder: str):
    assert "secret" not in refusal(storage.is_file, "S3://key:secret@bucket/x")
    storage.write_bytes(f"S3{moto_folder[2:]}/x", b"word")
    assert storage.read_bytes(f"{moto_folder}/x") == b"word"


def test_a_file_in_several_parts_comes_back_byte_for_byte(server: S3Server, folder: str, connect_to: Connect):
    body = random.Random(0).randbytes(20 * MB + 1)
    with faulty(server, share=0) as counting:
        connect_to(counting)
        storage.write_bytes(f"{folder}/x", body)
        assert counting.requests == 5  # it is begun, three parts of 8 MiB at most are put, it is completed
        assert storage.read_bytes(f"{folder}/x") == body
        assert storage.read_range(f"{folder}/x", 8 * MB - 2, 4) == body[8 * MB - 2 : 8 * MB + 2]


# --- Folders ---


def test_a_folder_is_gone_with_its_last_object(folder: str):
    storage.write_bytes(f"{folder}/deep/x", b"")
    storage.remove(f"{folder}/deep/x")
    assert storage.is_empty(folder) and not storage.is_folder(folder)


def test_a_bucket_is_a_folder_and_no_file(folder: str):
    storage.write_bytes(f"{folder}/x", b"")
    assert storage.is_folder("s3://bucket") and not storage.is_file("s3://bucket")


def test_the_placeholder_of_a_folder_is_no_file_in_it(moto: S3Server, moto_folder: str):
    key = f"{moto_folder.rpartition('/')[2]}/"
    moto.client().put_object(Bucket="bucket", Key=key, Body=b"")
    assert storage.is_empty(moto_folder)
    storage.write_bytes(f"{moto_folder}/x", b"")
    assert names(moto_folder) == ["x"]


def test_a_folder_of_several_pages_is_listed_in_order_and_removed(moto_folder: str, moto: S3Server):
    expected = [f"{number % 7}/{number:04d}" for number in range(1005)]  # a page holds 1,000
    prefix, server = moto_folder.removeprefix("s3://"), urllib3.PoolManager(maxsize=4)

    def put(key: str) -> None:  # past boto3, which takes longer than the server
        assert server.request("PUT", f"{moto.url}/{key}").status == 200

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda name: put(f"{prefix}/{name}"), expected))
    put(f"{prefix}-2/x")
    assert names(moto_folder) == sorted(expected)
    storage.remove(moto_folder)
    assert storage.is_empty(moto_folder)
    assert names(f"{moto_folder}-2") == ["x"]


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


def test_an_object_lies_within_its_folders_and_its_bucket(moto: S3Server, connect_to: Connect):
    connect_to(moto)
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


# --- Creating what must not exist ---


def test_a_store_that_ignores_conditions_lets_the_last_writer_win_and_says_so(rclone_folder: str):
    storage.create(f"{rclone_folder}/x", b"first")
    assert storage.create(f"{rclone_folder}/x", b"second") == b"second"
    assert storage.read_bytes(f"{rclone_folder}/x") == b"second"


def test_one_writer_wins_even_if_answers_are_lost(moto_folder: str, moto: S3Server, connect_to: Connect):
    with faulty(moto, share=0.5, seed=11, kinds=("drop_request",)) as bad:
        connect_to(bad)
        told = create_at_once(f"{moto_folder}/x")
    connect_to(moto)
    assert told == {storage.read_bytes(f"{moto_folder}/x")}
    assert bad.proxy.faults["drop_after"] > 0


def test_a_writer_that_lost_the_answer_to_its_put_still_learns_that_it_won(
    moto_folder: str, moto: S3Server, connect_to: Connect
):
    # With this seed the first request is done but not answered, and the next three are.
    with faulty(moto, share=0.5, seed=14, kinds=("drop_request",)) as bad:
        connect_to(bad)
        assert storage.create(f"{moto_folder}/x", b"mine") == b"mine"
        assert bad.proxy.faults == Counter(drop_after=1)
        assert bad.requests == 3  # the put, the put again, and the look at what stands there


def test_a_store_that_knows_no_conditions_still_keeps_what_is_there(moto_folder: str):
    answer((501, "NotImplemented"), when=lambda request: "If-None-Match" in request.headers)
    assert storage.create(f"{moto_folder}/x", b"first") == b"first"
    assert storage.create(f"{moto_folder}/x", b"second") == b"first"


def test_two_conditional_puts_that_meet_are_tried_again(moto_folder: str):
    answer((409, "ConditionalRequestConflict"), (0, ""), operation="PutObject")
    assert storage.create(f"{moto_folder}/x", b"word") == b"word"


# --- Uploading large files ---


def test_a_large_file_arrives_whole_over_a_bad_connection(
    moto_folder: str, moto: S3Server, connect_to: Connect
):
    """This seed also loses the answer to the last request, after which the server forgets the upload."""
    body = random.Random(2).randbytes(17 * MB)
    with faulty(moto, share=0.3, seed=2) as bad:
        connect_to(bad)
        storage.write_bytes(f"{moto_folder}/x", body)
        assert bad.faults > 0
    connect_to(moto)
    assert storage.read_bytes(f"{moto_folder}/x") == body


def test_an_upload_that_the_server_no_longer_knows_is_made_again(moto_folder: str):
    body = random.Random(2).randbytes(9 * MB)
    answer((404, "NoSuchUpload"), (404, "NoSuchUpload"), (0, ""), operation="CompleteMultipartUpload")
    storage.write_bytes(f"{moto_folder}/x", body)
    assert storage.read_bytes(f"{moto_folder}/x") == body


# --- Reading ---


def test_a_server_that_only_misses_the_object_is_asked_for_its_bucket(moto_folder: str):
    answer((404, "NoSuchKey"), operation="GetObject")
    assert "there is no bucket" in refusal(storage.read_bytes, "s3://no-such-bucket/x")
    assert "no such object" in refusal(storage.read_bytes, f"{moto_folder}/x", kind=storage.UnreadableFile)


def test_an_object_that_is_replaced_between_two_reads_is_read_anew(folder: str):
    storage.write_bytes(f"{folder}/x", b"old")
    assert storage.read_bytes(f"{folder}/x") == b"old"
    storage.write_bytes(f"{folder}/x", b"new")
    assert storage.read_bytes(f"{folder}/x") == b"new"
