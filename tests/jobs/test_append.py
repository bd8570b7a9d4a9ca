"""``lglm append``, as users run it."""

import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from lglm_core.dataset.reader import Dataset
from tests.jobs.commands import Commands, Here, contents
from tests.jobs.tables import keys, table, train


def test_a_grown_table_is_appended_and_appended_again_it_is_nothing_new(
    lglm: Commands, here: Here, table_dataset: Path, tmp_path: Path
):
    before, old = contents(table_dataset), keys(table_dataset)
    grown = table(tmp_path, range(20))
    added = lglm.done("append", *grown, "--out", table_dataset)
    assert (added["status"], added["counts"]["written"]) == ("done", 20)
    after = contents(table_dataset)
    assert {name for name in before if after[name] != before[name]} == {"manifest.json"}
    for split, names in keys(table_dataset).items():
        assert names[: len(old[split])] == old[split]
    again = here.done("append", *grown, "--out", table_dataset)
    assert (again["status"], contents(table_dataset)) == ("nothing new", after)
    assert lglm.done("verify", "--dataset", table_dataset, "--full")["counts"]["written"] == 20
    plain = here.done("shard", *table(tmp_path, range(12)), "--out", table_dataset)
    assert (plain["status"], contents(table_dataset)) == ("already complete", after)
    result = here("append", *table(tmp_path, range(21), labels="horse"), "--out", table_dataset)
    assert result.code == 2 and "has no label 'horse'" in result.stderr and contents(table_dataset) == after
    result = here("append", *table(tmp_path, range(21)), "--out", table_dataset, "--duplicates", "drop")
    assert result.code == 2 and "duplicates was not given, now drop" in result.stderr


@pytest.mark.slow
def test_an_append_that_was_killed_goes_on_or_is_rolled_back(
    lglm: Commands, table_dataset: Path, tmp_path: Path
):
    copy = shutil.copytree(table_dataset, tmp_path / "copy")
    before = contents(table_dataset)
    grown = ("append", *table(tmp_path, range(60)))
    with lglm.started(*grown, "--out", table_dataset) as running:
        running.wait_until(lambda: len(list(table_dataset.glob("shards/train/*.tar"))) >= 5)
        running.kill_session()
    assert contents(table_dataset).items() >= before.items()
    killed = shutil.copytree(table_dataset, tmp_path / "killed")
    for out in (table_dataset, copy):
        lglm.done(*grown, "--out", out)
    assert contents(table_dataset) == contents(copy)
    other = ("append", *table(tmp_path, range(16)))
    assert lglm.done(*other, "--out", killed)["counts"]["written"] == 16
    assert lglm.done("verify", "--dataset", killed, "--full")["status"] == "done"
    assert not [name for name in contents(killed) if "writer" in name or "unfinished" in name]


@pytest.mark.usefixtures("without_ray")
def test_an_append_that_comes_to_nothing_changes_nothing(here: Here, table_dataset: Path, tmp_path: Path):
    """No picture of the batch can be read; its retry and an append that is stopped leave no trace."""

    def batch(verb: str, *broken: int) -> tuple[object, ...]:
        arguments = table(tmp_path, range(12))
        rows = "".join(f"{number}.png,cow\n" for number in broken)
        (tmp_path / "table.csv").write_text(f"image,labels\n{rows}")
        for number in broken:
            (tmp_path / "images" / f"{number}.png").write_bytes(b"no picture")
        return (verb, *arguments, "--out", table_dataset)

    added = here.done(*batch("append", 12, 13), "--max-rejected", 1)
    assert (added["counts"]["written"], added["counts"]["rejected"]) == (12, 2)
    before = contents(table_dataset)
    again = here.done(*batch("retry", 12, 13), "--max-rejected", 0)
    assert (again["status"], contents(table_dataset)) == ("nothing new", before)

    stopped = here(*batch("append", 12, 13, 14))
    assert stopped.code == 2 and contents(table_dataset).items() > before.items()
    given_up = here.done(*batch("append", 12, 13))
    assert (given_up["status"], contents(table_dataset)) == ("nothing new", before)


def test_a_process_that_loses_the_room_while_it_writes_shards_stops(
    lglm: Commands, table_dataset: Path, tmp_path: Path
):
    grown = ("append", *table(tmp_path, range(400)), "--max-samples-per-shard", 1)
    with lglm.started(*grown, "--out", table_dataset) as running:
        running.wait_until(lambda: len(list(table_dataset.glob("shards/*/*.tar"))) >= 20)
        (table_dataset / "writer.json").write_text('{"token": "another"}')
        assert running.wait(60).code == 2
    assert len(list(table_dataset.glob("shards/*/*.tar"))) < 390
    assert json.loads((table_dataset / "writer.json").read_text()) == {"token": "another"}


@pytest.mark.usefixtures("without_ray")
def test_a_dataset_with_labels_that_came_later_is_evaluated_with_all_of_them(
    here: Here, table_dataset: Path, tmp_path: Path
):
    grown = table(tmp_path, range(24))
    rows = (tmp_path / "table.csv").read_text().splitlines()
    (tmp_path / "table.csv").write_text("\n".join([*rows[:13], *(f"{row}|horse" for row in rows[13:])]))
    here.done("append", *grown, "--out", table_dataset, "--extend-labels")
    assert train(here, table_dataset, tmp_path).code == 0
    model = tmp_path / "run" / "model"
    options = ("--model", model, "--dataset", table_dataset, "--split", "val")
    here.done("evaluate", *options, "--out", tmp_path / "evaluation")
    labels = pq.read_table(tmp_path / "evaluation" / "per_class.parquet").column("label").to_pylist()
    assert labels == list(Dataset.open(table_dataset).labels) == ["cat", "cow", "dog", "horse"]
