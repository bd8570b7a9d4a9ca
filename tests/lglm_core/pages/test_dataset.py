import io
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from lglm_core.dataset.commit import REJECTS_SCHEMA
from lglm_core.dataset.reader import Dataset
from lglm_core.dataset.statistics import DatasetStatistics, SplitStatistics, Together, Twins, describe
from lglm_core.labels.vocabulary import LabelVocabulary
from lglm_core.pages.dataset import (
    BARS_PER_END,
    REJECTS_SHOWN,
    LogScale,
    dataset_page,
    distributions,
    label_text,
)
from lglm_core.pages.gallery import Gallery, GalleryPicture, draw_gallery
from lglm_core.rooms import DatasetManifest
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
)

NO_PICTURES = Gallery({}, [])


def split(name: str, positives: list[int], samples: int, unknown: list[int] | None = None) -> SplitStatistics:
    ones = np.ones(samples, dtype=np.int32)
    sizes = {"widths": 640 * ones, "heights": 480 * ones}
    counts = np.array(positives), np.array(unknown or [0] * len(positives))
    return SplitStatistics(name, 2, 12_345_678, *counts, labels_each=ones * min(samples, 3), **sizes)


def described(
    names: list[str], splits: list[SplitStatistics], rejects: Sequence[tuple[str, ...]] = ()
) -> DatasetStatistics:
    """Return statistics in which the pictures of the rarer of two labels all carry both."""
    positives = splits[0].positives
    known = splits[0].known
    together = Together(tuple(names), np.minimum.outer(positives, positives), np.minimum.outer(known, known))
    counts = {
        "planned": 2100,
        "rejected": len(rejects),
        "unlabelled": 5,
        "unlabelled_dropped": 7,
        "duplicates": 0,
    }
    manifest = DatasetManifest(
        fingerprint="9f2c51ab" * 8,
        inputs={},
        options={"source": "listed", "crowds": "keep"},
        counts=counts,
        labels="",
        splits={},
        shards=(),
        files={},
        parts=(),
    )
    table = pa.Table.from_pylist([dict(zip(REJECTS_SCHEMA.names, row, strict=True)) for row in rejects])
    rejected = table if rejects else REJECTS_SCHEMA.empty_table()
    return DatasetStatistics(
        "place", manifest, LabelVocabulary(names), tuple(splits), together, rejected, Twins(0, 0)
    )


def small() -> str:
    train, val = split("train", [1234, 20, 0], 2000), split("val", [60, 0, 1], 100, [0, 0, 12])
    pictures = [
        GalleryPicture("key_1", "train", jpeg("red"), ("dog", "cat"), ("unicorn",)),
        GalleryPicture("key_2", "val", jpeg("blue"), (), ()),
    ]
    gallery = Gallery({"train": pictures[:1], "val": pictures[1:]}, [pictures[0]])
    rejects = [("key_9", "val", "raw/9.jpg", "not_an_image", "the bytes are no image format known here")]
    return dataset_page("shop", described(["dog", "cat", "unicorn"], [train, val], rejects), gallery)


SMALL = small()


@pytest.fixture(scope="module")
def hostile(
    tmp_path_factory: pytest.TempPathFactory, write_dataset: Callable[..., Dataset]
) -> tuple[list[str], str]:
    """The labels and the page of a real dataset whose labels have hostile and unusual names."""
    names = [EVIL, EVIL_IMAGE, "<b>&\"'", "x" * 60, "自転車", "собака", "two\nlines"]
    rng = np.random.default_rng(0)
    rows = []
    for number in range(30):
        stored = io.BytesIO()
        Image.new("RGB", (40, 30), (8 * number, 0, 0)).save(stored, "PNG")
        present = [name for name in names if rng.random() < 0.4]
        rows.append(
            ("train", stored.getvalue(), present, [name for name in names[:2] if name not in present])
        )
    dataset = write_dataset(tmp_path_factory.mktemp("hostile"), names, rows)
    return names, dataset_page(EVIL, describe(dataset), draw_gallery(dataset, ["train"], 12))


def test_the_page_refers_to_nothing_outside(hostile: tuple[list[str], str]):
    for html in (SMALL, hostile[1]):
        assert_self_contained(html)
        assert script_policy(html).startswith("'sha256-")


def test_every_picture_has_an_alternative_text_and_every_reference_resolves(hostile: tuple[list[str], str]):
    for html in (SMALL, hostile[1]):
        assert_accessible(html)


def test_every_number_is_shown():
    page = Page(SMALL)
    numbers = "2,100 train 2,000, val 100 5 without a label 7 more of these left out 1 rejected 9f2c51ab 12.3"
    assert [text for text in numbers.split() if text not in page.text] == []
    rows = {cells[0]: cells[2:] for cells in page.cells if len(cells) == 5}
    assert rows["dog"] == ["1,234 61.7%", "60 60.0%", "0"]
    assert rows["cat"] == ["20 1.0%", "0 0.0%", "0"]
    assert rows["unicorn"] == ["0 0.0%", "1 1.1%", "12"]


def test_findings_drifts_and_rejects_are_shown():
    page = Page(SMALL)
    text = " ".join(page.text.split())
    assert "Without a training picture, so that nothing can be learned: unicorn." in text
    assert "Without a picture in val, so that nothing can be measured there: cat." in text
    assert ["raw/9.jpg", "val", "not an image: the bytes are no image format known here"] in page.cells
    drifting = dataset_page(
        "drifting",
        described(["a", "b"], [split("train", [9, 5], 99), split("val", [90, 5], 99)]),
        NO_PICTURES,
    )
    assert ["a", "val", "90.9%", "9.1%"] in Page(drifting).cells


