import base64
import hashlib
import io
import os
import re
import shutil
import subprocess
import time
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from lglm_core.pages.charts import EDGES_AT_MOST, epoch_ticks, ring, ring_order, round_ticks
from lglm_core.pages.neighbours import Neighbour, neighbours_page
from lglm_core.pages.pictures import thumbnail
from lglm_core.pages.report import (
    BARS_PER_END,
    EpochRecord,
    Example,
    LabelResult,
    Report,
    bar_groups,
    by_ap,
    readings,
    report_page,
)

EVIL = "<script>alert(1)</script>"
EVIL_IMAGE = "\"'><img src=x onerror=\"document.title='owned'\">"
VOID = {"meta", "img", "input", "br", "link", "hr"}
METRICS = {
    "mAP": 71.23,
    "mAP_low": 69.87,
    "mAP_high": 72.64,
    "CP": 74.1,
    "CR": 62.8,
    "CF1": 68.04,
    "OP": 80.4,
    "OR": 70.1,
    "OF1": 74.9,
    "top3": {"CP": 76.0, "CR": 59.3, "CF1": 66.6, "OP": 81.9, "OR": 66.2, "OF1": 73.2},
    "n_images": 2000,
    "prior_mAP": 21.0,
    "labels_without_positives": ["unicorn"],
}


def jpeg(colour: str = "teal") -> bytes:
    return thumbnail(Image.new("RGB", (64, 48), colour))


def example(key: str = "coco_1") -> Example:
    return Example(
        key, jpeg(), ("dog", "person", "cat"), {"dog": 0.973, "car": 0.611, "cat": 0.312, "bus": 0.043}
    )


def small_report() -> Report:
    return Report(
        title="LGLM on four labels",
        split="test",
        metrics=METRICS,
        labels=[
            LabelResult("dog", 1234, 71.26, 90.1, 63.2, 74.3, 12.4),
            LabelResult("unicorn", 0, None, 0.0, 0.0, 0.0, 0.0),
            LabelResult("person", 5678, 95.5, 91.1, 92.2, 91.6, 42.5),
            LabelResult("cat", 77, 33.3, 44.4, 22.2, 29.6, 3.8),
        ],
        examples=[example("coco_1")],
        hardest=[example("coco_2")],
        history=[
            EpochRecord(1, 2.5, None, 30.04),
            EpochRecord(2, 1.25, 60.04, 31.0),
            EpochRecord(3, 0.9, 58.8, 31.5),
        ],
        graph=[("dog", "person", 0.4321), ("cat", "dog", -0.1234)],
        facts={"Backbone": "ResNet-101", "Fingerprint": "9f2c51ab"},
    )


def small_search() -> str:
    found = [
        Neighbour(2, "coco_8", None, 0.7654, (), {}),
        Neighbour(1, "coco_7", jpeg("red"), 0.98765, ("dog", "sofa"), {"dog": 0.912, "bus": 0.023}),
    ]
    return neighbours_page("Like this one", "query.jpg", jpeg(), {"dog": 0.777}, found)


class Page(HTMLParser):
    """Reads a page, asserts that its tags balance, and keeps elements, addresses and text."""

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


def both_pages() -> list[str]:
    return [report_page(small_report()), small_search()]


@pytest.mark.parametrize("html", both_pages(), ids=["report", "search"])
def test_a_page_is_whole_and_refers_to_nothing_outside(html):
    page = Page(html)
    assert page.tags[:2] == ["html", "head"]
    assert all(address.startswith(("#", "data:image/jpeg;base64,")) for address in page.addresses)
    assert not re.search(r"https?://|@import|url\(", html)


@pytest.mark.parametrize("html", both_pages(), ids=["report", "search"])
def test_every_picture_has_an_alternative_text_and_ids_are_unique(html):
    page = Page(html)
    alternatives = [value for name, value in page.attributes if name == "alt"]
    ids = [value for name, value in page.attributes if name == "id"]
    assert len(alternatives) == page.tags.count("img") and all(alternatives)
    assert len(ids) == len(set(ids))
    assert {address[1:] for address in page.addresses if address.startswith("#")} <= set(ids)


def test_the_report_shows_every_number():
    text = Page(report_page(small_report())).text
    metrics = "71.2 69.9 72.6% 74.1% 62.8% 68.0% 80.4% 70.1% 74.9% 76.0% 59.3% 66.6% 81.9% 66.2% 73.2% 21.0%"
    labels = "71.3% 95.5% 33.3% 90.1 63.2 74.3 12.4 91.1 92.2 91.6 42.5 44.4 22.2 29.6 3.8 1,234 5,678 77"
    pictures = "97.3% 61.1% 31.2% 4.3% coco_1 coco_2"
    others = "2,000 2.5000 1.2500 0.9000 60.0 58.8 31.5 0.432 -0.123 ResNet-101 9f2c51ab"
    missing = [n for n in f"{metrics} {labels} {pictures} {others}".split() if n not in text]
    assert missing == []


