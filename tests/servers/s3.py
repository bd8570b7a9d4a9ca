"""Real S3 servers, each strict where the other is not, and a bad connection to either.

rclone checks signatures and keeps objects as plain files, but ignores conditions on a put. moto
keeps to conditions and knows more of S3, but asks nobody who they are.
"""

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import uuid4

from tests.servers.faulty import KINDS, FaultyProxy, proxied
from tests.servers.process import listening

REGION = "us-east-1"
SECONDS_TO_START = 60.0
BIN = Path(sys.executable).parent


@dataclass(frozen=True)
class S3Server:
    """Where a server listens, and as whom to speak to it."""

    url: str
    key: str
    secret: str

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs to reach this server, and nothing else."""
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": self.key,
            "AWS_SECRET_ACCESS_KEY": self.secret,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def client(self, **options: Any) -> Any:
        """A client for the tests' own use, apart from the code under test; *options* go to its Config."""
        import boto3
        from botocore.config import Config

        config = Config(
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            s3={"addressing_style": "path"},
            proxies={},
        ).merge(Config(**options))
        session = boto3.session.Session(self.key, self.secret, region_name=REGION)
        return session.client("s3", endpoint_url=self.url, config=config)

    def put_bucket(self, name: str) -> str:
        """Create a bucket; its URL."""
        self.client().create_bucket(Bucket=name)
        return f"s3://{name}"


def reaching(server: S3Server, environment: Mapping[str, str], **changed: str | None) -> dict[str, str]:
    """Return an environment with the settings of a server, and no others of S3; None takes one away."""
    others = {name: value for name, value in environment.items() if not name.startswith("AWS_")}
    settings = {**server.environment, **changed}
    return others | {name: value for name, value in settings.items() if value is not None}


def upload(server: S3Server, folder: Path, bucket: str) -> None:
    """Put every file below a folder into a bucket, by its path in the folder."""
    client = server.client()
    for path in folder.rglob("*"):
        if path.is_file():
            client.upload_file(str(path), bucket, path.relative_to(folder).as_posix())


def download(server: S3Server, bucket: str, prefix: str, folder: Path) -> Path:
    """Fetch every object of that prefix into a folder, by what follows the prefix; return the folder."""
    client = server.client()
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
    for found in (found for page in pages for found in page.get("Contents", [])):
        path = folder / found["Key"].removeprefix(prefix)
        path.parent.mkdir(parents=True, exist_ok=True)
        client.download_file(bucket, found["Key"], str(path))
    return folder


@contextmanager
def rclone_s3(folder: Path) -> Iterator[S3Server]:
    """Serve a folder: each folder in it is a bucket, each file below an object. Checks signatures.

    Lay files into it before it starts, or put them through it: it remembers folders that it has listed
    for minutes, and is ten times slower if told not to.
    """
    key, secret = f"key-{uuid4().hex[:12]}", uuid4().hex

    with TemporaryDirectory(prefix="lglm-rclone-") as home:

        def command(port: int) -> Sequence[object]:
            return [
                *(BIN / "rclone", "serve", "s3", folder, "--addr", f"127.0.0.1:{port}"),
                *("--auth-key", f"{key},{secret}"),
            ]

        environment = {**os.environ, "HOME": home, "RCLONE_CONFIG": os.devnull, "RCLONE_CACHE_DIR": home}

        def server(port: int) -> S3Server:
            return S3Server(f"http://127.0.0.1:{port}", key, secret)

        with listening(
            command, environment, lambda port: answers(server(port)), timeout_s=SECONDS_TO_START
        ) as port:
            yield server(port)


@contextmanager
def moto_s3() -> Iterator[S3Server]:
    """Serve objects from memory. Keeps to If-Match and If-None-Match; lets everybody in."""

    def server(port: int) -> S3Server:
        return S3Server(f"http://127.0.0.1:{port}", "key-of-moto", "secret-of-moto")

    def command(port: int) -> Sequence[object]:
        return [BIN / "moto_server", "--host", "127.0.0.1", "--port", port]

    with listening(
        command, os.environ, lambda port: answers(server(port)), timeout_s=SECONDS_TO_START
    ) as port:
        yield server(port)


def answers(server: S3Server) -> bool:
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        server.client(connect_timeout=2, read_timeout=10, retries={"total_max_attempts": 1}).list_buckets()
    except (BotoCoreError, ClientError):
        return False
    return True


@dataclass(frozen=True)
class FaultyServer(S3Server):
    """A server behind a bad connection, which counts."""

    proxy: FaultyProxy = field(repr=False, compare=False)

    @property
    def requests(self) -> int:
        """Requests that came in."""
        return self.proxy.requests

    @property
    def faults(self) -> int:
        """Requests among them that went wrong; ``proxy.faults`` has them by kind."""
        return self.proxy.faults.total()


@contextmanager
def faulty(
    server: S3Server, *, share: float = 0.1, seed: int = 0, kinds: Sequence[str] = KINDS
) -> Iterator[FaultyServer]:
    """Put a bad connection before a server.

    Args:
        server: The real one.
        share: The fraction of requests that go wrong, drawn for each.
        seed: Of the draws: the n-th request to arrive always meets the same fate.
        kinds: ``503``: SlowDown, without asking the server. ``drop_request``: closed without an
            answer; half of them after the server did what was asked. ``drop_body``: closed in the
            middle of an answer with a body, to GET and POST. Not among the default ones: ``500``, without
            asking the server either, and ``stall``: no answer for a few seconds, then closed.
    """
    host, _, port = server.url.removeprefix("http://").partition(":")
    with proxied(FaultyProxy(host, int(port), share, seed, kinds)) as proxy:
        yield FaultyServer(f"http://127.0.0.1:{proxy.port}", server.key, server.secret, proxy)
