from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from lglm_core.dataset.duplicates import find_duplicates, twins_by_shard, without_orphans
from lglm_core.dataset.plan import Plan, make_plan
from lglm_core.dataset.receipt import Receipt
from lglm_core.dataset.shard_writer import write_shard
from lglm_core.sources.source import LabelledImage

COLOURS = {"a": "red", "b": "blue", "c": "red", "d": "green", "e": "red", "f": "blue"}
SPLITS = {"a": "train", "b": "train", "c": "train", "d": "train", "e": "val", "f": "train"}


@pytest.fixture
def plan(tmp_path: Path, encode: Callable[..., bytes], listed_source: Callable[..., object]) -> Plan:
    images = []
    for key, colour in COLOURS.items():
        path = tmp_path / "raw" / key
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(encode(Image.new("RGB", (4, 4), colour)))
        images.append(LabelledImage(key, SPLITS[key], str(path), key, ("x",)))
    return make_plan(listed_source(("x", "y"), tuple(images)), 2)  # type: ignore[arg-type]


@pytest.fixture
def receipts(plan: Plan, tmp_path: Path) -> list[Receipt]:
    return [write_shard(shard, plan.labels, str(tmp_path / "dataset")) for shard in plan.shards]


def test_all_but_the_first_are_found_and_what_is_measured_on_stays(receipts: list[Receipt]):
    rows = find_duplicates(receipts).to_pylist()
    assert [(row["key"], row["first_split"], row["first_key"]) for row in rows] == [
        ("a", "val", "e"),
        ("c", "val", "e"),
        ("f", "train", "b"),
    ]


def test_what_stands_in_the_dataset_comes_first_and_is_no_find(receipts: list[Receipt]):
    old, new = receipts[:2], receipts[2:]
    assert {receipt.split for receipt in new} == {"train", "val"}
    standing = {"train": old[0].index}
    found = find_duplicates(new, standing).to_pylist()
    assert [(row["key"], row["first_key"]) for row in found] == [("f", "b"), ("e", "a")]


def test_without_any_there_are_none(receipts: list[Receipt]):
    assert len(find_duplicates(receipts[:1])) == len(find_duplicates([])) == 0


def test_a_shard_is_written_again_without_them_and_stays_so(
    plan: Plan, receipts: list[Receipt], tmp_path: Path
):
    twins = twins_by_shard(find_duplicates(receipts))
    assert twins["train-000002"] == {"f": "the same bytes as train/b"}
    shard = next(shard for shard in plan.shards if shard.name == "train-000002")
    url = str(tmp_path / "dataset")
    without = write_shard(shard, plan.labels, url, without=twins[shard.name])
    assert [(r.key, r.status, r.error) for r in without.rejects] == [
        ("f", "duplicate", "the same bytes as train/b")
    ]
    assert without.index.num_rows + len(without.rejects) == len(shard.images)
    assert write_shard(shard, plan.labels, url) == without
    assert write_shard(shard, plan.labels, url, retry_rejected=True) == without


def test_what_was_left_out_comes_back_when_its_original_is_gone(
    plan: Plan, receipts: list[Receipt], tmp_path: Path
):
    """f is as b, and a and c are as e; then b's shard is lost, and b with it."""
    url, shards = str(tmp_path / "dataset"), {shard.name: shard for shard in plan.shards}
    for name, twins in twins_by_shard(find_duplicates(receipts)).items():
        write_shard(shards[name], plan.labels, url, without=twins)
    written = [write_shard(shard, plan.labels, url) for shard in plan.shards]
    assert without_orphans(written, {}) == {}
    Path(url, "shards/train/train-000000.tar").unlink()
    (tmp_path / "raw" / "b").unlink()
    again = [write_shard(shard, plan.labels, url) for shard in plan.shards]
    orphans = without_orphans(again, {})
    assert orphans == {"train-000002": {}}
    assert without_orphans(again, {"train": receipts[0].index}) == {}
    back = write_shard(shards["train-000002"], plan.labels, url, without=orphans["train-000002"])
    assert back.keys == {"f"} and not back.duplicates
