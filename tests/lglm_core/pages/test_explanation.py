import re
from dataclasses import replace

import pytest

from lglm_core.pages.explanation import (
    ExplainedModel,
    ExplainedPicture,
    LabelMaps,
    LabelView,
    explanation_page,
)
from tests.lglm_core.pages.test_report import EVIL, EVIL_IMAGE, Page, dumped_dom, jpeg, script_policy

MAX = ExplainedModel("lglm on resnet101", False, {"Pooling": "max", "Model fingerprint": "9f2c51ab"})
AVERAGE = ExplainedModel("vacit on resnet50", True, {"Pooling": "average", "Model fingerprint": "77aa"})
FIRST = LabelView(0.8834, 0.35, 2.0249, -4.2345, 6.4789, -0.2195, jpeg("orange"), jpeg("blue"))
SECOND = replace(FIRST, probability=0.0213, logit=-3.829, bias=-4.037)


def pictures(*views: LabelView) -> list[ExplainedPicture]:
    labels = (LabelMaps("dog", views, 0.4812, 3.5371), LabelMaps("traffic light", views, 0.2276, 1.25))
    return [
        ExplainedPicture("street.jpg", jpeg(), "The labels asked for.", labels),
        ExplainedPicture("room.jpg", jpeg(), "All labels given to it.", labels[:1]),
    ]


ONE = explanation_page([MAX], pictures(FIRST))
TWO = explanation_page([MAX, AVERAGE], pictures(FIRST, SECOND))
MEANS = explanation_page([AVERAGE], pictures(FIRST))
ALL = pytest.mark.parametrize("html", [ONE, TWO, MEANS], ids=["one", "two", "averages"])


@ALL
def test_the_page_is_whole_and_refers_to_nothing_outside(html: str):
    page = Page(html)
    assert page.tags[:2] == ["html", "head"]
    assert all(address.startswith("data:image/jpeg;base64,") for address in page.addresses)
    assert not re.search(r"https?://|@import|url\(", html)
    assert script_policy(html) == "'none'"


@ALL
def test_every_picture_has_an_alternative_text_and_ids_are_unique(html: str):
    page = Page(html)
    alternatives = [value for name, value in page.attributes if name == "alt"]
    ids = [value for name, value in page.attributes if name == "id"]
    assert len(alternatives) == page.tags.count("img") and all(alternatives)
    assert len(ids) == len(set(ids))
    named = [value for name, value in page.attributes if name == "aria-labelledby"]
    assert set(named) <= set(ids)


def test_every_number_is_shown():
    text = Page(TWO).text
    scales = "−0.48 +0.48 −3.54 +3.54 −0.23 +0.23 −1.25 +1.25"
    first, second = "88.3% +2.02 −4.23 +6.48 −0.22 35.0%", "2.1% −3.83 −4.04"
    facts = "street.jpg room.jpg 9f2c51ab 77aa"
    assert [n for n in f"{scales} {first} {second} {facts}".split() if n not in text] == []


@pytest.mark.parametrize(
    ("limit", "ends"),
    [
        (0.0, "0.00"),
        (0.0183, "0.018"),
        (0.00049, "0.00049"),
        (0.0999, "0.100"),
        (1.0, "1.00"),
        (34.5, "34.50"),
    ],
)
def test_a_small_scale_still_shows_two_digits(limit: float, ends: str):
    label = LabelMaps("dog", (FIRST,), limit, 1.0)
    text = Page(explanation_page([MAX], [ExplainedPicture("a", jpeg(), "", (label,))])).text
    assert f"−{ends}+{ends}logit" in text


def test_what_rounds_to_nothing_has_no_sign():
    for nothing in (0.0, -0.0, 0.004, -0.004):
        label = LabelMaps("dog", (replace(FIRST, lowered=nothing),), 1.0, 1.0)
        text = Page(explanation_page([MAX], [ExplainedPicture("a", jpeg(), "", (label,))])).text
        assert "lowered 0.00" in text


def test_two_models_stand_under_their_names():
    page = Page(TWO)
    assert "<h1>lglm on resnet101 beside vacit on resnet50</h1>" in TWO
    assert page.tags.count("figure") == 2 * 3
    headings = re.findall(r'<p class="model">(.*?)</p>', TWO)
    assert headings == 3 * ["lglm on resnet101", "vacit on resnet50"]
    assert '<p class="model">' not in ONE
    assert Page(ONE).tags.count("figure") == 3


def test_where_pooling_is_a_mean_both_maps_are_one_and_shown_once():
    page = Page(MEANS)
    assert "input" not in page.tags
    assert page.tags.count("img") == 2 + 3
    assert Page(ONE).tags.count("img") == 2 + 2 * 3
    assert "Class activation map" not in page.text


def test_what_users_name_is_inert():
    for bad in (EVIL, EVIL_IMAGE):
        label = LabelMaps(bad, (FIRST,), 1.0, 1.0)
        model = ExplainedModel(bad, False, {bad: bad})
        html = explanation_page([model], [ExplainedPicture(bad, jpeg(), bad, (label,))])
        page = Page(html)
        assert bad in page.text
        assert "script" not in page.tags
        assert not any(name.startswith("on") for name, _ in page.attributes)


def test_the_same_values_give_the_same_page():
    assert explanation_page([MAX], pictures(FIRST)) == ONE


@pytest.mark.parametrize("choice", ["show-attribution", "show-activation"])
def test_in_a_browser_the_switch_shows_one_map_at_a_time(tmp_path, choice: str):
    """A hand for the page: our policy would refuse it, so this one test goes without the policy."""
    hand = f"""<script>
        document.getElementById("{choice}").click();
        const seen = kind => [...document.querySelectorAll("." + kind)].filter(e => e.offsetParent).length;
        document.title = [seen("attribution"), seen("activation")];
    </script></body>"""
    html = re.sub(r"<meta http-equiv[^>]*>", "", TWO).replace("</body>", hand)
    shown = 6 + 3 + 1  # pictures, scales, and what the header says
    expected = f"{shown},0" if choice == "show-attribution" else f"0,{shown}"
    assert f"<title>{expected}</title>" in dumped_dom(html, "", tmp_path)


@pytest.mark.parametrize("width", [320, 390, 1280])
def test_in_a_browser_nothing_is_wider_than_the_window(tmp_path, width: int):
    """Measured in a frame of that width, since a headless window has a least one of its own."""
    hand = """<script>parent.postMessage(document.documentElement.scrollWidth, "*")</script></body>"""
    inner = re.sub(r"<meta http-equiv[^>]*>", "", TWO).replace("</body>", hand)
    frame = tmp_path / "inner.html"
    frame.write_text(inner, encoding="utf-8")
    outer = f"""<!DOCTYPE html><html><head><title>waiting</title></head><body>
        <script>addEventListener("message", event => document.title = event.data)</script>
        <iframe src="{frame.as_uri()}" style="width:{width}px;height:900px;border:0"></iframe>
        </body></html>"""
    found = re.search(r"<title>(\d+)</title>", dumped_dom(outer, "", tmp_path))
    assert found
    assert int(found[1]) <= width
