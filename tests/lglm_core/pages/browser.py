"""Reads pages with a parser and in a headless browser, and holds names that a hostile user might choose."""

import os
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from lglm_core.pages.pictures import thumbnail

EVIL = "<script>alert(1)</script>"
EVIL_IMAGE = "\"'><img src=x onerror=\"document.title='owned'\">"
VOID = {"meta", "img", "input", "br", "link", "hr"}


def jpeg(colour: str = "teal") -> bytes:
    return thumbnail(Image.new("RGB", (64, 48), colour))


class Page(HTMLParser):
    """Parses a page, asserts that its tags balance, and keeps elements, addresses and text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.addresses: list[str] = []
        self.cells: list[list[str]] = []
        self.text = ""
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.handle_startendtag(tag, attrs)
        if tag == "tr":
            self.cells.append([])
        if tag in ("td", "th"):
            self.cells[-1].append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        self.addresses += [
            value or "" for name, value in attrs if name in ("src", "href", "srcset", "xlink:href")
        ]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] in ("script", "style"):
            return
        self.text += data
        if "td" in self.open or "th" in self.open:
            self.cells[-1][-1] += data

    def values(self, attribute: str) -> list[str | None]:
        """Return the values of an attribute, of all elements in their order."""
        return [value for name, value in self.attributes if name == attribute]


def assert_self_contained(html: str, *, has_links: bool = True) -> None:
    """Assert that a page refers only to itself, and without links only to embedded pictures."""
    page = Page(html)
    assert page.tags[:2] == ["html", "head"]
    allowed = ("#", "data:image/jpeg;base64,") if has_links else ("data:image/jpeg;base64,",)
    assert all(address.startswith(allowed) for address in page.addresses)
    assert not re.search(r"https?://|@import|url\(", html)


def assert_accessible(html: str) -> None:
    """Assert that every picture has an alternative text, and that ids are unique and references resolve."""
    page = Page(html)
    alternatives, ids = page.values("alt"), page.values("id")
    assert len(alternatives) == page.tags.count("img") and all(alternatives)
    assert len(ids) == len(set(ids))
    assert {address[1:] for address in page.addresses if address.startswith("#")} <= set(ids)
    assert set(page.values("aria-labelledby")) <= set(ids)


def assert_inert(html: str, name: str, *, scripts: int) -> None:
    """Assert that a page shows a hostile name as text, and runs no other script than our own."""
    page = Page(html)
    assert name in page.text
    assert page.tags.count("script") == scripts
    assert not any(attribute.startswith("on") for attribute, _ in page.attributes)


def script_policy(html: str) -> str:
    """Return the part of a page's content security policy that is about scripts."""
    policy = next(
        value for name, value in Page(html).attributes if name == "content" and "script-src" in value
    )
    return policy.split("script-src ")[1].split(";")[0]


def with_script(html: str, script: str) -> str:
    """Add a script to a page, and remove the policy that forbids it."""
    unprotected = re.sub(r"<meta http-equiv[^>]*>", "", html)
    return unprotected.replace("</body>", f"<script>{script}</script></body>")


def chromium() -> str:
    """Return the browser's path; without a browser a laptop skips the test, and a build server fails."""
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if found := shutil.which(name):
            return found
    if os.environ.get("CI") == "true":
        pytest.fail("no chromium on this machine; install it with apt-get install chromium")
    pytest.skip("no chromium on this machine")


def dumped_dom(html: str, fragment: str, folder: Path) -> str:
    """Return the page's HTML after its scripts ran in a browser."""
    page = folder / "page.html"
    page.write_text(html, encoding="utf-8")
    quiet = [
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
    ]
    plain = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-dev-shm-usage"]
    profile = f"--user-data-dir={folder / 'profile'}"
    command = [chromium(), *plain, *quiet, profile, "--dump-dom", page.as_uri() + fragment]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout


def scroll_width(html: str, width: int, folder: Path) -> int:
    """Return the width in pixels that a page takes in a window of the given width.

    The page is measured in a frame of that width, because a headless window has a minimum width.
    """
    frame = folder / "inner.html"
    script = 'parent.postMessage(document.documentElement.scrollWidth, "*")'
    frame.write_text(with_script(html, script), encoding="utf-8")
    outer = f"""<!DOCTYPE html><html><head><title>waiting</title></head><body>
        <script>addEventListener("message", event => document.title = event.data)</script>
        <iframe src="{frame.as_uri()}" style="width:{width}px;height:900px;border:0"></iframe>
        </body></html>"""
    found = re.search(r"<title>(\d+)</title>", dumped_dom(outer, "", folder))
    assert found
    return int(found[1])
