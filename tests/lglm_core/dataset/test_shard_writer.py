import hashlib
import json
import shutil
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import webdataset
from PIL import Image

from lglm_core.dataset import shard_writer as shards
from lglm_core.dataset.plan import ShardPlan
from lglm_core.dataset.receipt import Receipt
from lglm_core.dataset.shard_writer import write_shard
from lglm_core.sources.source import LabelledImage
from tests.lglm_core.dataset.samples import GOOD, LABELS, plan_of, shard

Encode = Callable[..., bytes]


BAD = {
    "missing": "missing",
    "empty": "empty",
    "truncated": "corrupt",
    "letter": "not_an_image",
    "folder": "unreadable",
}


def test_the_same_plan_gives_the_same_bytes_anywhere(receipt: Receipt, raw: Path, out: Path, tmp_path: Path):
    moved = Path(shutil.copytree(raw, tmp_path / "moved"))
    for name in GOOD:
        (moved / f"{name}.jpg").touch()  # another time of change
        (moved / f"{name}.jpg").chmod(0o600)
    again = write_shard(plan_of(moved, GOOD), LABELS, f"{tmp_path}/else where")
    assert again == receipt
    assert shard(tmp_path / "else where").read_bytes() == shard(out).read_bytes()


def test_offset_and_size_point_at_the_images_bytes(receipt: Receipt, raw: Path, out: Path):
    data = shard(out).read_bytes()
    for row, name in zip(receipt.index.to_pylist(), GOOD, strict=True):
        picture = (raw / f"{name}.jpg").read_bytes()
        assert data[row["offset"] : row["offset"] + row["size"]] == picture
        assert row["sha256"] == hashlib.sha256(picture).hexdigest()


def test_the_offsets_are_those_that_tarfile_finds(receipt: Receipt, out: Path):
    with tarfile.open(shard(out)) as tar:
        members = [m for m in tar.getmembers() if not m.name.endswith(".json")]
    rows = receipt.index.to_pylist()
    assert [(m.offset_data, m.size) for m in members] == [(row["offset"], row["size"]) for row in rows]


def test_members_carry_no_time_and_no_owner(receipt: Receipt, out: Path):
    with tarfile.open(shard(out)) as tar:
        assert {(m.mtime, m.uid, m.gid, m.uname, m.gname, m.mode) for m in tar} == {(0, 0, 0, "", "", 0o644)}


def test_every_image_has_the_same_extension_whatever_its_format(receipt: Receipt, out: Path):
    with tarfile.open(shard(out)) as tar:
        names = [name for name in tar.getnames() if not name.endswith(".json")]
    assert names == ["good.jpg", "rotated.jpg", "really-a-png.jpg"]


def test_a_rotated_picture_is_indexed_as_it_is_seen(receipt: Receipt):
    sizes = [(row["width"], row["height"]) for row in receipt.index.to_pylist()]
    assert sizes == [(20, 30), (30, 20), (20, 30)]


def test_labels_are_columns_ascending(receipt: Receipt):
    assert [(row["labels"], row["unknown"]) for row in receipt.index.to_pylist()] == [([0, 1], [2])] * 3


@pytest.mark.filterwarnings("ignore")
def test_it_opens_with_webdataset(receipt: Receipt, raw: Path, out: Path):
    samples = list(webdataset.WebDataset(str(shard(out)), shardshuffle=False))
    assert [sample["__key__"] for sample in samples] == GOOD
    for sample, name in zip(samples, GOOD, strict=True):
        assert sample["jpg"] == (raw / f"{name}.jpg").read_bytes()
        assert json.loads(sample["json"]) == {
            "labels": ["dog", "cat"],
            "unknown": ["boat"],
            "source": f"{name}.jpg",
        }


@pytest.mark.filterwarnings("ignore")
def test_webdataset_decodes_the_same_pixels(receipt: Receipt, raw: Path, out: Path):
    samples = list(webdataset.WebDataset(str(shard(out)), shardshuffle=False).decode("rgb8"))
    for sample, name in zip(samples, GOOD, strict=True):
        with Image.open(raw / f"{name}.jpg") as picture:
            np.testing.assert_array_equal(sample["jpg"], np.asarray(picture.convert("RGB")))


@pytest.mark.parametrize(("name", "status"), BAD.items())
def test_what_is_no_picture_is_rejected_with_status_and_reason(raw: Path, out: Path, name: str, status: str):
    receipt = write_shard(plan_of(raw, ["good", name]), LABELS, str(out))
    (reject,) = receipt.rejects
    assert (reject.key, reject.split, reject.source, reject.status) == (name, "train", f"{name}.jpg", status)
    assert reject.error


