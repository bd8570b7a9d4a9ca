"""The receipt of a shard."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest

from lglm_core.dataset.receipt import Receipt
from lglm_core.dataset.shard_writer import write_shard
from tests.lglm_core.dataset.samples import GOOD, LABELS, plan_of, shard

Encode = Callable[..., bytes]


def test_the_receipt_counts_and_digests_the_tar(receipt: Receipt, out: Path):
    data = shard(out).read_bytes()
    assert (receipt.bytes, receipt.sha256) == (len(data), hashlib.sha256(data).hexdigest())


def test_a_receipt_read_back_equals_the_one_written(receipt: Receipt, raw: Path, out: Path):
    assert write_shard(plan_of(raw, GOOD), LABELS, str(out)) == receipt


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"plan": "f1"}'])
def test_a_receipt_that_cannot_be_read_counts_as_none(receipt: Receipt, raw: Path, out: Path, content: str):
    (out / "receipts" / "train-000000.json").write_text(content)
    assert write_shard(plan_of(raw, GOOD), LABELS, str(out)) == receipt
