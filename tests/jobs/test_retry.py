"""``lglm retry``, as users run it."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from jobs import cluster
from lglm_core.dataset.reader import Dataset
from tests.jobs.commands import Here
from tests.jobs.tables import table

pytestmark = pytest.mark.usefixtures("without_ray")


def test_a_mended_picture_that_is_a_duplicate_is_no_longer_unreadable(here: Here, tmp_path: Path):
    arguments = (*table(tmp_path, range(8)), "--out", tmp_path / "dataset", "--duplicates", "drop")
    broken = tmp_path / "images" / "7.png"
    broken.write_bytes(b"no picture")
    assert here("shard", *arguments).code == 0
    shutil.copy(tmp_path / "images" / "1.png", broken)
    result = here("retry", *arguments)
    assert (result.code, "done, 0 samples added" in result.stdout) == (0, True)
    assert [row["status"] for row in Dataset.open(tmp_path / "dataset").rejects().to_pylist()] == [
        "duplicate"
    ]
    again = here("retry", *arguments)
    assert "already complete" in again.stdout


def test_a_retry_in_vain_removes_nothing_of_a_process_that_took_the_room_over(
    here: Here, table_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "images" / "12.png").write_bytes(b"no picture")
    (tmp_path / "table.csv").write_text("image,labels\n12.png,cow\n")
    arguments = ("table", "--table", tmp_path / "table.csv", "--image-root", tmp_path / "images")
    arguments = (*arguments, "--out", table_dataset, "--max-rejected", 1, "--max-samples-per-shard", 4)
    assert here("append", *arguments).code == 0
    theirs = table_dataset / "shards" / "train" / "train-000009.tar"

    run_tasks = cluster.run_tasks

    def taken_over(*task: Any) -> list[Any]:
        results = run_tasks(*task)
        (table_dataset / "writer.json").write_text('{"token": "another"}')
        theirs.touch()
        return results

    monkeypatch.setattr(cluster, "run_tasks", taken_over)
    result = here("retry", *arguments)
    assert (result.code, "took over this room" in result.stderr, theirs.exists()) == (2, True, True)
