import pytest

from lglm_core.pages.neighbours import Neighbour, neighbours_page
from tests.lglm_core.pages.browser import (
    EVIL,
    EVIL_IMAGE,
    Page,
    assert_accessible,
    assert_inert,
    assert_self_contained,
    jpeg,
    script_policy,
)


def small_search() -> str:
    found = [
        Neighbour(2, "coco_8", None, 0.7654, (), {}),
        Neighbour(1, "coco_7", jpeg("red"), 0.98765, ("dog", "sofa"), {"dog": 0.912, "bus": 0.023}),
    ]
    return neighbours_page("Like this one", "query.jpg", jpeg(), {"dog": 0.777}, found)


def test_the_page_refers_to_nothing_outside():
    assert_self_contained(small_search())
    assert script_policy(small_search()) == "'none'"


def test_every_picture_has_an_alternative_text_and_ids_are_unique():
    assert_accessible(small_search())


def test_the_page_shows_every_number_nearest_first():
    text = Page(small_search()).text
    assert [
        n for n in ["77.7%", "0.988", "0.765", "91.2%", "2.3%", "dog, sofa", "query.jpg"] if n not in text
    ] == []
    assert text.index("coco_7") < text.index("coco_8")
    assert "The picture could not be read" in text


@pytest.mark.parametrize("bad", [EVIL, EVIL_IMAGE])
def test_names_that_users_choose_are_inert(bad: str):
    found = [Neighbour(1, bad, jpeg(), 0.5, (bad,), {bad: 0.5})]
    assert_inert(neighbours_page(bad, bad, jpeg(), {bad: 0.5}, found), bad, scripts=0)


def test_the_same_values_give_the_same_page():
    assert small_search() == small_search()


def test_a_search_without_results_says_so():
    assert "Nothing was found" in Page(neighbours_page("t", "q", jpeg(), {}, [])).text
