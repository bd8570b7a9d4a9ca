"""``lglm shard --append``, ``lglm verify`` and two writers at once, as users run them."""

import json
import shutil
import signal
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from jobs import cluster
from lglm_core.dataset.reader import Dataset
from lglm_core.sources.table import TableSource
from tests.jobs.commands import Commands, Result, contents, make_dataset, picture

Here = Callable[..., Result]
PER_SHARD = 4


def table(folder: Path, numbers: range, labels: str = "dog|cat") -> tuple[object, ...]:
    """A table of pictures, as the arguments that shard it."""
    rows = ["image,labels"]
    for number in numbers:
        picture(folder / "images" / f"{number}.png", number)
        rows.append(f"{number}.png,{labels if number % 2 else 'cow'}")
    (folder / "table.csv").write_text("\n".join(rows) + "\n")
    sizes = ("--max-samples-per-shard", PER_SHARD)
    return ("table", "--table", folder / "table.csv", "--image-root", folder / "images", *sizes)


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    table(tmp_path, range(12))
    source = TableSource(str(tmp_path / "table.csv"), str(tmp_path / "images"))
    return make_dataset(source, tmp_path / "dataset", max_samples_per_shard=PER_SHARD)


def keys(dataset: Path) -> dict[str, list[str]]:
    opened = Dataset.open(str(dataset))
    return {name: opened.split(name).keys for name in opened.manifest.details["splits"]}


def train(run: Here, dataset: Path, folder: Path) -> Result:
    return run(
        *("train", "--dataset", dataset, "--out", folder / "run", "--num-workers", 0),
        *("--head", "plain", "--backbone", "mobilenet_v3_small", "--weights", "none"),
        *("--image-size", 32, "--epochs", 1, "--batch-size", 4),
    )


def test_a_grown_table_is_added_and_added_again_it_is_nothing_new(
    lglm: Commands, here: Here, dataset: Path, tmp_path: Path
):
    before, old = contents(dataset), keys(dataset)
    grown = table(tmp_path, range(20))
    added = lglm.done("shard", *grown, "--out", dataset, "--append")
    assert (added["status"], added["counts"]["written"]) == ("done", 20)
    after = contents(dataset)
    assert {name for name in before if after[name] != before[name]} == {"manifest.json"}
    for split, names in keys(dataset).items():
        assert names[: len(old[split])] == old[split]
    again = lglm.done("shard", *grown, "--out", dataset, "--append")
    assert (again["status"], contents(dataset)) == ("nothing new", after)
    assert lglm.done("verify", "--dataset", dataset, "--full")["counts"]["written"] == 20
    plain = lglm.done("shard", *table(tmp_path, range(12)), "--out", dataset)
    assert (plain["status"], contents(dataset)) == ("already complete", after)
    result = here("shard", *table(tmp_path, range(21), labels="horse"), "--out", dataset, "--append")
    assert result.code == 2 and "has no label 'horse'" in result.stderr and contents(dataset) == after
    result = here("shard", *table(tmp_path, range(21)), "--out", dataset, "--append", "--duplicates", "drop")
    assert result.code == 2 and "duplicates was not given, now drop" in result.stderr


@pytest.mark.slow
def test_an_addition_that_was_killed_goes_on_or_gives_way(lglm: Commands, dataset: Path, tmp_path: Path):
    copy = shutil.copytree(dataset, tmp_path / "copy")
    before = contents(dataset)
    grown = ("shard", *table(tmp_path, range(60)))
    with lglm.started(*grown, "--out", dataset, "--append") as running:
        running.wait_until(lambda: len(list(dataset.glob("shards/train/*.tar"))) >= 5)
        running.kill_session()
    assert contents(dataset).items() >= before.items()
    killed = shutil.copytree(dataset, tmp_path / "killed")
    for out in (dataset, copy):
        lglm.done(*grown, "--out", out, "--append")
    assert contents(dataset) == contents(copy)
    other = ("shard", *table(tmp_path, range(16)))
    assert lglm.done(*other, "--out", killed, "--append")["counts"]["written"] == 16
    assert lglm.done("verify", "--dataset", killed, "--full")["status"] == "done"
    assert not [name for name in contents(killed) if "writer" in name or "unfinished" in name]


