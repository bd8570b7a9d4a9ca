import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from lglm_core import rooms
from lglm_core.dataset.reader import Dataset
from lglm_core.errors import DamageError, InputError

Encode = Callable[..., bytes]
WriteDataset = Callable[..., Dataset]
NAMES = ["cat", "dog", "boat"]


@pytest.fixture
def dataset(tmp_path: Path, encode: Encode, write_dataset: WriteDataset) -> Dataset:
    def drawn(number: int) -> bytes:
        return encode(Image.new("RGB", (10 + number, 8), (number, 0, 0)))

    rows = [
        ("train", drawn(0), ["cat"], ["boat"]),
        ("train", drawn(1), [], []),
        ("train", None, ["dog"], []),  # missing
        ("train", drawn(3), ["cat", "dog"], []),
        ("val", drawn(4), ["dog"], []),
        ("val", b"no picture", ["dog"], []),
        ("train", drawn(6), ["boat"], ["cat", "dog"]),
    ]
    return write_dataset(tmp_path, NAMES, rows, per_shard=2)


def test_targets_are_one_for_labels_minus_one_for_unknown_and_zero_else(dataset: Dataset):
    train = dataset.split("train")
    assert train.keys == ["s0", "s1", "s3", "s6"]
    assert train.targets.tolist() == [[1, 0, -1], [0, 0, 0], [1, 1, 0], [-1, -1, 1]]
    assert train.targets.dtype == np.int8


def test_targets_do_not_depend_on_how_the_table_is_chunked(dataset: Dataset):
    train = dataset.split("train")
    pieces = pa.concat_tables([train.index.slice(row, 1) for row in range(len(train))])
    assert pieces.column("labels").num_chunks == 4
    chunked = replace(train, index=pieces)
    np.testing.assert_array_equal(chunked.targets, train.targets)


def test_every_image_is_read_as_it_was(dataset: Dataset):
    raw = Path(dataset.url).parent / "raw"
    train = dataset.split("train")
    for row, key in enumerate(train.keys):
        assert train.read_image(row) == (raw / key).read_bytes()


def test_width_and_height_are_in_the_index(dataset: Dataset):
    index = dataset.split("train").index
    assert index["width"].to_pylist() == [10, 11, 13, 16] and set(index["height"].to_pylist()) == {8}


def test_planned_pictures_are_written_or_rejected(dataset: Dataset):
    assert dataset.manifest.counts == {
        "planned": 7,
        "written": 5,
        "rejected": 2,
        "unlabelled": 1,
        "unlabelled_dropped": 0,
        "duplicates": 0,
    }


def test_rejects_say_which_and_why(dataset: Dataset):
    rejects = pq.read_table(f"{dataset.url}/rejects.parquet").to_pylist()
    assert [(row["key"], row["split"], row["source"], row["status"]) for row in rejects] == [
        ("s2", "train", "s2", "missing"),
        ("s5", "val", "s5", "not_an_image"),
    ]


def test_the_manifest_counts_each_splits_samples_and_labels(dataset: Dataset):
    assert dataset.manifest.splits == {
        "train": rooms.SplitRecord(4, (2, 1, 1)),
        "val": rooms.SplitRecord(1, (0, 1, 0)),
    }


def test_the_shares_of_labels_are_of_the_pictures_where_they_are_known(dataset: Dataset):
    np.testing.assert_allclose(dataset.training_prevalence(), [2 / 3, 1 / 3, 1 / 3])


def test_the_manifest_lists_every_shard_with_its_digest(dataset: Dataset):
    for shard in dataset.manifest.shards:
        path = Path(dataset.url, "shards", shard.split, f"{shard.name}.tar")
        assert shard.bytes == path.stat().st_size
        assert shard.sha256 == rooms.digest(path.read_bytes())