def test_the_search_page_shows_every_number_nearest_first():
    text = Page(small_search()).text
    assert [
        n for n in ["77.7%", "0.988", "0.765", "91.2%", "2.3%", "dog, sofa", "query.jpg"] if n not in text
    ] == []
    assert text.index("coco_7") < text.index("coco_8")
    assert "The picture could not be read" in text


def test_a_label_without_positives_is_shown_as_such():
    page = Page(report_page(small_report()))
    assert ["unicorn", "no positives", "0.0", "0.0", "0.0", "0.0", "0"] in page.cells
    assert "No picture of this split carries unicorn:" in page.text


def test_the_interval_stands_beside_map_and_is_left_out_where_there_is_none():
    shown = "would give 69.9 to 72.6% (95% bootstrap interval)"
    assert shown in Page(report_page(small_report())).text
    nothing = replace(small_report(), metrics={**METRICS, "mAP_low": None, "mAP_high": None})
    earlier = {name: value for name, value in METRICS.items() if name not in ("mAP_low", "mAP_high")}
    for page in (nothing, replace(small_report(), metrics=earlier)):
        assert "interval" not in Page(report_page(page)).text


def test_what_users_name_is_inert():
    hostile = small_report()
    for bad in (EVIL, EVIL_IMAGE):
        hostile = replace(
            hostile,
            title=bad,
            split=bad,
            metrics={**METRICS, "labels_without_positives": [bad]},
            labels=[*hostile.labels, LabelResult(bad, 1, 50.0, 1.0, 1.0, 1.0, 1.0)],
            examples=[Example(bad, jpeg(), (bad, bad + "2"), {bad: 0.9})],
            graph=[(bad, "dog", 1.0), *hostile.graph],
            facts={bad: bad},
        )
        found = [Neighbour(1, bad, jpeg(), 0.5, (bad,), {bad: 0.5})]
        for html in (report_page(hostile), neighbours_page(bad, bad, jpeg(), {bad: 0.5}, found)):
            page = Page(html)
            assert bad in page.text
            assert page.tags.count("script") == ("label-table" in html)
            assert not any(name.startswith("on") for name, _ in page.attributes)


def script_policy(html: str) -> str:
    policy = next(
        value for name, value in Page(html).attributes if name == "content" and "script-src" in value
    )
    return policy.split("script-src ")[1].split(";")[0]


def test_only_our_script_may_run():
    html = report_page(small_report())
    source = re.search(r"<script>(.*?)</script>", html, re.DOTALL)
    assert source
    digest = base64.b64encode(hashlib.sha256(source[1].encode()).digest()).decode()
    assert script_policy(html) == f"'sha256-{digest}'"
    assert script_policy(small_search()) == "'none'"


def test_the_same_values_give_the_same_page():
    assert report_page(small_report()) == report_page(small_report())
    assert small_search() == small_search()


def test_sections_without_matter_are_left_out():
    bare = Report("Bare", "val", {"mAP": None}, [], [], [], [], [], {})
    page = Page(report_page(bare))
    assert page.addresses == ["#metrics"]
    assert page.tags.count("section") == 1
    assert "Nothing was found" in Page(neighbours_page("t", "q", jpeg(), {}, [])).text


def test_ten_thousand_labels_stay_quick_and_small():
    labels = [LabelResult(f"concept {i:05d}", i, i / 100, 50.0, 50.0, 50.0, 1.0) for i in range(10_000)]
    started = time.process_time()
    html = report_page(replace(small_report(), labels=labels))
    assert time.process_time() - started < 2.0
    assert len(html.encode()) < 5_000_000
    page = Page(html)
    assert page.tags.count("tr") > 10_000
    assert page.tags.count("li") < 2 * BARS_PER_END + 50
    assert ["concept 00000", "0.0", "1.0", "50.0", "50.0", "50.0", "0"] in page.cells


def test_only_both_ends_of_a_long_ranking_become_bars():
    labels = [LabelResult(str(i), 1, float(i), 0, 0, 0, 0) for i in range(2 * BARS_PER_END + 1)]
    best, worst = bar_groups(by_ap([*labels, LabelResult("empty", 0, None, 0, 0, 0, 0)]))
    assert [best.labels[0].label, worst.labels[0].label] == [str(2 * BARS_PER_END), "0"]
    assert len({result.label for group in (best, worst) for result in group.labels}) == 2 * BARS_PER_END


def test_verdicts_by_hand():
    told = [(each.label, each.verdict, each.is_ceiling) for each in readings(example())]
    assert told == [
        ("dog", "right", False),
        ("car", "false alarm", False),
        ("cat", "missed", False),
        ("bus", "left out", False),
        ("person", "missed", True),  # no score: at most bus's, so below one half
    ]


def test_a_true_label_hidden_behind_high_scores_is_not_called_missed():
    crowded = Example("k", b"", ("dog", "cat"), {"dog": 0.9})
    assert [each.verdict for each in readings(crowded)] == ["right", "not shown"]


@pytest.mark.parametrize(
    ("low", "high"), [(0.0, 1.0), (31.2, 71.9), (2.0, 2.0), (0.0, 0.0), (1e-7, 3e-7), (5, 4e6)]
)
def test_ticks_enclose_the_values(low, high):
    ticks = round_ticks(low, high)
    assert ticks[0] <= low and ticks[-1] >= high
    assert 2 <= len(ticks) <= 8


