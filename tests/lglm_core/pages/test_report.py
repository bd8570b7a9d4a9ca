import base64
import hashlib
import re
import time
from dataclasses import replace

import pytest

from lglm_core.pages.report import (
    BARS_PER_END,
    EpochRecord,
    Example,
    LabelResult,
    Report,
    bar_groups,
    rank_by_ap,
    report_page,
    scored_labels,
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
    with_script,
)

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


def test_the_page_refers_to_nothing_outside():
    assert_self_contained(report_page(small_report()))


def test_every_picture_has_an_alternative_text_and_ids_are_unique():
    assert_accessible(report_page(small_report()))


def test_the_report_shows_every_number():
    text = Page(report_page(small_report())).text
    metrics = "71.2 69.9 72.6% 74.1% 62.8% 68.0% 80.4% 70.1% 74.9% 76.0% 59.3% 66.6% 81.9% 66.2% 73.2% 21.0%"
    labels = "71.3% 95.5% 33.3% 90.1 63.2 74.3 12.4 91.1 92.2 91.6 42.5 44.4 22.2 29.6 3.8 1,234 5,678 77"
    pictures = "97.3% 61.1% 31.2% 4.3% coco_1 coco_2"
    others = "2,000 2.5000 1.2500 0.9000 60.0 58.8 31.5 0.432 -0.123 ResNet-101 9f2c51ab"
    missing = [n for n in f"{metrics} {labels} {pictures} {others}".split() if n not in text]
    assert missing == []


def test_a_label_without_positives_is_shown_as_such():
    page = Page(report_page(small_report()))
    assert ["unicorn", "no positives", "0.0", "0.0", "0.0", "0.0", "0"] in page.cells
    assert "No picture of this split carries unicorn:" in page.text


def test_the_interval_is_shown_beside_map_and_left_out_where_there_is_none():
    shown = "would give 69.9 to 72.6% (95% bootstrap interval)"
    assert shown in Page(report_page(small_report())).text
    nothing = replace(small_report(), metrics={**METRICS, "mAP_low": None, "mAP_high": None})
    earlier = {name: value for name, value in METRICS.items() if name not in ("mAP_low", "mAP_high")}
    for page in (nothing, replace(small_report(), metrics=earlier)):
        assert "interval" not in Page(report_page(page)).text


def test_names_that_users_choose_are_inert():
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
        assert_inert(report_page(hostile), bad, scripts=1)


def test_only_our_script_may_run():
    html = report_page(small_report())
    source = re.search(r"<script>(.*?)</script>", html, re.DOTALL)
    assert source
    digest = base64.b64encode(hashlib.sha256(source[1].encode()).digest()).decode()
    assert script_policy(html) == f"'sha256-{digest}'"


def test_the_same_values_give_the_same_page():
    assert report_page(small_report()) == report_page(small_report())


def test_sections_without_content_are_left_out():
    bare = Report("Bare", "val", {"mAP": None}, [], [], [], [], [], {})
    page = Page(report_page(bare))
    assert page.addresses == ["#metrics"]
    assert page.tags.count("section") == 1


@pytest.mark.weighty
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
    best, worst = bar_groups(rank_by_ap([*labels, LabelResult("empty", 0, None, 0, 0, 0, 0)]))
    assert [best.labels[0].label, worst.labels[0].label] == [str(2 * BARS_PER_END), "0"]
    assert len({result.label for group in (best, worst) for result in group.labels}) == 2 * BARS_PER_END


def test_verdicts_by_hand():
    scored = [(each.label, each.verdict, each.is_upper_bound) for each in scored_labels(example())]
    assert scored == [
        ("dog", "right", False),
        ("car", "false alarm", False),
        ("cat", "missed", False),
        ("bus", "left out", False),
        ("person", "missed", True),  # its score is at most that of bus, so below one half
    ]


def test_a_true_label_hidden_behind_high_scores_is_not_called_missed():
    crowded = Example("k", b"", ("dog", "cat"), {"dog": 0.9})
    assert [each.verdict for each in scored_labels(crowded)] == ["right", "not shown"]


@pytest.mark.parametrize("edges", [[], [("a", "a", 1.0)], [("a", "b", 0.0)], [("a", "b", float("nan"))]])
def test_a_graph_with_nothing_to_draw_is_left_out(edges):
    assert 'id="graph"' not in report_page(replace(small_report(), graph=edges))


def test_a_diverged_epoch_is_no_point_of_the_curve():
    history = [EpochRecord(1, 2.0, None, 1.0), EpochRecord(2, float("nan"), float("nan"), 1.0)]
    html = report_page(replace(small_report(), history=history))
    assert "Training loss: 2.000 at epoch 1, 2.000 at epoch 1, lowest 2.000 at epoch 1." in html
    assert "nan" not in Page(html).text.lower()


def label_rows(page: Page, known: set[str]) -> list[str]:
    return [cells[0] for cells in page.cells if len(cells) == 7 and cells[0] in known]


@pytest.mark.process
def test_in_a_browser_the_table_sorts_and_hostile_labels_do_nothing(tmp_path):
    report = small_report()
    hostile = LabelResult(EVIL_IMAGE, 3, 50.0, 1.0, 99.0, 1.0, 1.0)
    report = replace(report, labels=[*report.labels, hostile])
    html = dumped_dom(report_page(report), "#sort=recall", tmp_path)
    page = Page(html)
    rows = label_rows(page, {result.label for result in report.labels})
    assert rows == ["unicorn", "cat", "dog", "person", EVIL_IMAGE]  # the file has them by AP
    assert '<th scope="col" aria-sort="ascending"><button type="button">Recall</button></th>' in html
    assert page.values("aria-sort") == ["ascending"]
    assert "5 of 5" in page.text
    assert "<title>LGLM on four labels</title>" in html


@pytest.mark.process
def test_in_a_browser_a_click_sorts_and_typing_filters(tmp_path):
    """A script plays the user; our policy forbids it, so this test removes the policy."""
    user = """
        for (const _ of [1, 2]) document.querySelectorAll("#label-table button")[1].click();
        const field = document.getElementById("label-filter");
        field.value = "O";
        field.dispatchEvent(new Event("input"));
    """
    page = Page(dumped_dom(with_script(report_page(small_report()), user), "", tmp_path))
    # The first click reverses the order, the second restores it; labels without an AP stay last.
    assert label_rows(page, {"dog", "unicorn", "person", "cat"}) == ["person", "dog", "cat", "unicorn"]
    assert "3 of 4" in page.text
