"""``lglm shard``: the dataset is complete, its counts add up, and Ray writes the bytes of one process."""

import csv
import json
import shutil
import signal
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import webdataset

from jobs import cluster
from lglm_core.sources.coco import CocoSource
from lglm_core.sources.table import TableSource
from tests.jobs.commands import Commands, Here, contents, make_dataset, picture, write_coco
from tests.jobs.tables import table

PER_SHARD = 4
CUT = "000000000002.jpg"  # of train, and so
ABSENT = "000000000011.jpg"  # of val


def read_manifest(room: Path) -> dict[str, Any]:
    return json.loads((room / "manifest.json").read_text())


def assert_complete(room: Path) -> dict[str, Any]:
    """Assert that counts, index, shards and rejects of a dataset agree; return its manifest."""
    manifest = read_manifest(room)
    counts, shards = manifest["counts"], manifest["details"]["shards"]
    assert counts["planned"] == counts["written"] + counts["rejected"]
    assert counts["written"] == sum(shard["samples"] for shard in shards)
    assert counts["rejected"] == pq.read_metadata(room / "rejects.parquet").num_rows
    for split, described in manifest["details"]["splits"].items():
        keys = pq.read_table(room / "index" / f"{split}.parquet").column("key").to_pylist()
        assert len(keys) == len(set(keys)) == described["samples"]
    found = contents(room)
    for shard in shards:
        path = f"shards/{shard['split']}/{shard['name']}.tar"
        assert found[path] == shard["sha256"]
        assert (room / path).stat().st_size == shard["bytes"]
        opened = webdataset.WebDataset(str(room / path), shardshuffle=False)
        assert len(list(opened)) == shard["samples"]
    assert not [name for name in found if ".partial-" in name or "unfinished" in name]
    return manifest


@pytest.fixture(scope="module")
def damaged_coco(made_once: Callable) -> Path:
    """A COCO in which one picture is cut in half and another is missing."""
    with made_once("damaged-coco") as root:
        if not root.exists():
            write_coco(root)
            cut = root / "train2017" / CUT
            cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
            (root / "val2017" / ABSENT).unlink()
    return root


def shard(run: Commands | Here, root: Path, out: Path) -> dict[str, Any]:
    sizes = ("--max-samples-per-shard", PER_SHARD)
    return run.done("shard", "coco", "--root", root, "--out", out, *sizes)


@pytest.fixture(scope="module")
def from_coco(lglm: Commands, damaged_coco: Path, made_once: Callable) -> Path:
    """The dataset that ``lglm shard coco`` makes of the damaged COCO on a Ray of its own."""
    with made_once("from-coco") as out:
        shard(lglm, damaged_coco, out)
    return out


def test_coco_becomes_a_complete_room(from_coco: Path):
    manifest = assert_complete(from_coco)
    assert manifest["counts"]["planned"] == 12
    assert manifest["counts"]["rejected"] == 2
    names = [shard["name"] for shard in manifest["details"]["shards"]]
    assert names == ["train-000000", "train-000001", "train-000002", "val-000000"]


def test_a_broken_picture_is_a_row_in_rejects(from_coco: Path):
    rows = {row["source"]: row for row in pq.read_table(from_coco / "rejects.parquet").to_pylist()}
    assert set(rows) == {f"train2017/{CUT}", f"val2017/{ABSENT}"}
    cut, absent = rows[f"train2017/{CUT}"], rows[f"val2017/{ABSENT}"]
    assert (cut["key"], cut["split"], cut["status"]) == ("000000000002", "train", "corrupt")
    assert (absent["key"], absent["split"], absent["status"]) == ("000000000011", "val", "missing")
    assert cut["error"]
    assert absent["error"]


@pytest.mark.usefixtures("without_ray")
def test_too_many_broken_pictures_are_refused_and_mended_ones_are_read_again(
    here: Here, damaged_coco: Path, from_coco: Path, tmp_path: Path
):
    """Allowing more completes the dataset with the same bytes; mending it removes every trace of damage."""
    root, out = tmp_path / "coco", tmp_path / "room"
    shutil.copytree(damaged_coco, root)
    arguments = ("shard", "coco", "--root", root, "--out", out, "--max-samples-per-shard", PER_SHARD)
    retry = ("retry", *arguments[1:])
    refused = here(*arguments, "--max-rejected", "0.1")
    assert refused.code == 2
    (line,) = [line for line in refused.stderr.splitlines() if line.startswith("lglm shard:")]
    assert "2 of 12 pictures could not be read, more than --max-rejected = 0.1 allows" in line
    assert f"corrupt 1, such as train2017/{CUT}: " in line
    assert f"missing 1, such as val2017/{ABSENT}: cannot be read (No such file or directory)" in line
    assert not (out / "manifest.json").exists()
    assert here.done(*arguments)["counts"]["rejected"] == 2
    assert contents(out) == contents(from_coco)

    (root / "train2017").rename(root / "elsewhere")  # like a disk that is not mounted: shards are kept
    (root / "train2017").mkdir()
    again = here(*retry)
    stays = "train-000000 stays as it was, with 1 pictures rejected: of its samples 3 can no longer be read"
    assert f"{stays}, such as train2017/000000000000.jpg (cannot be read (No such file" in again.stderr
    assert contents(out) == contents(from_coco)
    (root / "train2017").rmdir()
    (root / "elsewhere").rename(root / "train2017")

    # Pictures whose rejection was allowed once do not count against a lower limit in a retry.
    here.done(*retry, "--max-rejected", "0")
    assert contents(out) == contents(from_coco)

    write_coco(tmp_path / "sound")
    for name in (f"train2017/{CUT}", f"val2017/{ABSENT}"):
        shutil.copy(tmp_path / "sound" / name, root / name)
    assert here.done(*arguments)["status"] == "already complete"
    counts = here.done(*retry)["counts"]
    assert (counts["written"], counts["rejected"]) == (12, 0)
    assert_complete(out)
    assert here.done(*retry)["status"] == "already complete"
    anew = make_dataset(CocoSource(str(root)), tmp_path / "anew", max_samples_per_shard=PER_SHARD)
    assert contents(out) == contents(anew)


