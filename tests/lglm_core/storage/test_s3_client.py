"""Errors of S3: each is one line that says what to do, and a transient one is retried."""

import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import Any

import pytest
from botocore import exceptions as boto

from lglm_core import storage
from lglm_core.errors import InputError, RunError
from lglm_core.storage import retry, s3_client
from lglm_core.storage.s3_client import S3RetryPolicy, connect
from tests.lglm_core.storage.answers import answer
from tests.lglm_core.storage.contract import refusal
from tests.servers.process import free_ports
from tests.servers.s3 import S3Server, faulty

Connect = Callable[..., None]
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


# --- Answers that are errors ---


@pytest.mark.parametrize(
    "passing", [(503, "SlowDown"), (500, "InternalError"), (429, "TooManyRequests"), (400, "RequestTimeout")]
)
def test_a_transient_failure_is_retried(moto_folder: str, passing: tuple[int, str]):
    storage.write_bytes(f"{moto_folder}/x", b"word")
    answer(passing, passing, (0, ""))
    assert storage.read_bytes(f"{moto_folder}/x") == b"word"


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
    monkeypatch.setattr(retry, "RETRY_FOR_UNANSWERED_S", 0.2)
    answer((status, code), operation="GetObject")
    message = refusal(storage.read_bytes, f"{moto_folder}/x", kind=kind)
    assert message.startswith(f"{moto_folder}/x: ")
    assert words in message


# --- Servers that do not answer ---


