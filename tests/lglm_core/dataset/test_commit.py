"""Completing a dataset: what is written last, what is refused, and what is removed."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from lglm_core import rooms
from lglm_core.dataset.commit import Written, commit_dataset, refuse_other_shards
from lglm_core.dataset.plan import make_plan
from lglm_core.dataset.reader import Dataset
from lglm_core.dataset.shard_writer import write_shard
from lglm_core.errors import DamageError, InputError
from lglm_core.labels.vocabulary import LabelVocabulary
from lglm_core.sources.source import LabelledImage

Encode = Callable[..., bytes]
WriteDataset = Callable[..., Dataset]
NAMES = ["cat", "dog", "boat"]


def test_training_pictures_that_cannot_be_read_are_refused_with_the_first_reason(
    tmp_path: Path, write_dataset: WriteDataset
):
    with pytest.raises(
        InputError, match="no picture of the split 'train' could be read; empty 1, such as s0: 0 bytes"
    ):
        write_dataset(tmp_path, NAMES, [("train", b"", ["cat"], [])])
    assert not (tmp_path / "dataset" / "manifest.json").exists()


def test_a_picture_lost_on_the_way_is_damage(
    tmp_path: Path, encode: Encode, listed_source: Callable[..., object]
):
    (tmp_path / "x").write_bytes(encode(Image.new("RGB", (4, 4))))
    images = tuple(LabelledImage(f"k{n}", "train", f"{tmp_path}/x", "x", ("cat",)) for n in range(2))
    plan = make_plan(listed_source(tuple(NAMES), tuple(replace(i, source=i.key) for i in images)), 5)
    url = str(tmp_path / "dataset")
    receipt = write_shard(plan.shards[0], LabelVocabulary(NAMES), url)
    lost = replace(receipt, index=receipt.index.slice(0, 1))
    with pytest.raises(DamageError, match="2 pictures planned, but 1 written and 0 rejected"):
        commit_dataset(room_at(url), Written(plan, [lost]))


def room_at(url: str) -> rooms.Room[rooms.DatasetManifest]:
    return rooms.Room(url, rooms.Provenance(rooms.DatasetManifest, {}, {}))


@pytest.fixture
def three(tmp_path: Path, encode: Encode, listed_source: Callable[..., object]) -> Any:
    """A source of three pictures."""
    images = []
    for number in range(3):
        path = tmp_path / f"p{number}"
        path.write_bytes(encode(Image.new("RGB", (4, 4), (number, 0, 0))))
        images.append(LabelledImage(path.name, "train", str(path), path.name, ("cat",)))
    return listed_source(tuple(NAMES), tuple(images))


def test_shards_of_another_division_are_removed_and_nothing_else(three: Any, tmp_path: Path):
    url = str(tmp_path / "dataset")
    for per_shard in (1, 2):  # the first one never came to its end
        plan = make_plan(three, per_shard)
        receipts = [write_shard(shard, plan.labels, url) for shard in plan.shards]
    Path(url, "notes.txt").touch()
    commit_dataset(room_at(url), Written(plan, receipts))
    assert len(list(Path(url).glob("shards/*/*.tar"))) == len(list(Path(url).glob("receipts/*"))) == 2
    assert Path(url, "notes.txt").exists()
    assert Dataset.open(url).split("train").keys == ["p0", "p1", "p2"]


def test_a_shard_that_cannot_be_written_anew_as_it_was_is_named(three: Any, tmp_path: Path):
    url, plan = str(tmp_path / "dataset"), make_plan(three, 2)
    receipts = [write_shard(shard, plan.labels, url) for shard in plan.shards]
    manifest = commit_dataset(room_at(url), Written(plan, receipts))
    Path(url, "shards/train/train-000001.tar").unlink()
    again = [write_shard(shard, plan.labels, url) for shard in plan.shards]
    refuse_other_shards(room_at(url), manifest, Written(plan, again))
    Path(url, "shards/train/train-000001.tar").unlink()
    (tmp_path / "p2").unlink()
    again = [write_shard(shard, plan.labels, url) for shard in plan.shards]
    with pytest.raises(
        DamageError, match=r"train-000001\.tar cannot be written anew as it was.* missing 1, such"
    ):
        refuse_other_shards(room_at(url), manifest, Written(plan, again))
    assert not Path(url, "shards/train/train-000001.tar").exists()  # else taken for what it was
    assert Path(url, "shards/train/train-000000.tar").exists()


def test_a_mended_dataset_is_what_its_manifest_says(three: Any, tmp_path: Path):
    """Of a picture that was no picture, and is away now, the reason changes and no shard does."""
    (tmp_path / "p1").write_text("no picture")
    url, plan = str(tmp_path / "dataset"), make_plan(three, 3)
    statuses = []
    for _ in range(2):
        receipts = [write_shard(shard, plan.labels, url) for shard in plan.shards]
        manifest = commit_dataset(room_at(url), Written(plan, receipts))
        assert Dataset.open(url).manifest == manifest
        statuses += Dataset.open(url).rejects().column("status").to_pylist()
        Path(url, "shards/train/train-000000.tar").unlink()
        (tmp_path / "p1").unlink(missing_ok=True)
    assert statuses == ["not_an_image", "missing"]