def test_ray_writes_what_one_process_writes(from_coco: Path, damaged_coco: Path, tmp_path: Path):
    alone = make_dataset(CocoSource(str(damaged_coco)), tmp_path / "alone", max_samples_per_shard=PER_SHARD)
    assert contents(from_coco) == contents(alone)


def test_a_complete_dataset_is_recognised_at_once(lglm: Commands, damaged_coco: Path, from_coco: Path):
    before = contents(from_coco)
    started = time.perf_counter()
    result = shard(lglm, damaged_coco, from_coco)
    assert time.perf_counter() - started < 5
    assert result["status"] == "already complete"
    assert result["counts"] == read_manifest(from_coco)["counts"]
    assert contents(from_coco) == before


def test_a_complete_room_is_recognised_without_ray_and_torch(
    lglm: Commands, damaged_coco: Path, from_coco: Path
):
    arguments = [
        "coco",
        f"--root={damaged_coco}",
        f"--out={from_coco}",
        f"--max-samples-per-shard={PER_SHARD}",
    ]
    code = (
        "import sys, jobs.shard\n"
        f"assert jobs.shard.main({arguments!r}) == 0\n"
        "print(sorted({'ray', 'torch', 'prefect'} & set(sys.modules)))"
    )
    result = lglm.python(code)
    assert result.code == 0, result.stderr
    assert "  4 labels: 'person', 'parking meter', 'cell phone', 'dog'" in result.stdout.splitlines()
    assert result.stdout.splitlines()[-1] == "[]"


@pytest.mark.usefixtures("without_ray")
def test_an_unfinished_room_is_completed_to_the_same_bytes(
    here: Here, damaged_coco: Path, from_coco: Path, tmp_path: Path
):
    """No manifest, a shard without its receipt, a receipt without its shard, and a shard that is cut."""
    room = tmp_path / "room"
    shutil.copytree(from_coco, room)
    provenance = {name: read_manifest(room)[name] for name in ("kind", "inputs", "options")}
    (room / "unfinished.json").write_text(json.dumps(provenance))
    for name in ("manifest.json", "receipts/train-000000.json", "shards/train/train-000001.tar"):
        (room / name).unlink()
    tar = room / "shards" / "train" / "train-000002.tar"
    tar.write_bytes(tar.read_bytes()[:700])
    (room / "shards" / "val" / ".partial-left").mkdir()
    assert shard(here, damaged_coco, room)["status"] == "done"
    assert contents(room) == contents(from_coco)


@pytest.mark.usefixtures("without_ray")
def test_a_table_becomes_a_complete_room(here: Here, tmp_path: Path):
    table, images, out = tmp_path / "table.csv", tmp_path / "images", tmp_path / "out"
    names = [
        *(f"{number}.jpg" for number in range(8)),
        "птица 1.jpg",
        "deep/er/a.png",
        "a-b.webp",
        "a/b.webp",
    ]
    for seed, name in enumerate(names):
        picture(images / name, seed)
    (images / "3.jpg").write_text("no picture")
    with table.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["image", "labels", "split"])
        for number, name in enumerate(names):
            labels = "dog|cell phone" if number % 2 else "cat"
            rows.writerow([name, labels, "val" if number % 4 == 0 else "train"])
    arguments = ("--table", table, "--image-root", images, "--out", out, "--max-samples-per-shard", PER_SHARD)
    result = here.done("shard", "table", *arguments)
    assert result["status"] == "done"
    assert result["counts"] == assert_complete(out)["counts"]
    assert result["counts"] | {"planned": 12, "written": 11, "rejected": 1} == result["counts"]
    (rejected,) = pq.read_table(out / "rejects.parquet").to_pylist()
    assert (rejected["source"], rejected["status"]) == ("3.jpg", "not_an_image")
    assert json.loads((out / "labels.json").read_text()) == ["cat", "cell phone", "dog"]
    source = TableSource(str(table), str(images))
    assert contents(out) == contents(
        make_dataset(source, tmp_path / "alone", max_samples_per_shard=PER_SHARD)
    )