def test_every_planned_picture_is_written_or_rejected(raw: Path, out: Path):
    names = [name for pair in zip(BAD, [*GOOD, "good", "good"], strict=True) for name in pair][:-2]
    receipt = write_shard(plan_of(raw, names), LABELS, str(out))
    assert len(receipt.index) + len(receipt.rejects) == len(names)
    assert receipt.index.column("key").to_pylist() == [name for name in names if name not in BAD]
    assert [reject.key for reject in receipt.rejects] == [name for name in names if name in BAD]


def test_pictures_that_are_away_when_rejects_are_retried_are_not_lost(raw: Path, out: Path):
    plan = plan_of(raw, [*GOOD, "missing"])
    before = write_shard(plan, LABELS, str(out))
    data = shard(out).read_bytes()
    (raw / "good.jpg").rename(raw / "elsewhere.jpg")
    (raw / "missing.jpg").write_bytes((raw / "elsewhere.jpg").read_bytes())
    kept = write_shard(plan, LABELS, str(out), retry_rejected=True)
    assert (kept, [lost.source for lost in kept.lost]) == (before, ["good.jpg"])
    assert shard(out).read_bytes() == data
    (raw / "elsewhere.jpg").rename(raw / "good.jpg")
    assert write_shard(plan, LABELS, str(out), retry_rejected=True).keys == {*GOOD, "missing"}


def test_a_rejects_reason_names_no_place_on_this_machine(raw: Path, out: Path):
    receipt = write_shard(plan_of(raw, list(BAD)), LABELS, str(out))
    assert not [reject.error for reject in receipt.rejects if str(raw) in reject.error]


def test_a_finished_shard_is_not_written_again(receipt: Receipt, raw: Path, out: Path):
    shutil.rmtree(raw)
    again = write_shard(plan_of(raw, GOOD), LABELS, str(out))
    assert (again.sha256, len(again.index), again.rejects) == (receipt.sha256, 3, ())


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[600] ^= 1
    path.write_bytes(data)


DAMAGES = {
    "flipped byte": flip,
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-100]),
    "grown": lambda path: path.write_bytes(path.read_bytes() + bytes(512)),
    "gone": lambda path: path.unlink(),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_shard_is_written_again(receipt: Receipt, raw: Path, out: Path, damage: str):
    whole = shard(out).read_bytes()
    DAMAGES[damage](shard(out))
    assert write_shard(plan_of(raw, GOOD), LABELS, str(out)) == receipt
    assert shard(out).read_bytes() == whole


def test_a_shard_without_receipt_is_written_again(receipt: Receipt, raw: Path, out: Path):
    (out / "receipts" / "train-000000.json").unlink()
    flip(shard(out))
    assert write_shard(plan_of(raw, GOOD), LABELS, str(out)) == receipt
    assert hashlib.sha256(shard(out).read_bytes()).hexdigest() == receipt.sha256


def test_a_shard_of_another_plan_is_written_again(receipt: Receipt, raw: Path, out: Path):
    again = write_shard(plan_of(raw, GOOD[:1], fingerprint="f2"), LABELS, str(out))
    assert again.plan == "f2" and len(again.index) == 1
    assert hashlib.sha256(shard(out).read_bytes()).hexdigest() == again.sha256 != receipt.sha256


def test_a_kill_while_writing_leaves_no_shard(raw: Path, out: Path, monkeypatch: pytest.MonkeyPatch):
    def die(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("lglm_core.dataset.shard_writer.compact_json", die)
    with pytest.raises(KeyboardInterrupt):
        write_shard(plan_of(raw, GOOD), LABELS, str(out))
    assert not shard(out).exists()


def test_the_longest_key_fits_a_tar_header(raw: Path, out: Path):
    key = "k" * 89
    plan = plan_of(raw, ["good"])
    plan = replace(plan, images=(replace(plan.images[0], key=key),))
    write_shard(plan, LABELS, str(out))
    with tarfile.open(shard(out)) as tar:
        assert tar.getnames() == [f"{key}.jpg", f"{key}.json"]


def test_a_film_among_the_pictures_is_rejected_unread(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(shards, "MAX_BYTES", 1000)
    with (raw / "film.jpg").open("wb") as film:
        film.truncate(1001)
    image = LabelledImage("film", "train", str(raw / "film.jpg"), "film.jpg", ())
    receipt = write_shard(ShardPlan("train", 0, (image,), "x"), LABELS, str(tmp_path / "dataset"))
    (reject,) = receipt.rejects
    assert (reject.status, reject.error) == ("too_large", "more than 1000 bytes")
