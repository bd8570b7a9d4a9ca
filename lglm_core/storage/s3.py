"""Objects in a bucket, ``s3://bucket/key``: a file is an object, a folder a prefix that ends in a slash.

An object appears as a whole or not at all, so a killed writer leaves no file behind.
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
    errors_explained,
    explained,
)

KEYS_PER_DELETION = KEYS_PER_PAGE = 1000  # the limits of S3
WITHOUT_REASON = {*MISSING, *FORBIDDEN, "400", "Bad Request"}  # codes of an answer to HEAD
UPLOAD_ATTEMPTS = 5  # of one file, if the server forgets the multipart upload


class S3Location:
    """The object with a key, and the folder of objects whose keys begin with that key and a slash."""

    def __init__(self, url: str) -> None:
        self.url = url
        # Not by urlsplit: a key may hold characters that a URL's path may not, such as '?', '#' or '//'.
        self.bucket, _, self.key = url.removeprefix("s3://").partition("/")
        if "@" in self.bucket or ":" in self.bucket:  # the message does not repeat it: it may be a secret
            raise InputError(
                "an s3:// address holds more than bucket and key; credentials and server belong into "
                "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_ENDPOINT_URL"
            )
        if not self.bucket:
            raise InputError(f"{url}: names no bucket; s3://bucket/key was expected")
        self.prefix = f"{self.key.rstrip('/')}/" if self.key else ""
        self.s3 = connect()

    def is_file(self) -> bool:
        """Tell whether the object exists; a key that ends in a slash is a placeholder of a folder."""
        return bool(self.key) and not self.key.endswith("/") and exists(self)

    def stat(self) -> StoredFile:
        """Return the object's name, size and ETag, by a HEAD request."""
        with errors_explained(self.url):
            try:
                answer = self.s3.client.head_object(Bucket=self.bucket, Key=self.key)
            except ClientError as error:
                if code_of(error) in WITHOUT_REASON:  # an answer to HEAD has no body: ask again by listing
                    self.first_below()
                raise
        name, etag = self.key.rpartition("/")[2], self.etag_of(answer).strip('"')
        return StoredFile(name, answer.get("ContentLength", 0), etag)

    def is_folder(self) -> bool:
        """Tell whether any object lies below."""
        return self.first_below() is not None

    def is_empty(self) -> bool:
        """Tell whether no object lies below."""
        return not self.is_folder()

    def lies_within(self, other: Location) -> bool:
        """Tell whether this is *other* or lies below it."""
        return (
            isinstance(other, S3Location)
            and other.bucket == self.bucket
            and self.prefix.startswith(other.prefix)
        )

    def open(self) -> BufferedReader:
        """Open the object for reading from its start to its end."""
        return BufferedReader(_Download(self, 0, None), CHUNK)

    def read_range(self, offset: int, size: int) -> bytes:
        """Read *size* bytes from *offset*."""
        if size <= 0:
            return b""
        with _Download(self, offset, offset + size) as download:
            return download.readall()

    @contextmanager
    def staging(self) -> Iterator[Path]:
        """Yield a scratch path on this machine's disk; its name does not depend on the key."""
        with TemporaryDirectory(prefix="lglm-upload-", ignore_cleanup_errors=True) as folder:
            yield Path(folder, "object")

    def publish(self, staged: Path) -> None:
        """Upload *staged*; a large file as a multipart upload, several parts at a time."""
        with errors_explained(self.url):
            for left in reversed(range(UPLOAD_ATTEMPTS)):
                try:
                    with TransferManager(self.s3.client, TransferConfig()) as manager:
                        manager.upload(str(staged), self.bucket, self.key).result()
                    return
                except ClientError as error:
                    # The answer to the completing request was lost, and the retry finds the upload gone.
                    if code_of(error) != "NoSuchUpload" or not left:
                        raise

    def create(self, staged: Path) -> bool:
        """Upload *staged* unless the object exists, and return whether it was uploaded."""
        with errors_explained(self.url), staged.open("rb") as body:
            try:
                self.s3.client.put_object(Bucket=self.bucket, Key=self.key, Body=body, IfNoneMatch="*")
            except ClientError as error:
                if code_of(error) in ("PreconditionFailed", "412"):
                    return False
                if code_of(error) not in ("NotImplemented", "501"):
                    raise
            else:
                return True
        if self.is_file():  # a server without conditional requests
            return False
        self.publish(staged)
        return True

    def remove(self) -> None:
        """Delete the object and all objects below."""
        keys = [*([self.key] if self.is_file() else []), *(found["Key"] for found in self._below())]
        with errors_explained(self.url):
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
            delay = self.s3.retry_policy.delay(attempts, failing_since)
            code = refused[keys[0]]
            if delay is None or code not in TRANSIENT_CODES:
                kind = RunError if code in TRANSIENT_CODES else InputError
                raise kind(f"s3://{self.bucket}/{keys[0]}: cannot be deleted ({code})")
            time.sleep(delay)

    def remove_unfinished(self) -> None:
        """Do nothing: an unfinished upload is not an object."""

    def list_files(self) -> list[StoredFile]:
        """List every object below, except placeholders of folders: empty, with a key that ends in a slash."""
        files = [
            StoredFile(found["Key"][len(self.prefix) :], found["Size"], found["ETag"].strip('"'))
            for found in self._below()
        ]
        if not files:
            raise InputError(f"{self.url}: no such folder (no object's key begins with {self.prefix!r})")
        return sorted(files, key=lambda file: file.name)

    def _below(self, page_size: int = KEYS_PER_PAGE) -> Iterator[dict[str, Any]]:
        with errors_explained(self.url):
            pages = self.s3.client.get_paginator("list_objects_v2").paginate(
                Bucket=self.bucket, Prefix=self.prefix, PaginationConfig={"PageSize": page_size}
            )
            for page in pages:
                for found in page.get("Contents", []):
                    if found["Size"] or not found["Key"].endswith("/"):
                        yield found

    def first_below(self) -> str | None:
        """Return the first key below, or None; a missing bucket and bad credentials are errors."""
        return next((found["Key"] for found in self._below(page_size=2)), None)

    def etag_of(self, answer: dict[str, Any]) -> str:
        """Return the ETag of an answer; an answer without one comes from a web server and is refused."""
        if "ETag" not in answer:
            raise InputError(
                f"{self.url}: what answers at {self.s3.endpoint} is no S3 server; check AWS_ENDPOINT_URL"
            )
        return str(answer["ETag"])


class _Download(Download):
    """The bytes of an object."""

    _transient = TRANSIENT

    def __init__(self, location: S3Location, start: int, stop: int | None) -> None:
        self._location = location
        super().__init__(location.url, location.s3.retry_policy, start, stop)

    def _given_up(self, error: Exception) -> Exception:
        return explained(self._url, error)

    def _request(self) -> None:
        location = self._location
        last = "" if self._stop is None else self._stop - 1
        wanted = {"Range": f"bytes={self._position}-{last}"} if self._position or self._stop else {}
        self._end = self._position
        with errors_explained(location.url):
            try:
                answer = location.s3.client.get_object(Bucket=location.bucket, Key=location.key, **wanted)
            except ClientError as error:
                if code_of(error) in ("InvalidRange", "416"):  # the range begins behind the object's end
                    if self._version is not None:  # but the object was longer before
                        raise self._replaced() from error
                    return
                if code_of(error) in MISSING:  # raises the error if it is the bucket that is missing
                    location.first_below()
                raise
        self._check_version(location.etag_of(answer))
        self._body = answer["Body"]
        self._end = self._position + answer["ContentLength"]
