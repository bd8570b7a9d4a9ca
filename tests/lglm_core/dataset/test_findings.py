"""What to look at in a dataset, against values worked out by hand."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from lglm_core.dataset.findings import FACTOR_APART, SURPRISING, drifts, findings
from lglm_core.dataset.reader import Dataset
from lglm_core.dataset.statistics import DatasetStatistics, describe
from tests.lglm_core.dataset.samples import drawn

WriteDataset = Callable[..., Dataset]
NAMES = ("cat", "dog", "boat", "sky", "unicorn")
Row = tuple[str, bytes | None, list[str], list[str]]


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
