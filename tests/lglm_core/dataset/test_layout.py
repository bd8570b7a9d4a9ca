"""What the files of a dataset are called."""

from lglm_core.dataset.layout import earlier_manifest, in_part, latest, shard_files
from lglm_core.dataset.reader import Dataset
from tests.lglm_core.dataset.conftest import Listed
from tests.lglm_core.dataset.samples import append


def test_files_of_later_parts_carry_their_number():
    assert in_part("index/train.parquet", 0) == "index/train.parquet"
    assert in_part("index/train.parquet", 12) == "index/train.0012.parquet"
    assert earlier_manifest(3) == "manifests/0003.json"


def test_a_shard_has_a_receipt_of_its_name():
    assert shard_files("val", "val-000003") == ("shards/val/val-000003.tar", "receipts/val-000003.json")


def test_the_labels_that_count_are_those_of_the_last_part_that_has_some(first: Dataset, listed: Listed):
    second = append(first, listed({"s7": ["b"]}))
    assert latest("labels.json", second.manifest) == "labels.json"
    third = append(second, listed({"s8": ["c"]}, ("a", "b", "c")), extend_labels=True)
    assert latest("labels.json", third.manifest) == "labels.0002.json"
    assert latest("rejects.parquet", third.manifest) == "rejects.0002.parquet"
