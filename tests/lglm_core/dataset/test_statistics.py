"""Counting a dataset, and what is remarked about it, against counts made picture by picture."""

import io
import itertools
import math
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lglm_core.dataset import statistics as module
from lglm_core.dataset.findings import FACTOR_APART, SURPRISING, drifts, findings
from lglm_core.dataset.reader import Dataset
from lglm_core.dataset.statistics import FEWEST_TOGETHER, DatasetStatistics, describe

WriteDataset = Callable[..., Dataset]
NAMES = ("cat", "dog", "boat", "sky", "unicorn")
Row = tuple[str, bytes | None, list[str], list[str]]


def drawn(width: int, height: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (width, height)).save(buffer, "PNG")
    return buffer.getvalue()


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


# --- what is remarked ---


def counted(
    tmp_path: Path, write_dataset: WriteDataset, train: Sequence[int], val: Sequence[int], of: int = 60
) -> DatasetStatistics:
    """Of each label *k* the first train[k] and val[k] pictures carry it, of as many in either split."""
    names = [f"label{k}" for k in range(len(train))]
    picture = drawn(2, 2)
    rows = [
        (split, picture, [name for name, count in zip(names, counts, strict=True) if number < count], [])
        for split, counts in (("train", train), ("val", val))
        for number in range(of)
    ]
    return describe(write_dataset(tmp_path, names, rows, per_shard=1000))


def test_labels_without_pictures_or_with_few_are_remarked(tmp_path: Path, write_dataset: WriteDataset):
    found = counted(tmp_path, write_dataset, train=(0, 9, 10, 30), val=(5, 0, 10, 30))
    about = {finding.text.split(",")[0]: finding.labels for finding in findings(found) if finding.labels}
    assert about == {
        "Without a training picture": ("label0",),
        "Without a picture in val": ("label1",),
        "With fewer than 10 training pictures": ("label1",),
    }


def test_shares_far_apart_are_found_and_those_by_chance_are_not(tmp_path: Path, write_dataset: WriteDataset):
    found = counted(tmp_path, write_dataset, train=(10, 0, 20, 1, 60), val=(45, 30, 24, 4, 42))
    named = [(drift.label, drift.split, drift.train_share, drift.share) for drift in drifts(found)]
    # label2 and label3 may be chance; label4, 60 against 42 of 60, is none, but its shares are not far apart.
    assert FACTOR_APART > 60 / 42
    assert named == [
        ("label1", "val", 0.0, 0.5),
        ("label0", "val", pytest.approx(10 / 60), pytest.approx(45 / 60)),
    ]


def test_surprise_is_the_root_of_the_likelihood_ratio(tmp_path: Path, write_dataset: WriteDataset):
    """By hand, G = 2 Σ O ln(O / E), of 10 and 45 of 60 each: pooled 55 / 120."""
    (drift,) = drifts(counted(tmp_path, write_dataset, train=(10, 5), val=(45, 5)))
    expected = {10: 27.5, 50: 32.5, 45: 27.5, 15: 32.5}
    by_hand = math.sqrt(2 * sum(o * math.log(o / e) for o, e in expected.items()))
    assert drift.surprise == pytest.approx(by_hand)
    assert by_hand > SURPRISING