@pytest.mark.parametrize(("first", "last"), [(1, 1), (0, 3), (1, 30), (4, 33), (7, 1000)])
def test_epoch_ticks_are_few_and_inside(first, last):
    ticks = epoch_ticks(first, last)
    assert ticks[0] == first and ticks[-1] <= last
    assert ticks == sorted(set(ticks)) and len(ticks) <= 8


def test_the_graph_draws_the_strongest_edges_only():
    drawn = ring(
        [("hub", f"label {i}", 0.01 * (i + 1) * (-1) ** i) for i in range(100)] + [("hub", "hub", 9.0)]
    )
    assert drawn and len(drawn.threads) == EDGES_AT_MOST
    assert [thread.weight for thread in drawn.threads[:2]] == [-1.0, 0.99]
    assert {node.label for node in drawn.nodes} == {t.target for t in drawn.threads} | {"hub"}


def test_linked_labels_sit_together():
    assert ring_order([("a", "b", 0.9), ("x", "y", 0.8), ("b", "c", 0.7)]) == ["a", "b", "c", "x", "y"]


@pytest.mark.parametrize("edges", [[], [("a", "a", 1.0)], [("a", "b", 0.0)], [("a", "b", float("nan"))]])
def test_a_graph_with_nothing_to_draw_is_left_out(edges):
    assert 'id="graph"' not in report_page(replace(small_report(), graph=edges))


def test_a_diverged_epoch_is_no_point_of_the_curve():
    history = [EpochRecord(1, 2.0, None, 1.0), EpochRecord(2, float("nan"), float("nan"), 1.0)]
    html = report_page(replace(small_report(), history=history))
    assert "Training loss: 2.000 at epoch 1, 2.000 at epoch 1, lowest 2.000 at epoch 1." in html
    assert "nan" not in Page(html).text.lower()


def test_a_thumbnail_is_upright_opaque_and_without_metadata():
    tall = Image.new("RGBA", (600, 300), (255, 0, 0, 0))
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    exif[0x010E] = "a secret"
    stored = io.BytesIO()
    tall.save(stored, "PNG", exif=exif)
    small = Image.open(io.BytesIO(thumbnail(Image.open(stored), side=100)))
    assert (small.format, small.mode, small.size) == ("JPEG", "RGB", (50, 100))
    assert small.getpixel((25, 50)) == (255, 255, 255)
    assert len(small.getexif()) == 0


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "CMYK", "RGBA", "I;16"])
def test_a_thumbnail_takes_any_mode_and_never_enlarges(mode):
    assert Image.open(io.BytesIO(thumbnail(Image.new(mode, (30, 20))))).size == (30, 20)


def chromium() -> str:
    """Find the browser; without one a laptop skips and a build server fails."""
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if found := shutil.which(name):
            return found
    if os.environ.get("CI") == "true":
        pytest.fail("no chromium on this machine; install it with apt-get install chromium")
    pytest.skip("no chromium on this machine")


def dumped_dom(html: str, fragment: str, folder: Path) -> str:
    """Return the page as it stands after its scripts ran."""
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


def label_rows(page: Page, known: set[str]) -> list[str]:
    return [cells[0] for cells in page.cells if len(cells) == 7 and cells[0] in known]


def test_in_a_browser_the_table_sorts_and_hostile_labels_do_nothing(tmp_path):
    report = small_report()
    hostile = LabelResult(EVIL_IMAGE, 3, 50.0, 1.0, 99.0, 1.0, 1.0)
    report = replace(report, labels=[*report.labels, hostile])
    html = dumped_dom(report_page(report), "#sort=recall", tmp_path)
    page = Page(html)
    rows = label_rows(page, {result.label for result in report.labels})
    assert rows == ["unicorn", "cat", "dog", "person", EVIL_IMAGE]  # in the file they go by AP
    assert '<th scope="col" aria-sort="ascending"><button type="button">Recall</button></th>' in html
    assert [value for name, value in page.attributes if name == "aria-sort"] == ["ascending"]
    assert "5 of 5" in page.text
    assert "<title>LGLM on four labels</title>" in html


def test_in_a_browser_a_click_sorts_and_typing_filters(tmp_path):
    """A hand for the page: our policy would refuse it, so this one test goes without the policy."""
    hand = """<script>
        for (const _ of [1, 2]) document.querySelectorAll("#label-table button")[1].click();
        const field = document.getElementById("label-filter");
        field.value = "O";
        field.dispatchEvent(new Event("input"));
    </script></body>"""
    html = re.sub(r"<meta http-equiv[^>]*>", "", report_page(small_report())).replace("</body>", hand)
    page = Page(dumped_dom(html, "", tmp_path))
    # The first click turns the order round, the second turns it back; what has no AP stays last.
    assert label_rows(page, {"dog", "unicorn", "person", "cat"}) == ["person", "dog", "cat", "unicorn"]
    assert "3 of 4" in page.text