@pytest.mark.usefixtures("without_ray")
def test_pictures_are_scaled_down_with_the_given_quality(here: Here, coco: Path, tmp_path: Path):
    sizes = {}
    for quality, given in ((90, ()), (30, ("--quality", 30))):
        out = tmp_path / f"{quality}"
        here.done("shard", "coco", "--root", coco, "--out", out, "--max-side", 24, *given)
        assert_complete(out)
        assert read_manifest(out)["options"]["quality"] == quality
        index = pq.read_table(out / "index" / "train.parquet", columns=["width", "height"]).to_pylist()
        assert {max(row.values()) for row in index} == {24}
        with tarfile.open(next(out.rglob("*.tar"))) as tar:
            sizes[quality] = sum(member.size for member in tar if member.name.endswith(".jpg"))
    assert sizes[90] > sizes[30]


@pytest.mark.usefixtures("without_ray")
def test_pictures_that_are_all_missing_leave_nothing_behind(here: Here, coco: Path, tmp_path: Path):
    root, out = tmp_path / "coco", tmp_path / "out"
    shutil.copytree(coco, root)
    for path in (root / "train2017").iterdir():
        path.unlink()
    result = here("shard", "coco", "--root", root, "--out", out)
    assert result.code == 2
    assert "train" in result.stderr.splitlines()[-1]
    assert not out.exists()


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


@pytest.mark.usefixtures("without_ray")
def test_duplicates_that_cannot_be_left_out_are_not_reported_as_dropped(
    here: Here, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """A picture of their shard disappears after the pass that finds duplicates and before it drops them."""
    arguments = table(tmp_path, range(8))
    pictures, out = tmp_path / "images", tmp_path / "dataset"
    shutil.copy(pictures / "1.png", pictures / "6.png")
    run_tasks = cluster.run_tasks

    def without_pictures(*task: Any) -> list[Any]:
        if "drop duplicates" in task:
            for path in pictures.iterdir():
                path.rename(tmp_path / path.name)
        return run_tasks(*task)

    monkeypatch.setattr(cluster, "run_tasks", without_pictures)
    result = here("shard", *arguments, "--out", out, "--duplicates", "drop")
    assert result.code == 1
    assert "can no longer be read, such as" in result.stderr.splitlines()[-1]
    assert not (out / "manifest.json").exists()


@pytest.mark.usefixtures("without_ray")
def test_duplicates_become_rejects_on_request(here: Here, tmp_path: Path):
    arguments = table(tmp_path, range(8))
    pictures = tmp_path / "images"
    shutil.copy(pictures / "1.png", pictures / "6.png")
    kept = here.done("shard", *arguments, "--out", tmp_path / "kept")["counts"]
    dropped = here.done("shard", *arguments, "--out", tmp_path / "dropped", "--duplicates", "drop")["counts"]
    assert (kept["duplicates"], kept["rejected"], kept["written"]) == (1, 0, 8)
    assert (dropped["duplicates"], dropped["rejected"], dropped["written"]) == (1, 1, 7)
    manifest = json.loads((tmp_path / "dropped" / "manifest.json").read_text())
    assert manifest["options"]["duplicates"] == "drop"


@pytest.mark.usefixtures("without_ray")
def test_pictures_that_are_dropped_because_they_have_no_label_are_counted(here: Here, tmp_path: Path):
    root, out = write_coco(tmp_path / "coco"), tmp_path / "dataset"
    path = root / "annotations" / "instances_train2017.json"
    content = json.loads(path.read_text())
    content["annotations"] = [row for row in content["annotations"] if row["image_id"] not in (2, 5)]
    path.write_text(json.dumps(content))
    result = here("shard", "coco", "--root", root, "--out", out, "--unlabelled", "drop")
    assert result.code == 0, result.stderr
    assert "  2 pictures without a label were dropped" in result.stdout.splitlines()
    counts = assert_complete(out)["counts"]
    assert counts["unlabelled_dropped"] == 2
    assert (counts["planned"], counts["written"], counts["unlabelled"]) == (10, 10, 0)
    keys = pq.read_table(out / "index" / "train.parquet").column("key").to_pylist()
    assert not {"000000000002", "000000000005"} & {*keys}


@pytest.mark.parametrize(
    ("flag", "verb"), [("--append", "append"), ("--extend-labels", "append"), ("--retry-rejected", "retry")]
)
def test_a_flag_of_earlier_versions_is_refused_with_the_verb_that_replaces_it(
    here: Here, coco: Path, tmp_path: Path, flag: str, verb: str
):
    result = here("shard", "coco", "--root", coco, "--out", tmp_path / "out", flag)
    assert result.code == 2
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"lglm shard coco: {flag} ")
    assert f"use lglm {verb};" in line
    assert not (tmp_path / "out").exists()