def test_an_address_where_nothing_listens_is_refused_within_seconds(
    connect_to: Connect, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(retry, "RETRY_FOR_UNANSWERED_S", 0.05)
    nowhere = f"http://127.0.0.1:{free_ports(1)[0]}"
    connect_to(S3Server(nowhere, "key-of-nobody", "their-secret"))
    for operation in OPERATIONS.values():
        started = time.monotonic()
        message = refusal(operation, "s3://bucket/x")
        assert time.monotonic() - started < 5
        assert message == (
            f"s3://bucket/x: no S3 server answers at {nowhere} (EndpointConnection); "
            "check AWS_ENDPOINT_URL and the network"
        )


def test_a_server_that_takes_a_connection_but_never_answers_is_refused(
    connect_to: Connect, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(retry, "RETRY_FOR_UNANSWERED_S", 0.3)
    monkeypatch.setattr(retry, "READ_TIMEOUT_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        nowhere = f"http://127.0.0.1:{silent.getsockname()[1]}"
        connect_to(S3Server(nowhere, "key-of-nobody", "their-secret"))
        message = refusal(storage.read_bytes, "s3://bucket/x")
    assert f"no S3 server answers at {nowhere} (ReadTimeout)" in message


def test_a_server_that_is_silent_is_refused_after_one_silence(
    connect_to: Connect, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(retry, "READ_TIMEOUT_S", 0.1)
    monkeypatch.setattr(retry, "RETRY_FOR_UNANSWERED_S", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        connect_to(S3Server(f"http://127.0.0.1:{silent.getsockname()[1]}", "key-of-nobody", "their-secret"))
        assert "no S3 server answers at" in refusal(storage.read_bytes, "s3://bucket/x")
        silent.setblocking(False)
        silent.accept()[0].close()
        with pytest.raises(BlockingIOError):  # there is no second connection
            silent.accept()


def test_a_server_that_stops_answering_fails_the_run(
    moto_folder: str, moto: S3Server, connect_to: Connect, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(retry, "RETRY_FOR_S", 0.05)
    with faulty(moto, share=0) as going:
        connect_to(going)
        storage.is_file(f"{moto_folder}/x")
    for operation in OPERATIONS.values():
        message = refusal(operation, f"{moto_folder}/x", kind=RunError)
        assert message.startswith(f"{moto_folder}/x: the S3 server at {going.url} stopped answering (")


# --- Addresses and credentials that are wrong ---


def test_a_missing_bucket_is_refused_by_name(server: S3Server):
    for operation in OPERATIONS.values():
        message = refusal(operation, "s3://no-such-bucket/x")
        assert message == (
            f"s3://no-such-bucket/x: there is no bucket 'no-such-bucket' at {server.url}; "
            "create it, or mend the address"
        )


def test_a_wrong_secret_is_refused(rclone: S3Server, connect_to: Connect):
    connect_to(replace(rclone, secret="not-the-secret"))
    for operation in OPERATIONS.values():
        message = refusal(operation, "s3://bucket/x")
        assert message == (
            f"s3://bucket/x: the S3 server at {rclone.url} refuses the credentials "
            "(SignatureDoesNotMatch); check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
        )


def test_a_key_that_the_server_does_not_know_is_refused(rclone: S3Server, connect_to: Connect):
    connect_to(replace(rclone, key="nobody-we-know"))
    message = refusal(storage.read_bytes, "s3://bucket/x")
    assert f"the S3 server at {rclone.url} refuses the credentials (" in message


def test_missing_credentials_are_refused_with_how_to_set_them(rclone: S3Server, connect_to: Connect):
    connect_to(rclone, AWS_ACCESS_KEY_ID=None, AWS_SECRET_ACCESS_KEY=None)
    for operation in OPERATIONS.values():
        message = refusal(operation, "s3://bucket/x")
        assert message == (
            "s3://bucket/x: no S3 credentials (Unable to locate credentials); "
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
    moto: S3Server, connect_to: Connect, changed: dict[str, str | None], words: str
):
    connect_to(moto, **changed)
    message = refusal(storage.read_bytes, "s3://bucket/x")
    assert message.startswith("S3 cannot be used as it is configured: ")
    assert words in message
    assert "their-password" not in message


def test_credentials_in_an_address_are_refused_without_repeating_them(moto: S3Server, connect_to: Connect):
    connect_to(moto)
    for user in ("AKIAEXAMPLE:wJalrXUtnFEMI", "AKIAEXAMPLE:", "wJalrXUtnFEMI"):
        for operation in OPERATIONS.values():
            message = refusal(operation, f"s3://{user}@bucket/x")
            assert "credentials and server belong into AWS_ACCESS_KEY_ID" in message
            assert "AKIAEXAMPLE" not in message and "wJalrXUtnFEMI" not in message


def test_an_address_with_a_server_in_it_or_without_a_bucket_is_refused(moto: S3Server, connect_to: Connect):
    connect_to(moto)
    assert "AWS_ENDPOINT_URL" in refusal(storage.is_file, "s3://127.0.0.1:9000/bucket/x")
    for url in ("s3://", "s3:///x"):
        message = refusal(storage.is_file, url)
        assert message == f"{url}: names no bucket; s3://bucket/key was expected"


def test_user_and_password_of_the_endpoint_are_never_shown(
    moto: S3Server, connect_to: Connect, monkeypatch: pytest.MonkeyPatch
):
    host = moto.url.removeprefix("http://")
    connect_to(moto, AWS_ENDPOINT_URL=f"http://somebody:their-password@{host}")
    assert connect().endpoint == moto.url
    messages = [refusal(storage.read_bytes, "s3://no-such-bucket/x")]
    monkeypatch.setattr(retry, "RETRY_FOR_UNANSWERED_S", 0.1)
    nowhere = f"127.0.0.1:{free_ports(1)[0]}"
    connect_to(moto, AWS_ENDPOINT_URL=f"http://somebody:their-password@{nowhere}")
    messages.append(refusal(storage.read_bytes, "s3://bucket/x"))
    for message, shown in zip(messages, (host, nowhere), strict=True):
        assert f"at http://{shown}" in message
        assert "somebody" not in message and "their-password" not in message


@pytest.mark.parametrize(
    "endpoint",
    [
        "somebody:their-password@127.0.0.1:9",
        "http://somebody:their-password@",
        "http://somebody:their-pass/word@127.0.0.1:9",
        "http://somebody:their-pass#word@127.0.0.1:9",
    ],
)
def test_an_invalid_endpoint_is_not_repeated_with_its_password(
    moto: S3Server, connect_to: Connect, endpoint: str
):
    connect_to(moto, AWS_ENDPOINT_URL=endpoint)
    assert "their-pass" not in refusal(storage.read_bytes, "s3://bucket/x")


# --- What is no S3 server ---


@pytest.fixture(params=[200, 301, 307])
def website(request: pytest.FixtureRequest, connect_to: Connect) -> Iterator[None]:
    """Connect to a web server that gives the same answer to every request."""

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
        threading.Thread(target=site.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        connect_to(S3Server(f"http://127.0.0.1:{site.server_port}", "key-of-nobody", "their-secret"))
        yield
        site.shutdown()


@pytest.mark.parametrize("name", ["read_bytes", "is_folder", "is_file"])
def test_a_server_that_is_not_s3_is_refused(website: None, monkeypatch: pytest.MonkeyPatch, name: str):
    monkeypatch.setattr(retry, "RETRY_FOR_UNANSWERED_S", 0.05)
    assert "check AWS_ENDPOINT_URL" in refusal(OPERATIONS[name], "s3://bucket/x")


# --- What is tried again, and for how long ---


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A clock that stands still at ``now``."""
    stopped = SimpleNamespace(now=1000.0)
    for module in (retry, s3_client):
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: stopped.now))
    return stopped


def after(
    policy: S3RetryPolicy,
    context: dict[str, Any],
    *,
    status: int | None = None,
    code: str = "",
    raised: Exception | None = None,
) -> float | None:
    """Return the answer to botocore after one attempt; the request began now unless *context* has a time."""
    context.setdefault("began", s3_client.time.monotonic())
    response = None if status is None else (SimpleNamespace(status_code=status), {"Error": {"Code": code}})
    return policy.after_attempt(
        response=response,
        caught_exception=raised,
        attempts=1,
        request_dict={"context": context},
        operation=None,
    )


@pytest.mark.parametrize(("status", "answered"), [(200, True), (404, True), (403, True), (503, False)])
def test_any_answer_but_a_failing_one_shows_that_the_address_is_right(status: int, answered: bool):
    policy = S3RetryPolicy()
    after(policy, {}, status=status)
    assert policy.answered == answered
    after(policy, {}, status=503)
    assert policy.answered == answered


def test_a_server_that_has_answered_is_retried_for_longer(clock: SimpleNamespace):
    policy, context = S3RetryPolicy(), {"began": clock.now - 11}
    assert after(policy, context, status=503) is None
    after(policy, {}, status=200)
    assert after(policy, context, status=503) is not None


def test_the_limit_for_an_unanswered_server_counts_from_the_request(clock: SimpleNamespace):
    policy, context = S3RetryPolicy(), {}
    assert after(policy, context, status=503) is not None
    clock.now += 9
    assert after(policy, context, status=503) is not None
    clock.now += 2
    assert after(policy, context, status=503) is None
    assert after(policy, {}, status=503) is not None


def test_the_limit_for_a_server_that_has_answered_counts_from_the_first_failure(clock: SimpleNamespace):
    policy, context = S3RetryPolicy(answered=True), {"began": clock.now - 1000}  # a long upload, say
    assert after(policy, context, status=503) is not None
    clock.now += retry.RETRY_FOR_S + 1
    assert after(policy, context, status=503) is None


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
def test_only_transient_failures_are_retried(happened: dict[str, Any], again: bool):
    assert (after(S3RetryPolicy(), {}, **happened) is not None) == again