def test_a_picture_is_shown_with_its_labels_and_unknown_ones_have_a_question_mark():
    assert 'alt="key_1: dog, cat, unicorn?"' in SMALL
    assert 'alt="key_2: no label"' in SMALL
    assert '<span class="soft">unicorn?</span>' in SMALL


def test_only_the_first_of_very_many_labels_are_named():
    """Hundreds of names for each of thousands of pictures would be megabytes."""
    picture = GalleryPicture("k", "train", b"", tuple(f"l{n}" for n in range(10)), ("u1", "u2", "u3"))
    assert label_text(picture) == f"{', '.join(picture.labels)}, u1?, u2? and 1 more"
    assert label_text(replace(picture, labels=(), unknown=("u1",))) == "no label, u1?"


def test_a_picture_of_several_labels_is_embedded_once():
    uses = [address for address in Page(SMALL).addresses if address == "#p0"]
    assert len(uses) == 2  # of dog and of cat
    assert SMALL.count('<symbol id="p0"') == 1


def test_names_that_users_choose_are_inert(hostile: tuple[list[str], str]):
    names, html = hostile
    for name in names:
        assert_inert(html, name, scripts=1)


def test_the_same_dataset_gives_the_same_page():
    assert small() == SMALL


def test_a_nearly_empty_dataset_has_a_page():
    empty, train = split("val", [0, 0], 0), split("train", [0, 0], 1)
    for splits in ([train], [train, empty], [train, empty, split("test", [1, 0], 4)]):
        page = Page(dataset_page("bare", described(["a", "b"], splits), NO_PICTURES))
        assert "nan" not in page.text.lower()
        assert 'id="together"' not in page.text


def test_rejects_beyond_the_first_are_counted():
    rejects = [(f"k{n}", "train", f"raw/{n}", "missing", "no such file") for n in range(REJECTS_SHOWN + 9)]
    page = Page(
        dataset_page("damaged", described(["a", "b"], [split("train", [1, 1], 3)], rejects), NO_PICTURES)
    )
    assert sum(cells[0].startswith("raw/") for cells in page.cells) == REJECTS_SHOWN
    assert f"{REJECTS_SHOWN + 9} pictures: missing {REJECTS_SHOWN + 9}." in page.text
    assert f"Here are the first {REJECTS_SHOWN}." in page.text


def test_of_many_labels_both_ends_are_drawn_and_all_are_in_the_table():
    names = [f"concept {k:04d}" for k in range(1500)]
    splits = [split("train", list(range(1500, 0, -1)), 2000), split("val", [1] * 1500, 20)]
    html = dataset_page("many", described(names, splits), NO_PICTURES)
    page = Page(html)
    assert len(html.encode()) < 2_000_000
    labels = html[html.index('<section id="labels"') : html.index('<section id="together"')]
    assert labels.count("<li>") == 2 * BARS_PER_END
    assert sum(len(cells) == 3 and cells[0] in names for cells in page.cells) >= 1500
    assert "<details>" in labels  # closed


def test_a_logarithmic_scale_encloses_every_percentage_and_shows_the_least():
    percents = [0.0, None, 0.012, 3.0, 46.1]
    scale = LogScale.over(percents)
    assert scale.texts == ["0.001%", "0.01%", "0.1%", "1%", "10%", "100%"]
    positions = [scale.position(each) for each in percents]
    assert positions[:2] == [None, None]
    assert all(position is not None and 0 < position <= 100 for position in positions[2:])
    assert LogScale(-1, 2).position(10.0) == pytest.approx(200 / 3)
    assert LogScale.over([100.0]).texts == ["10%", "100%"]
    assert LogScale.over([]).texts == ["10%", "100%"]


def test_distributions_count_every_picture_once():
    sizes = np.array([1, 127, 128, 447, 448, 1023, 1024, 9000], dtype=np.int32)
    one = replace(split("train", [0], 8), labels_each=np.array([0, 1, 1, 9, 10, 19, 20, 300]), widths=sizes)
    one = replace(one, heights=np.full(8, 20_000, dtype=np.int32))
    found = {
        heading: {bar.name: bar.percents[0] for bar in bars} for heading, bars in distributions([one]).items()
    }
    assert {sum(bars.values()) for bars in found.values()} == {100.0}
    assert list(found["Shorter side, in pixels"].values()) == [25.0, 12.5, 0.0, 12.5, 12.5, 12.5, 25.0]
    each = found["Labels per picture"]
    assert (each["1"], each["9"], each["10 to 19"], each["20 or more"]) == (25.0, 12.5, 25.0, 25.0)


# --- in a browser ---


@pytest.mark.process
def test_in_a_browser_the_table_sorts_by_any_split(tmp_path):
    splits = [split("train", [9, 5, 1], 10), split("hold-out", [2, 8, 5], 10)]
    html = dataset_page("shop", described(["a", "b", "c"], splits), NO_PICTURES)
    page = Page(dumped_dom(html, "#sort=-hold-out", tmp_path))
    rows = [cells[0] for cells in page.cells if len(cells) == 3 and cells[0] in "abc"]
    assert rows == ["b", "c", "a"]
    assert "3 of 3" in page.text


@pytest.mark.process
def test_in_a_browser_examples_have_no_order_to_sort_by(tmp_path):
    html = dumped_dom(SMALL, "", tmp_path)
    assert '<th scope="col" data-unsorted="">Examples</th>' in html
    assert '<button type="button">val</button>' in html


@pytest.mark.process
@pytest.mark.parametrize("width", [320, 390, 1280])
def test_in_a_browser_nothing_is_wider_than_the_window(tmp_path, hostile: tuple[list[str], str], width: int):
    assert scroll_width(hostile[1], width, tmp_path) <= width