def test_the_fingerprint_does_not_depend_on_where_it_was_made(
    dataset: Dataset, tmp_path: Path, encode: Encode, write_dataset: WriteDataset
):
    rows = [("train", encode(Image.new("RGB", (4, 4))), ["cat"], [])]
    a, b = (write_dataset(tmp_path / name, NAMES, rows) for name in "ab")
    other = write_dataset(tmp_path / "c", NAMES, [("train", encode(Image.new("L", (4, 4))), ["cat"], [])])
    assert a.manifest == b.manifest
    assert other.manifest.fingerprint != a.manifest.fingerprint


def test_a_damaged_byte_is_refused_by_name(dataset: Dataset):
    train = dataset.split("train")
    shard = Path(dataset.url, "shards/train/train-000000.tar")
    data = bytearray(shard.read_bytes())
    data[train.index["offset"][1].as_py() + 20] ^= 1
    shard.write_bytes(data)
    train.read_image(0)
    with pytest.raises(
        DamageError, match=r"train-000000\.tar, sample s1: the image is not the one that was written"
    ):
        train.read_image(1)


def test_a_truncated_shard_is_refused_by_name(dataset: Dataset):
    shard = Path(dataset.url, "shards/train/train-000000.tar")
    split = dataset.split("train")
    shard.write_bytes(shard.read_bytes()[:700])
    with pytest.raises(DamageError, match=r"train-000000\.tar, sample s1: 0 bytes found, \d+ were written"):
        split.read_image(1)
    with pytest.raises(DamageError, match=r"train-000000\.tar: 700 bytes found, \d+ were written"):
        Dataset.open(dataset.url)


def test_an_image_has_a_name_within_the_dataset(dataset: Dataset):
    assert dataset.split("train").image_name(2) == "shards/train/train-000001.tar#s3"


def test_another_split_is_refused_with_those_there_are(dataset: Dataset):
    with pytest.raises(InputError, match="no split 'test'; it has train, val"):
        dataset.split("test")


def test_a_split_without_samples_is_none(tmp_path: Path, encode: Encode, write_dataset: WriteDataset):
    good = encode(Image.new("RGB", (4, 4)))
    made = write_dataset(tmp_path, NAMES, [("train", good, ["cat"], []), ("val", b"", ["cat"], [])])
    assert made.has_split("train") and not made.has_split("val") and not made.has_split("test")
    assert made.split("val").targets.shape == (0, 3)


def test_a_dataset_that_changed_since_it_was_looked_at_is_refused(dataset: Dataset):
    assert Dataset.open(dataset.url, fingerprint=dataset.manifest.fingerprint).manifest == dataset.manifest
    with pytest.raises(InputError, match="another run changed this dataset meanwhile"):
        Dataset.open(dataset.url, fingerprint="f" * 64)


def test_a_folder_that_is_no_dataset_is_refused(tmp_path: Path):
    with pytest.raises(InputError, match=r"no complete dataset room there \(no manifest\.json\)"):
        Dataset.open(str(tmp_path))


def test_nothing_in_the_room_tells_where_or_when_it_was_made(dataset: Dataset):
    home = str(Path(dataset.url).parent).encode()
    for path in Path(dataset.url).rglob("*"):
        assert not (path.is_file() and home in path.read_bytes()), path
    manifest = json.loads(Path(dataset.url, "manifest.json").read_text())
    assert not [name for name in manifest if "time" in name or "date" in name]


def test_without_some_labels_the_others_keep_their_targets(dataset: Dataset):
    first, *rest = dataset.labels
    kept = dataset.without([first])
    assert list(kept.labels) == rest
    np.testing.assert_array_equal(kept.split("train").targets, dataset.split("train").targets[:, 1:])
    np.testing.assert_array_equal(kept.training_prevalence(), dataset.training_prevalence()[1:])


def test_a_dataset_and_a_split_are_shown_in_one_useful_line(dataset: Dataset):
    assert repr(dataset) == f"Dataset({dataset.url}: train 4, val 1 samples, 3 labels)"
    assert repr(dataset.split("val")) == f"Split(val: 1 samples, 3 labels, of {dataset.url})"