def test_an_addition_that_comes_to_nothing_changes_nothing(lglm: Commands, dataset: Path, tmp_path: Path):
    """A batch of one label alone, of which no picture can be read; tried again, and given up."""

    def batch(*broken: int) -> tuple[object, ...]:
        arguments = table(tmp_path, range(12))
        rows = "".join(f"{number}.png,cow\n" for number in broken)
        (tmp_path / "table.csv").write_text(f"image,labels\n{rows}")
        for number in broken:
            (tmp_path / "images" / f"{number}.png").write_bytes(b"no picture")
        return ("shard", *arguments, "--out", dataset, "--append")

    added = lglm.done(*batch(12, 13), "--max-rejected", 1)
    assert (added["counts"]["written"], added["counts"]["rejected"]) == (12, 2)
    before = contents(dataset)
    again = lglm.done(*batch(12, 13), "--retry-rejected", "--max-rejected", 0)
    assert (again["status"], contents(dataset)) == ("nothing new", before)

    stopped = lglm(*batch(12, 13, 14))
    assert stopped.code == 2 and contents(dataset).items() > before.items()
    given_up = lglm.done(*batch(12, 13))
    assert (given_up["status"], contents(dataset)) == ("nothing new", before)


def test_who_loses_the_room_while_shards_are_written_stops(lglm: Commands, dataset: Path, tmp_path: Path):
    grown = ("shard", *table(tmp_path, range(400)), "--max-samples-per-shard", 1)
    with lglm.started(*grown, "--out", dataset, "--append") as running:
        running.wait_until(lambda: len(list(dataset.glob("shards/*/*.tar"))) >= 20)
        (dataset / "writer.json").write_text('{"token": "another"}')
        assert running.wait(60).code == 2
    assert len(list(dataset.glob("shards/*/*.tar"))) < 390
    assert json.loads((dataset / "writer.json").read_text()) == {"token": "another"}


