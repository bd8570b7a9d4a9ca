"""``lglm verify``, and how other verbs report damage."""

from pathlib import Path

import pytest

from tests.jobs.commands import Here, contents
from tests.jobs.tables import PER_SHARD, keys, table, train


@pytest.mark.usefixtures("without_ray")
def test_a_damaged_sample_is_named_and_the_shard_is_written_anew(
    here: Here, table_dataset: Path, tmp_path: Path
):
    before = contents(table_dataset)
    path = table_dataset / "shards/train/train-000001.tar"
    data = bytearray(path.read_bytes())
    data[600] ^= 1
    path.write_bytes(data)
    key = keys(table_dataset)["train"][PER_SHARD]
    quick, full = (here("verify", "--dataset", table_dataset, *flags) for flags in ((), ("--full",)))
    assert quick.code == 0
    assert full.code == 1
    named = f"shards/train/train-000001.tar, sample {key}: the image is not the one that was written"
    assert named in full.stderr.splitlines()[-1]
    refused = train(here, table_dataset, tmp_path)
    assert refused.code == 1 and "train-000001.tar, sample" in refused.stderr.splitlines()[-1]
    path.unlink()
    quick = here("verify", "--dataset", table_dataset)
    assert quick.code == 1 and "shards/train/train-000001.tar: missing" in quick.stderr
    here.done("shard", *table(tmp_path, range(12)), "--out", table_dataset)
    assert contents(table_dataset) == before


def test_training_refuses_damage_in_a_file_that_it_does_not_read(
    here: Here, table_dataset: Path, tmp_path: Path
):
    receipt = table_dataset / "receipts" / "train-000001.json"
    data = bytearray(receipt.read_bytes())
    data[-9] ^= 1
    receipt.write_bytes(data)
    refused = train(here, table_dataset, tmp_path)
    assert refused.code == 1
    assert (
        f"{table_dataset}: receipts/train-000001.json: its bytes are not" in refused.stderr.splitlines()[-1]
    )
