"""Objects in a bucket, ``s3://bucket/key``: a file is an object, a folder a prefix that ends in a slash.

An object appears whole or not at all, so what was killed leaves nothing behind that could be read.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from boto3.s3.transfer import TransferConfig
from botocore.exceptions import ClientError
from s3transfer.manager import TransferManager

from lglm_core.errors import InputError, RunError
from lglm_core.storage.location import Location, StoredFile, exists
from lglm_core.storage.resuming import CHUNK, Download
from lglm_core.storage.s3_client import (
    FORBIDDEN,
    MISSING,
    TRANSIENT,
    TRANSIENT_CODES,
    code_of,
    connect,
    explained,
    refusals,
)

KEYS_PER_DELETION = KEYS_PER_PAGE = 1000  # S3's own limits
BARE = {*MISSING, *FORBIDDEN, "400", "Bad Request"}  # codes that tell no reason
UPLOADS = 5  # of one file whose finished multipart upload the server no longer knows


class S3Location:
    """An object, or the prefix that its key and a slash are."""

    def __init__(self, url: str) -> None:
        self.url = url
        # Taken apart by hand: a key may hold what a URL's path may not, such as '?', '#' or '//'.
        self.bucket, _, self.key = url.removeprefix("s3://").partition("/")
        if "@" in self.bucket or ":" in self.bucket:  # not repeated: it may be a secret
            raise InputError(
                "an s3:// address holds more than bucket and key; credentials and server belong into "
                "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_ENDPOINT_URL"
            )
        if not self.bucket:
            raise InputError(f"{url}: names no bucket; s3://bucket/key was expected")
        self.prefix = f"{self.key.rstrip('/')}/" if self.key else ""
        self.s3 = connect()

    def is_file(self) -> bool:
        """Tell whether there is an object that is no mark of a folder."""
        return bool(self.key) and not self.key.endswith("/") and exists(self)

    def stat(self) -> StoredFile:
        """Ask for the object's size and ETag."""
        with refusals(self.url):
            try:
                answer = self.s3.client.head_object(Bucket=self.bucket, Key=self.key)
            except ClientError as error:
                if code_of(error) in BARE:  # as HEAD has no body, the reason is asked for once more
                    self.first_below()
                raise
        return StoredFile(self.key, answer.get("ContentLength", 0), self.etag_of(answer).strip('"'))

    def is_folder(self) -> bool:
        """Tell whether any object lies below."""
        return self.first_below() is not None

    def is_empty(self) -> bool:
        """Tell whether no object lies below."""
        return not self.is_folder()

    def lies_within(self, other: Location) -> bool:
        """Tell whether this is *other* or something below it."""
        return (
            isinstance(other, S3Location)
            and other.bucket == self.bucket
            and self.prefix.startswith(other.prefix)
        )

    def open(self) -> BufferedReader:
        """Open the object."""
        return BufferedReader(_Download(self, 0, None), CHUNK)

    def read_range(self, offset: int, size: int) -> bytes:
        """Read *size* bytes from *offset*."""
        if size <= 0:
            return b""
        with _Download(self, offset, offset + size) as download:
            return download.readall()

    @contextmanager
    def staging(self) -> Iterator[Path]:
        """Yield a scratch path on this machine, of a name that the key has no say in."""
        with TemporaryDirectory(prefix="lglm-upload-", ignore_cleanup_errors=True) as folder:
            yield Path(folder, "object")

    def publish(self, staged: Path) -> None:
        """Upload *staged*; a large file in parts, several at a time."""
        with refusals(self.url):
            for left in reversed(range(UPLOADS)):
                try:
                    with TransferManager(self.s3.client, TransferConfig()) as manager:
                        manager.upload(str(staged), self.bucket, self.key).result()
                    return
                except ClientError as error:
                    # The answer to the last request was lost, and the server asked again: which upload?
                    if code_of(error) != "NoSuchUpload" or not left:
                        raise

    def create(self, staged: Path) -> bool:
        """Upload *staged* on the condition that there is no object yet."""
        with refusals(self.url), staged.open("rb") as body:
            try:
                self.s3.client.put_object(Bucket=self.bucket, Key=self.key, Body=body, IfNoneMatch="*")
            except ClientError as error:
                if code_of(error) in ("PreconditionFailed", "412"):
                    return False
                if code_of(error) not in ("NotImplemented", "501"):
                    raise
            else:
                return True
        if self.is_file():  # a server that knows no conditions
            return False
        self.publish(staged)
        return True

    def remove(self) -> None:
        """Delete the object and all objects below."""
        keys = [*([self.key] if self.is_file() else []), *(found["Key"] for found in self._below())]
        with refusals(self.url):
            for first in range(0, len(keys), KEYS_PER_DELETION):
                self._delete(keys[first : first + KEYS_PER_DELETION])

    def _delete(self, keys: list[str]) -> None:
        attempts, failing_since = 0, time.monotonic()
        while keys:
            objects = [{"Key": key} for key in keys]
            answer = self.s3.client.delete_objects(
                Bucket=self.bucket, Delete={"Objects": objects, "Quiet": True}
            )
            refused = {error["Key"]: error.get("Code") for error in answer.get("Errors", [])}
            keys = [key for key, code in refused.items() if code not in MISSING]
            if not keys:
                return
            attempts += 1
            delay = self.s3.patience.delay(attempts, failing_since)
            code = refused[keys[0]]
            if delay is None or code not in TRANSIENT_CODES:
                kind = RunError if code in TRANSIENT_CODES else InputError
                raise kind(f"s3://{self.bucket}/{keys[0]}: cannot be deleted ({code})")
            time.sleep(delay)

    def remove_unfinished(self) -> None:
        """Do nothing: an upload that was not finished is no object."""

    def list_files(self) -> list[StoredFile]:
        """List every object below, page by page; an empty one whose key ends in a slash marks a folder."""
        files = [
            StoredFile(found["Key"][len(self.prefix) :], found["Size"], found["ETag"].strip('"'))
            for found in self._below()
        ]
        if not files:
            raise InputError(f"{self.url}: no such folder (no object's key begins with {self.prefix!r})")
        return sorted(files, key=lambda file: file.name)

    def _below(self, page_size: int = KEYS_PER_PAGE) -> Iterator[dict[str, Any]]:
        with refusals(self.url):
            pages = self.s3.client.get_paginator("list_objects_v2").paginate(
                Bucket=self.bucket, Prefix=self.prefix, PaginationConfig={"PageSize": page_size}
            )
            for page in pages:
                for found in page.get("Contents", []):
                    if found["Size"] or not found["Key"].endswith("/"):
                        yield found

    def first_below(self) -> str | None:
        """Return the first key below; asking also tells a bucket that is not there, and bad credentials."""
        return next((found["Key"] for found in self._below(page_size=2)), None)

    def etag_of(self, answer: dict[str, Any]) -> str:
        """Return an answer's ETag; what answers without one, as a web server would, is refused."""
        if "ETag" not in answer:
            raise InputError(
                f"{self.url}: what answers at {self.s3.endpoint} is no S3 server; check AWS_ENDPOINT_URL"
            )
        return str(answer["ETag"])


class _Download(Download):
    """An object's bytes."""

    _transient = TRANSIENT

    def __init__(self, place: S3Location, start: int, stop: int | None) -> None:
        self._place = place
        super().__init__(place.url, place.s3.patience, start, stop)

    def _given_up(self, error: Exception) -> Exception:
        return explained(self._url, error)

    def _request(self) -> None:
        place = self._place
        last = "" if self._stop is None else self._stop - 1
        wanted = {"Range": f"bytes={self._position}-{last}"} if self._position or self._stop else {}
        self._end = self._position
        with refusals(place.url):
            try:
                answer = place.s3.client.get_object(Bucket=place.bucket, Key=place.key, **wanted)
            except ClientError as error:
                if code_of(error) in ("InvalidRange", "416"):  # it begins behind the object's end
                    if self._version is not None:  # which was not there before
                        raise self._replaced() from error
                    return
                if code_of(error) in MISSING:  # or is it the bucket that is?
                    place.first_below()
                raise
        self._check_version(place.etag_of(answer))
        self._body = answer["Body"]
        self._end = self._position + answer["ContentLength"]