def test_a_mended_picture_that_is_one_twice_is_no_longer_unreadable(
    here: Here, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    arguments = (*table(tmp_path, range(8)), "--out", tmp_path / "dataset", "--duplicates", "drop")
    monkeypatch.setattr(cluster, "ray_cluster", lambda _: nullcontext())
    monkeypatch.setattr(cluster, "run_tasks", run_here)
    broken = tmp_path / "images" / "7.png"
    broken.write_bytes(b"no picture")
    assert here("shard", *arguments).code == 0
    shutil.copy(tmp_path / "images" / "1.png", broken)
    result = here("shard", *arguments, "--append", "--retry-rejected")
    assert (result.code, "done, 0 samples added" in result.stdout) == (0, True)
    assert [row["status"] for row in Dataset.open(tmp_path / "dataset").rejects().to_pylist()] == [
        "duplicate"
    ]
    again = here("shard", *arguments, "--append", "--retry-rejected")
    assert "nothing new" in again.stdout


def test_an_addition_given_up_removes_nothing_of_who_took_the_room_over(
    here: Here, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "images" / "12.png").write_bytes(b"no picture")
    (tmp_path / "table.csv").write_text("image,labels\n12.png,cow\n")
    arguments = ("table", "--table", tmp_path / "table.csv", "--image-root", tmp_path / "images")
    arguments = (*arguments, "--out", dataset, "--append", "--max-rejected", 1, "--max-samples-per-shard", 4)
    monkeypatch.setattr(cluster, "ray_cluster", lambda _: nullcontext())
    monkeypatch.setattr(cluster, "run_tasks", run_here)
    assert here("shard", *arguments).code == 0
    theirs = dataset / "shards" / "train" / "train-000009.tar"

    def taken_over(*task: Any) -> list[Any]:
        results = run_here(*task)
        (dataset / "writer.json").write_text('{"token": "another"}')
        theirs.touch()
        return results

    monkeypatch.setattr(cluster, "run_tasks", taken_over)
    result = here("shard", *arguments, "--retry-rejected")
    assert (result.code, "took over this room" in result.stderr, theirs.exists()) == (2, True, True)


def run_here(
    task: Callable[..., Any], calls: list[Any], progress: str, go_on: Callable[[], object]
) -> list[Any]:
    """As jobs.cluster.run_tasks does, without Ray."""
    return [task(*call) for call in calls]


@pytest.mark.slow
def test_of_two_writers_at_once_one_wins_and_the_other_stops(lglm: Commands, here: Here, tmp_path: Path):
    arguments, out = table(tmp_path, range(8)), tmp_path / "dataset"
    with lglm.started("shard", *arguments, "--out", out) as first:
        first.wait_until(lambda: (out / "writer.json").exists())
        first.process.send_signal(signal.SIGSTOP)
        try:
            second = lglm("shard", *arguments, "--out", out)
        finally:
            first.process.send_signal(signal.SIGCONT)
        assert second.code == 2
        assert f"{out}: another run is writing there (process {first.process.pid} on" in second.stderr
        assert len(second.stderr.strip().splitlines()[-1]) < 300
        assert first.wait().code == 0
    assert lglm.done("verify", "--dataset", out, "--full")["counts"]["written"] == 8
    assert sorted(path.name for path in out.iterdir() if path.is_file()) == [
        *("duplicates.parquet", "labels.json", "manifest.json", "rejects.parquet")
    ]


def test_a_damaged_sample_is_named_and_the_shard_is_written_anew(
    lglm: Commands, dataset: Path, tmp_path: Path
):
    before = contents(dataset)
    path = dataset / "shards/train/train-000001.tar"
    data = bytearray(path.read_bytes())
    data[600] ^= 1
    path.write_bytes(data)
    key = keys(dataset)["train"][PER_SHARD]
    quick, full = (lglm("verify", "--dataset", dataset, *flags) for flags in ((), ("--full",)))
    assert quick.code == 0
    assert full.code == 1
    named = f"shards/train/train-000001.tar, sample {key}: the image is not the one that was written"
    assert named in full.stderr.splitlines()[-1]
    refused = train(lglm, dataset, tmp_path)
    assert refused.code == 1 and "train-000001.tar, sample" in refused.stderr.splitlines()[-1]
    path.unlink()
    quick = lglm("verify", "--dataset", dataset)
    assert quick.code == 1 and "shards/train/train-000001.tar: missing" in quick.stderr
    lglm.done("shard", *table(tmp_path, range(12)), "--out", dataset)
    assert contents(dataset) == before


@pytest.mark.slow
def test_a_dataset_with_labels_that_came_later_is_evaluated_with_all_of_them(
    lglm: Commands, here: Here, dataset: Path, tmp_path: Path
):
    grown = table(tmp_path, range(24))
    rows = (tmp_path / "table.csv").read_text().splitlines()
    (tmp_path / "table.csv").write_text("\n".join([*rows[:13], *(f"{row}|horse" for row in rows[13:])]))
    lglm.done("shard", *grown, "--out", dataset, "--append", "--extend-labels")
    assert train(here, dataset, tmp_path).code == 0
    model = tmp_path / "run" / "model"
    options = ("--model", model, "--dataset", dataset, "--split", "val", "--out", tmp_path / "evaluation")
    lglm.done("evaluate", *options)
    labels = pq.read_table(tmp_path / "evaluation" / "per_class.parquet").column("label").to_pylist()
    assert labels == list(Dataset.open(dataset).labels) == ["cat", "cow", "dog", "horse"]


def test_training_refuses_what_it_does_not_even_read(here: Here, dataset: Path, tmp_path: Path):
    receipt = dataset / "receipts" / "train-000001.json"
    data = bytearray(receipt.read_bytes())
    data[-9] ^= 1
    receipt.write_bytes(data)
    refused = train(here, dataset, tmp_path)
    assert refused.code == 1
    assert f"{dataset}: receipts/train-000001.json: its bytes are not" in refused.stderr.splitlines()[-1]


def test_duplicates_that_cannot_be_left_out_are_not_reported_as_dropped(
    here: Here, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """A picture of their shard goes away between the pass that finds them and the one that drops them."""
    arguments = table(tmp_path, range(8))
    pictures, out = tmp_path / "images", tmp_path / "dataset"
    shutil.copy(pictures / "1.png", pictures / "6.png")
    monkeypatch.setattr(cluster, "ray_cluster", lambda _: nullcontext())

    def in_this_process(*task: Any) -> list[Any]:
        if "drop duplicates" in task:
            for path in pictures.iterdir():
                path.rename(tmp_path / path.name)
        return run_here(*task)

    monkeypatch.setattr(cluster, "run_tasks", in_this_process)
    result = here("shard", *arguments, "--out", out, "--duplicates", "drop")
    assert result.code == 1
    assert "can no longer be read, such as" in result.stderr.splitlines()[-1]
    assert not (out / "manifest.json").exists()
    for path in tmp_path.glob("*.png"):
        path.rename(pictures / path.name)
    monkeypatch.undo()


def test_duplicates_become_rejects_on_request(lglm: Commands, tmp_path: Path):
    arguments = table(tmp_path, range(8))
    pictures = tmp_path / "images"
    shutil.copy(pictures / "1.png", pictures / "6.png")
    kept = lglm.done("shard", *arguments, "--out", tmp_path / "kept")["counts"]
    dropped = lglm.done("shard", *arguments, "--out", tmp_path / "dropped", "--duplicates", "drop")["counts"]
    assert (kept["duplicates"], kept["rejected"], kept["written"]) == (1, 0, 8)
    assert (dropped["duplicates"], dropped["rejected"], dropped["written"]) == (1, 1, 7)
    manifest = json.loads((tmp_path / "dropped" / "manifest.json").read_text())
    assert manifest["options"]["duplicates"] == "drop"
