"""``lglm dataset``: the text and the page that it writes, and the inputs that it refuses."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jobs.columns import aligned, beside, fitted, width
from lglm_core.sources.coco import CocoSource
from lglm_core.sources.table import TableSource
from tests.jobs.commands import COCO_LABELS, Here, Result, contents, make_dataset, write_coco


@pytest.fixture
def described(here: Here, tiny_dataset: Path) -> Here:
    return lambda *arguments: here("dataset", "--dataset", tiny_dataset, *arguments)


def written(folder: Path, rows: list[dict[str, object]]) -> Path:
    """Write a dataset of a table of labelled pictures."""
    images = folder / "images"
    images.mkdir(parents=True)
    for number, row in enumerate(rows):
        row["image"] = f"{number}.png"
        pixels = np.random.default_rng(number).integers(0, 256, (8, 9, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(images / f"{number}.png")
    table = folder / "labels.jsonl"
    table.write_text("\n".join(map(json.dumps, rows)))
    return make_dataset(TableSource(str(table), str(images)), folder / "dataset")


def test_the_text_counts_splits_labels_and_pairs(described: Here):
    """By hand, of twelve pictures of which the i-th shows labels i and i + 1 of four, a quarter for val."""
    result = described()
    assert (result.code, result.stderr) == (0, "")
    lines = [" ".join(line.split()) for line in result.stdout.splitlines()]
    assert "12 samples, 4 labels; of 12 pictures 0 were rejected" in result.stdout
    for expected in (
        "train 9 0 2.00 2 0 48 (48–48) 40 (40–40) 1",
        "val 3 0 2.00 2 0 48 (48–48) 40 (40–40) 1",
        "person 5 55.6% 1 33.3%",
        "parking meter 5 55.6% 1 33.3%",
        "person + parking meter 3 1.1",
    ):
        assert any(line.startswith(expected) for line in lines), expected


def test_the_object_holds_every_label_and_split(described: Here):
    found = described("--json").object
    assert found["counts"]["written"] == 12
    assert (found["counts"]["labels"], found["counts"]["shards"]) == (4, 2)
    assert found["out"] is None
    labels = {each["label"]: each["splits"] for each in found["metrics"]["labels"]}
    assert list(labels) == list(COCO_LABELS)
    assert labels["dog"] == {
        "train": {"positives": 4, "unknown": 0, "share": pytest.approx(4 / 9)},
        "val": {"positives": 2, "unknown": 0, "share": pytest.approx(2 / 3)},
    }
    assert found["metrics"]["splits"]["val"]["samples"] == 3
    assert found["metrics"]["most_often_together"][0]["count"] == 3
    assert found["metrics"]["rejects"] == {}


def test_lists_are_as_long_as_asked(described: Here):
    text = described("--top", 1).stdout
    assert "most frequent" in text and "least frequent" in text
    assert text.count(" + ") == 1
    assert "and 3 more" in text  # labels of few training pictures


def test_the_page_is_written_and_the_dataset_left_as_it_was(
    described: Here, tiny_dataset: Path, tmp_path: Path
):
    before = contents(tiny_dataset)
    page = tmp_path / "pages" / "page.html"
    result = described("--html", page, "--examples", 2, "--json")
    assert result.code == 0, result.stderr
    assert f"page: {page}" in result.stdout
    assert result.object["out"] == str(page)
    html = page.read_text()
    assert html.count("<img ") == 4
    assert all(label in html for label in COCO_LABELS)
    assert contents(tiny_dataset) == before


def test_findings_are_marked_in_the_text(here: Here, tmp_path: Path):
    rows: list[dict[str, object]] = [
        {
            "labels": ["often", "late"] if number >= 40 else ["often"],
            "split": "val" if number >= 40 else "train",
        }
        for number in range(80)
    ]
    result = here("dataset", "--dataset", written(tmp_path, rows))
    assert "! Without a training picture, so that nothing can be learned: late\n" in result.stdout
    assert "by more than chance explains: late (val 100.0%, train" in " ".join(result.stdout.split())


def test_names_that_may_be_mistakes_are_findings(here: Here, tmp_path: Path):
    names = ["traffic light", "Traffic_Light", "dog, cat", "dog", "café", "cafe\u0301", "NaN", "N/A"]
    rows: list[dict[str, object]] = [{"labels": [name], "split": "train"} for name in names]
    said = " ".join(here("dataset", "--dataset", written(tmp_path, rows)).stdout.split())
    alike = "traffic light, café, cafe\u0301, Traffic_Light"
    assert f"and how accents are encoded, yet labels of their own: {alike} ! With" in said
    assert "what separates labels in a cell is '|': dog, cat ! " in said
    assert "! Named like an empty cell; leave such cells empty: NaN, N/A" in said


def test_labels_given_as_a_vector_of_zeros_and_ones_are_a_finding(here: Here, tmp_path: Path):
    rows: list[dict[str, object]] = [{"labels": [0, 1, 0], "split": "train"}, {"labels": [1, 0, 0]}]
    said = " ".join(here("dataset", "--dataset", written(tmp_path, rows)).stdout.split())
    assert "! 0 and 1, as if each stood for one label; a cell names the labels that are present: 1, 0" in said


def test_a_dataset_of_one_split_is_described_and_that_is_a_finding(here: Here, tmp_path: Path):
    dataset = written(tmp_path, [{"labels": [name], "split": "train"} for name in "abc"])
    result = here("dataset", "--dataset", dataset, "--html", tmp_path / "page.html")
    assert result.code == 0, result.stderr
    assert "! No picture is in another split than train" in result.stdout
    assert (tmp_path / "page.html").exists()


def test_duplicates_are_reported_where_there_are_any(here: Here, tiny_dataset: Path, tmp_path: Path):
    none = here("dataset", "--dataset", tiny_dataset).stdout
    assert " duplicates\n" not in none and "to the byte" not in none
    coco = write_coco(tmp_path / "coco")
    pictures = sorted((coco / "train2017").iterdir())
    (in_val, *_) = sorted((coco / "val2017").iterdir())
    for picture in (pictures[1], pictures[4], in_val):  # the first has the labels of the one in val
        picture.write_bytes(pictures[0].read_bytes())
    dataset = make_dataset(CocoSource(str(coco)), tmp_path / "dataset")
    result = here("dataset", "--dataset", dataset, "--html", tmp_path / "page.html")
    said = " ".join(result.stdout.split())
    assert "  3 duplicates\n" in result.stdout
    assert "! 3 pictures of other splits are in train too, the same to the byte: what is measured" in said
    assert "! 2 pictures are the same as another to the byte, but labelled otherwise" in said
    page = (tmp_path / "page.html").read_text()
    assert "3 duplicates" in page and "pictures of other splits are in train too" in page


# --- what is refused ---


def assert_refused(result: Result, *naming: object, code: int = 2) -> None:
    assert result.code == code, result.stderr
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) == 1
    for name in naming:
        assert str(name) in result.stderr


def test_a_folder_that_is_no_dataset(here: Here, tmp_path: Path):
    assert_refused(here("dataset", "--dataset", tmp_path), tmp_path, "lglm shard")


def test_a_page_that_is_a_folder(described: Here, tmp_path: Path):
    assert_refused(described("--html", tmp_path), tmp_path, "name the page")


def test_a_page_within_the_dataset(described: Here, tiny_dataset: Path):
    before = contents(tiny_dataset)
    assert_refused(described("--html", tiny_dataset / "manifest.json"), "within the dataset")
    assert contents(tiny_dataset) == before


def test_a_damaged_picture_is_named_and_no_page_written(here: Here, tiny_dataset: Path, tmp_path: Path):
    dataset, page = tmp_path / "dataset", tmp_path / "page.html"
    shutil.copytree(tiny_dataset, dataset)
    shard = next((dataset / "shards" / "val").iterdir())
    shard.write_bytes(shard.read_bytes().replace(b"JFIF", b"JUNK", 1))
    assert_refused(here("dataset", "--dataset", dataset, "--html", page), "000000000009", shard.name, code=1)
    assert not page.exists()
    assert here("dataset", "--dataset", dataset).code == 0  # counting opens no picture


# --- columns of a terminal ---


def test_names_are_cut_to_columns_and_cannot_steer_the_terminal():
    assert fitted("traffic light", 13) == "traffic light"
    assert fitted("traffic light", 9) == "traffic …"
    assert fitted("two\nlines\tand\x1b[31mred", 99) == "two lines and\N{REPLACEMENT CHARACTER}[31mred"
    assert fitted("自転車置き場", 7) == "自転車…"
    assert all(width(fitted("自転車置き場", most)) <= most for most in range(1, 20))


def test_cells_are_aligned_whatever_their_letters():
    lines = aligned([["自転車", "1"], ["e\N{COMBINING ACUTE ACCENT}te", "22"], ["dog", "333"]])
    assert {width(line) for line in lines} == {11}
    assert [width(line) for line in beside(lines, ["x", "", "x"])] == [16, 11, 16]
