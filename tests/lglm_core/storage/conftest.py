"""Folders in buckets and files on web servers that the tests of storage share."""

import itertools
from collections.abc import Callable

import pytest

from tests.lglm_core.storage.contract import BODY
from tests.servers.s3 import S3Server
from tests.servers.web import Website

numbers = itertools.count()


@pytest.fixture(params=["rclone", "moto"])
def server(request: pytest.FixtureRequest, connect_to: Callable[..., None]) -> S3Server:
    """Each of both S3 servers in turn; this process is connected to it."""
    found: S3Server = request.getfixturevalue(request.param)
    connect_to(found)
    return found


@pytest.fixture
def folder(server: S3Server) -> str:
    """A prefix of the test's own on each of both S3 servers."""
    return f"s3://bucket/{next(numbers)}"


@pytest.fixture
def moto_folder(moto: S3Server, connect_to: Callable[..., None]) -> str:
    """A prefix of the test's own on moto."""
    connect_to(moto)
    return f"s3://bucket/{next(numbers)}"


@pytest.fixture
def rclone_folder(rclone: S3Server, connect_to: Callable[..., None]) -> str:
    """A prefix of the test's own on rclone."""
    connect_to(rclone)
    return f"s3://bucket/{next(numbers)}"


@pytest.fixture
def site(site: Website) -> Website:
    """A web server of the test's own with some files."""
    site.files |= {"/x": BODY, "/empty": b"", "/a b/ü%.jpg": b"named"}
    return site
