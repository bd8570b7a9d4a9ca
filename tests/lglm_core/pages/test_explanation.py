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
from tests.lglm_core.pages.browser import (
    EVIL,
    EVIL_IMAGE,
    Page,
    assert_accessible,
    assert_inert,
    assert_self_contained,
    dumped_dom,
    jpeg,
    script_policy,
    scroll_width,
    with_script,
)

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
def test_the_page_refers_to_nothing_outside(html: str):
    assert_self_contained(html, has_links=False)
    assert script_policy(html) == "'none'"


@ALL
def test_every_picture_has_an_alternative_text_and_ids_are_unique(html: str):
    assert_accessible(html)


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


def test_a_value_that_rounds_to_zero_has_no_sign():
    for zero in (0.0, -0.0, 0.004, -0.004):
        label = LabelMaps("dog", (replace(FIRST, negative=zero),), 1.0, 1.0)
        text = Page(explanation_page([MAX], [ExplainedPicture("a", jpeg(), "", (label,))])).text
        assert "lowered 0.00" in text


def test_two_models_are_shown_under_their_names():
    page = Page(TWO)
    assert "<h1>lglm on resnet101 beside vacit on resnet50</h1>" in TWO
    assert page.tags.count("figure") == 2 * 3
    headings = re.findall(r'<p class="model">(.*?)</p>', TWO)
    assert headings == 3 * ["lglm on resnet101", "vacit on resnet50"]
    assert '<p class="model">' not in ONE
    assert Page(ONE).tags.count("figure") == 3


def test_under_average_pooling_the_two_maps_agree_and_are_shown_once():
    page = Page(MEANS)
    assert "input" not in page.tags
    assert page.tags.count("img") == 2 + 3
    assert Page(ONE).tags.count("img") == 2 + 2 * 3
    assert "Class activation map" not in page.text


@pytest.mark.parametrize("bad", [EVIL, EVIL_IMAGE])
def test_names_that_users_choose_are_inert(bad: str):
    label = LabelMaps(bad, (FIRST,), 1.0, 1.0)
    model = ExplainedModel(bad, False, {bad: bad})
    html = explanation_page([model], [ExplainedPicture(bad, jpeg(), bad, (label,))])
    assert_inert(html, bad, scripts=0)


def test_the_same_values_give_the_same_page():
    assert explanation_page([MAX], pictures(FIRST)) == ONE


@pytest.mark.process
@pytest.mark.parametrize("choice", ["show-attribution", "show-activation"])
def test_in_a_browser_the_switch_shows_one_map_at_a_time(tmp_path, choice: str):
    """A script plays the user; our policy forbids it, so this test removes the policy."""
    user = f"""
        document.getElementById("{choice}").click();
        const seen = kind => [...document.querySelectorAll("." + kind)].filter(e => e.offsetParent).length;
        document.title = [seen("attribution"), seen("activation")];
    """
    shown = 6 + 3 + 1  # pictures, scales, and the text of the header
    expected = f"{shown},0" if choice == "show-attribution" else f"0,{shown}"
    assert f"<title>{expected}</title>" in dumped_dom(with_script(TWO, user), "", tmp_path)


@pytest.mark.process
@pytest.mark.parametrize("width", [320, 390, 1280])
def test_in_a_browser_nothing_is_wider_than_the_window(tmp_path, width: int):
    assert scroll_width(TWO, width, tmp_path) <= width
