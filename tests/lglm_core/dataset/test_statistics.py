"""Counting a dataset, and what is remarked about it, against counts made picture by picture."""

import io
import itertools
import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lglm_core.dataset import statistics as module
from lglm_core.dataset.findings import drifts, findings
from lglm_core.dataset.reader import Dataset
from lglm_core.dataset.statistics import FEWEST_TOGETHER, DatasetStatistics, describe
from tests.lglm_core.dataset.samples import drawn

WriteDataset = Callable[..., Dataset]
NAMES = ("cat", "dog", "boat", "sky", "unicorn")
Row = tuple[str, bytes | None, list[str], list[str]]


def by_chance(seed: int = 0, count: int = 90) -> list[Row]:
    """Pictures with labels by chance; every ninth cannot be read, and nobody labelled a unicorn."""
    rng = np.random.default_rng(seed)
    rows: list[Row] = []
    for number in range(count):
        split = ("train", "train", "val", "extra")[number % 4]
        said = {name: rng.choice([1, 0, -1], p=[0.35, 0.55, 0.1]) for name in NAMES[:-1]}
        data = None if number % 9 == 5 else b"no picture" if number % 9 == 7 else drawn(9 + number, 7)
        labels, unknown = ([name for name in said if said[name] == value] for value in (1, -1))
        rows.append((split, data, labels, unknown))
    return rows


ROWS = by_chance()


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory, write_dataset: WriteDataset) -> DatasetStatistics:
    return describe(write_dataset(tmp_path_factory.mktemp("counted"), NAMES, ROWS, per_shard=7))


def read(split: str) -> list[Row]:
    return [row for row in ROWS if row[0] == split and row[1] not in (None, b"no picture")]


def test_splits_come_train_first_then_val_then_others(found: DatasetStatistics):
    assert [split.name for split in found.splits] == ["train", "val", "extra"]


@pytest.mark.parametrize("place", range(3))
def test_every_count_of_a_split_is_that_of_its_pictures(found: DatasetStatistics, place: int):
    split = found.splits[place]
    rows = read(split.name)
    assert split.samples == len(rows)
    assert split.unlabelled == sum(not labels for _, _, labels, _ in rows)
    assert split.labels_each.tolist() == [len(labels) for _, _, labels, _ in rows]
    for column, name in enumerate(NAMES):
        positives = sum(name in labels for _, _, labels, _ in rows)
        unknown = sum(name in unsaid for _, _, _, unsaid in rows)
        assert (split.positives[column], split.unknown[column]) == (positives, unknown)
        assert split.prevalence[column] == pytest.approx(positives / (len(rows) - unknown))
    widths = sorted(Image.open(io.BytesIO(data or b"")).width for _, data, _, _ in rows)
    assert split.width and (split.width.least, split.width.most) == (widths[0], widths[-1])
    assert split.width.median == (widths[(len(widths) - 1) // 2] + widths[len(widths) // 2]) / 2
    assert split.height and (split.height.least, split.height.median, split.height.most) == (7, 7, 7)


def test_shards_and_their_bytes_are_those_on_the_disk(found: DatasetStatistics):
    for split in found.splits:
        shards = list(Path(found.url, "shards", split.name).glob("*.tar"))
        assert (split.shards, split.bytes) == (len(shards), sum(shard.stat().st_size for shard in shards))


def test_rejects_are_counted_by_status(found: DatasetStatistics):
    missing, broken = sum(row[1] is None for row in ROWS), sum(row[1] == b"no picture" for row in ROWS)
    assert found.rejects_by_status() == {"missing": missing, "not_an_image": broken}


def expected_pairs() -> dict[frozenset[str], tuple[int, float]]:
    """By pair: in how many training pictures, and how many times as often as by chance."""
    rows = read("train")
    alone = Counter(label for _, _, labels, _ in rows for label in labels)
    together = Counter(
        frozenset(pair) for _, _, labels, _ in rows for pair in itertools.combinations(labels, 2)
    )

    def known(*names: str) -> int:
        return sum(not set(names) & set(unknown) for _, _, _, unknown in rows)

    return {
        pair: (count, count / math.prod(alone[label] / known(label) for label in pair) / known(*pair))
        for pair, count in together.items()
    }


@pytest.mark.parametrize("rows_at_once", [3, 10_000])
def test_pairs_are_counted_and_compared_with_chance(
    found: DatasetStatistics, monkeypatch: pytest.MonkeyPatch, rows_at_once: int
):
    monkeypatch.setattr(module, "ROWS_AT_ONCE", rows_at_once)
    together, expected = describe(Dataset.open(found.url)).together, expected_pairs()
    often, lifted = together.most_often(99), together.most_lifted(99)
    assert {frozenset((p.first, p.second)): (p.count, pytest.approx(p.lift)) for p in often} == expected
    assert [pair.count for pair in often] == sorted((count for count, _ in expected.values()), reverse=True)
    lifts = sorted((lift for count, lift in expected.values() if count >= FEWEST_TOGETHER), reverse=True)
    assert [pair.lift for pair in lifted] == pytest.approx(lifts)
    assert together.most_often(2) == often[:2]


def test_only_the_most_frequent_labels_are_paired(found: DatasetStatistics, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "PAIRED_LABELS", 2)
    few = describe(Dataset.open(found.url)).together
    assert few.labels == found.together.labels[:2]
    np.testing.assert_array_equal(few.counts, found.together.counts[:2, :2])


def test_labels_are_ordered_by_their_training_pictures(found: DatasetStatistics):
    assert found.train.positives[found.frequency_order].tolist() == sorted(
        found.train.positives, reverse=True
    )


def test_a_dataset_without_any_label_and_without_val_can_be_described(
    tmp_path: Path, write_dataset: WriteDataset
):
    bare = describe(write_dataset(tmp_path, ["a", "b"], [("train", drawn(3, 3), [], [])]))
    assert bare.together.most_often(5) == bare.together.most_lifted(5) == []
    assert bare.together.counts.tolist() == [[0, 0], [0, 0]]
    texts = [finding.text for finding in findings(bare)]
    assert texts[0].startswith("No picture is in another split")
    assert [finding.labels for finding in findings(bare)][1:] == [("b", "a")]
    assert drifts(bare) == []


def test_a_split_that_nothing_of_could_be_read_has_no_samples(tmp_path: Path, write_dataset: WriteDataset):
    rows = [("train", drawn(3, 3), ["a"], []), ("val", None, ["a"], [])]
    val = describe(write_dataset(tmp_path, ["a", "b"], rows)).splits[1]
    assert (val.samples, val.width, val.prevalence.tolist()) == (0, None, [0.0, 0.0])
