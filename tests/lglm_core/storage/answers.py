"""Answers that the S3 servers of the tests do not give by themselves."""

import io
from collections.abc import Callable, Iterator
from typing import Any

from botocore.awsrequest import AWSRequest, AWSResponse

from lglm_core.storage.s3_client import connect


class Body(io.BytesIO):
    """The raw body of an answer, as botocore reads it."""

    def stream(self) -> Iterator[bytes]:
        yield self.read()


def answer(
    *codes: tuple[int, str], operation: str = "*", when: Callable[[AWSRequest], bool] | None = None
) -> None:
    """Make this process's client get these answers in turn instead of the server's; the last one repeats.

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
