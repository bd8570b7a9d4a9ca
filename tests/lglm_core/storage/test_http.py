"""Files on web servers, against a real one that is as bad as each test wants it."""

from collections.abc import Callable
from urllib.parse import quote

import pytest

from lglm_core import storage
from tests.lglm_core.storage.contract import BODY, FILES, ReadOnlyContract, refusal
from tests.servers.web import Fate, Website


class TestWebServer(ReadOnlyContract):
    missing = "the web server has no such file (404 Not Found)"

    @pytest.fixture(params=[True, False], ids=["ranges", "no ranges"])
    def stored(self, site: Website, request: pytest.FixtureRequest) -> str:
        site.files = {f"/a folder/{name}": data for name, data in FILES.items()}
        site.ranges = request.param
        return f"{site.url}/a%20folder"

    def address(self, folder: str, name: str) -> str:
        return f"{folder}/{quote(name)}"

    @pytest.fixture
    def state(self, site: Website) -> Callable[[], object]:
        return lambda: list(site.seen)


pytestmark = pytest.mark.usefixtures("fresh_web")


def test_a_web_server_lists_no_files_and_is_not_asked_to(site: Website):
    assert "a web server lists no files" in refusal(storage.list_files, site.url)
    assert site.seen == []


def test_the_scheme_may_be_in_capitals(site: Website):
    assert storage.read_bytes(f"HTTP{site.url[4:]}/x") == BODY


@pytest.mark.parametrize("path", ["/a b/ü%25.jpg", "/a%20b/%C3%BC%25.jpg"])
def test_an_address_may_be_written_as_people_write_it(site: Website, path: str):
    assert storage.read_bytes(f"{site.url}{path}?width=3#top") == b"named"
    assert site.seen[-1][1].endswith("?width=3")


@pytest.mark.parametrize("ranges", [True, False])
def test_a_server_that_refuses_head_is_asked_for_one_byte(site: Website, ranges: bool):
    site.head, site.ranges = False, ranges
    assert storage.is_file(f"{site.url}/x") and not storage.is_file(f"{site.url}/none")
    assert storage.locate(f"{site.url}/x").stat().size == len(BODY)
    assert storage.is_file(f"{site.url}/empty")


def test_a_body_without_length_is_refused_because_it_may_be_cut_short(site: Website):
    site.lengths = False
    message = refusal(storage.read_bytes, f"{site.url}/x", kind=storage.UnreadableFile)
    assert message == f"{site.url}/x: the web server does not tell which bytes it sends"


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
def test_a_file_that_the_server_refuses_is_one_unreadable_file(
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
def test_an_invalid_web_address_is_refused_without_repeating_it(url: str):
    message = refusal(storage.read_bytes, url, kind=storage.UnreadableFile)
    assert message == f"{url.partition(':')[0]}://…: not a web address"
