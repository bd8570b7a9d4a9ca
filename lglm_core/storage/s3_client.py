"""The connection to S3: one client per process, its retry policy, and its errors as one line each.

Endpoint, region and credentials come from where every S3 tool looks for them: $AWS_ENDPOINT_URL,
$AWS_ACCESS_KEY_ID, $AWS_PROFILE, the files in ~/.aws, an instance's role. No secret is ever shown or stored.
"""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any
from urllib.parse import urlsplit

import boto3
from botocore import exceptions as boto
from botocore.config import Config
from botocore.parsers import ResponseParserError

from lglm_core.errors import InputError, RunError
from lglm_core.storage import retry
from lglm_core.storage.location import UnreadableFile
from lglm_core.storage.retry import RetryPolicy

CONNECTIONS = 64

TRANSIENT = (
    boto.ConnectionError,  # refused, no such host, TLS, timed out
    boto.HTTPClientError,  # closed or silent before or in the middle of an answer
    boto.IncompleteReadError,
    ResponseParserError,
)
TRANSIENT_CODES = {"RequestTimeout", "SlowDown", "Throttling", "ThrottlingException", "InternalError"}
TRANSIENT_CODES |= {"ConditionalRequestConflict", "OperationAborted"}
NO_CREDENTIALS = (
    boto.NoCredentialsError,
    boto.PartialCredentialsError,
    boto.CredentialRetrievalError,
    boto.TokenRetrievalError,
    boto.ProfileNotFound,
)
REFUSED_CREDENTIALS = {
    *("InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken", "ExpiredToken", "TokenRefreshRequired"),
    *("InvalidSecurity", "RequestTimeTooSkewed", "AuthorizationHeaderMalformed"),
}
NO_ENDPOINT = "AWS_ENDPOINT_URL is not the URL of a server, such as http://minio:9000"
MISSING = {"NoSuchKey", "404", "NotFound"}
FORBIDDEN = {"AccessDenied", "403", "Forbidden", "InvalidObjectState"}


class S3RetryPolicy(RetryPolicy):
    """The retry policy as botocore asks for it."""

    def after_attempt(
        self,
        *,
        response: tuple[Any, Any] | None,
        caught_exception: Exception | None,
        attempts: int,
        request_dict: dict[str, Any],
        **_: Any,
    ) -> float | None:
        """Handle botocore's event ``needs-retry``: return the delay in seconds, or None not to retry."""
        if response is not None:
            status = response[0].status_code
            self.answered |= status < 500
            code = (response[1].get("Error") or {}).get("Code")
            transient = status in retry.TRANSIENT_STATUS or code in TRANSIENT_CODES
        else:
            transient = isinstance(caught_exception, TRANSIENT)
        if not transient:
            return None
        context = request_dict["context"]
        since = context.setdefault("failing_since", time.monotonic()) if self.answered else context["began"]
        return self.delay(attempts, since)


@dataclass(frozen=True)
class S3:
    """The client, and the retry policy that its requests and downloads share."""

    client: Any
    retry_policy: S3RetryPolicy

    @property
    def endpoint(self) -> str:
        """The server's address without user and password."""
        parts = urlsplit(self.client.meta.endpoint_url)
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"


@cache
def connect() -> S3:
    """Return this process's S3 client; no request is sent yet."""
    config = Config(
        connect_timeout=retry.CONNECT_TIMEOUT_S,
        read_timeout=retry.READ_TIMEOUT_S,
        max_pool_connections=CONNECTIONS,
        retries={"mode": "standard", "total_max_attempts": 1},  # S3RetryPolicy decides instead
        # Not every S3 server understands boto3's default, a checksum behind the body.
        request_checksum_calculation=os.environ.get("AWS_REQUEST_CHECKSUM_CALCULATION", "when_required"),
        response_checksum_validation=os.environ.get("AWS_RESPONSE_CHECKSUM_VALIDATION", "when_required"),
    )
    try:
        client = boto3.Session().client("s3", config=config)
    except boto.BotoCoreError as error:
        raise InputError(f"S3 cannot be used as it is configured: {error}") from error
    except ValueError as error:  # its text repeats the endpoint, which may hold a password
        raise InputError(f"S3 cannot be used as it is configured: {NO_ENDPOINT}") from error
    s3 = S3(client, S3RetryPolicy())
    client.meta.events.register("before-call.s3", _note_start)
    client.meta.events.register("needs-retry.s3", s3.retry_policy.after_attempt)
    return s3


def _note_start(*, context: dict[str, Any], **_: Any) -> None:
    context["began"] = time.monotonic()


@contextmanager
def errors_explained(url: str) -> Iterator[None]:
    """Turn boto3's errors in the block into one line about *url*."""
    try:
        yield
    except (boto.ClientError, boto.BotoCoreError, ResponseParserError) as error:
        raise explained(url, error) from error
    except RecursionError as error:  # botocore follows the redirects of a web server in circles
        raise _no_server(url, "redirected") from error


def _no_server(url: str, reason: str) -> InputError:
    return InputError(
        f"{url}: no S3 server answers at {connect().endpoint} ({reason}); "
        "check AWS_ENDPOINT_URL and the network"
    )


def code_of(error: boto.ClientError) -> str:
    """Return the server's error code, such as ``NoSuchKey``, or the status if the answer has no body."""
    return str(error.response.get("Error", {}).get("Code", ""))


def explained(url: str, error: Exception) -> Exception:
    """Return the exception to raise in place of boto3's *error*: one line about *url*."""
    s3 = connect()
    if isinstance(error, NO_CREDENTIALS):
        return InputError(
            f"{url}: no S3 credentials ({error}); "
            "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
        )
    if isinstance(error, TRANSIENT):
        # The error's text repeats the endpoint, which may hold a password.
        reason = type(error).__name__.removesuffix("Error")
        if s3.retry_policy.answered:
            return RunError(f"{url}: the S3 server at {s3.endpoint} stopped answering ({reason})")
        return _no_server(url, reason)
    if not isinstance(error, boto.ClientError):
        reason = " ".join(str(error).split())
        if "endpoint" in reason:  # the text repeats the endpoint, which may hold a password
            return InputError(f"{url}: {NO_ENDPOINT}")
        return InputError(f"{url}: not an address S3 can use ({reason})")
    code, bucket = code_of(error), url.removeprefix("s3://").partition("/")[0]
    if code in MISSING:
        return UnreadableFile(f"{url}: no such object", missing=True)
    if code == "NoSuchBucket":
        return InputError(
            f"{url}: there is no bucket {bucket!r} at {s3.endpoint}; create it, or mend the address"
        )
    if code in REFUSED_CREDENTIALS:
        return InputError(
            f"{url}: the S3 server at {s3.endpoint} refuses the credentials ({code}); "
            "check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
        )
    if code in FORBIDDEN:
        return UnreadableFile(f"{url}: these credentials may not {error.operation_name} here ({code})")
    if error.response.get("ResponseMetadata", {}).get("HTTPStatusCode") in retry.TRANSIENT_STATUS:
        if code.isdecimal() and not s3.retry_policy.answered:  # not an error code of S3
            return _no_server(url, code)
        return RunError(f"{url}: the S3 server at {s3.endpoint} keeps failing ({code})")
    reason = f"{code}: {error.response.get('Error', {}).get('Message', '')}"
    return InputError(f"{url}: the S3 server at {s3.endpoint} refuses {error.operation_name} ({reason})")
