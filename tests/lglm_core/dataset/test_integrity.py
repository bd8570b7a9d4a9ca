"""Whatever byte of a dataset is changed or lost, checking it names the file, and reading it refuses."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lglm_core.dataset.integrity import (
    Damage,
    check_files,
    check_shard,
    check_sizes,
    files_beside_shards,
    untracked_files,
)
from lglm_core.dataset.reader import Dataset, shards_with_rows
from lglm_core.errors import DamageError, InputError
from lglm_core.rooms import DatasetManifest, require

FLIPS_PER_FILE = 25


@pytest.fixture(scope="module")
def whole(
    tmp_path_factory: pytest.TempPathFactory,
    encode: Callable[..., bytes],
    write_dataset: Callable[..., Dataset],
) -> Path:
    rng = np.random.default_rng(0)
    rows = []
    for number in range(7):
        pixels = rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)
        split = "val" if number % 3 == 0 else "train"
        rows.append((split, encode(Image.fromarray(pixels), "JPEG"), ["a"], ["b"] if number % 2 else []))
    rows.append(("train", b"no picture", ["a"], []))
    return Path(write_dataset(tmp_path_factory.mktemp("whole"), ["a", "b"], rows, per_shard=2).url)


@pytest.fixture
def copy(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "dataset"))


def check_everything(url: str, manifest: DatasetManifest) -> list[Damage]:
    """What ``lglm verify --full`` finds."""
    damages = check_sizes(url, manifest) + check_files(url, manifest, files_beside_shards(manifest))
    for shard, rows in shards_with_rows(url, manifest):
        damages += check_shard(url, shard, rows)
    return damages


def read_everything(url: str) -> None:
    """What training reads."""
    dataset = Dataset.open(url)
    dataset.check_files_without_samples()
    for name in dataset.manifest.splits:
        split = dataset.split(name)
        for row in range(len(split)):
            split.read_image(row)


FILES = [
    *("manifest.json", "labels.json", "rejects.parquet", "duplicates.parquet"),
    *("index/train.parquet", "index/val.parquet"),
    *("shards/train/train-000000.tar", "shards/train/train-000001.tar", "shards/val/val-000001.tar"),
    "shards/train/train-000002.tar",  # which holds no sample
    *("receipts/train-000000.json", "receipts/train-000002.json"),
]


def test_a_whole_dataset_has_no_damage(whole: Path):
    url = str(whole)
    assert (
        check_everything(url, require(url, DatasetManifest))
        == []
        == untracked_files(url, require(url, DatasetManifest))
    )
    read_everything(url)


@pytest.mark.chaos
@pytest.mark.diagonal
@pytest.mark.parametrize("name", FILES)
def test_a_flipped_byte_is_named_whatever_it_is_and_refused_by_training(copy: Path, name: str):
    url, path = str(copy), copy / name
    content = path.read_bytes()
    rng = np.random.default_rng(1)
    for position in {0, len(content) - 1, *rng.integers(len(content), size=FLIPS_PER_FILE).tolist()}:
        flipped = bytearray(content)
        flipped[position] ^= int(rng.integers(1, 256))
        path.write_bytes(flipped)
        if name == "manifest.json":
            with pytest.raises((DamageError, InputError), match=r"manifest\.json"):
                require(url, DatasetManifest)
        else:
            assert name in {damage.file for damage in check_everything(url, require(url, DatasetManifest))}
        with pytest.raises((DamageError, InputError), match=name):
            read_everything(url)


@pytest.mark.chaos
@pytest.mark.diagonal
@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, "one byte", "gone"])
def test_a_cut_is_named_and_refused_by_training(copy: Path, name: str, share: float | str):
    url, path = str(copy), copy / name
    content = path.read_bytes()
    if share == "gone":
        path.unlink()
    else:
        path.write_bytes(content[:-1] if isinstance(share, str) else content[: int(share * len(content))])
    if name == "manifest.json":
        with pytest.raises((DamageError, InputError), match=r"manifest\.json"):
            require(url, DatasetManifest)
    else:
        assert name in {damage.file for damage in check_sizes(url, require(url, DatasetManifest))}
    with pytest.raises((DamageError, InputError), match=name):
        read_everything(url)


def test_the_damaged_sample_is_named(copy: Path):
    url = str(copy)
    train = Dataset.open(url).split("train")
    path = copy / "shards/train/train-000001.tar"
    row = train.index["shard"].to_pylist().index("train-000001") + 1
    data = bytearray(path.read_bytes())
    data[train.index["offset"][row].as_py() + 9] ^= 4
    path.write_bytes(data)
    assert [(d.file, d.sample) for d in check_everything(url, require(url, DatasetManifest))] == [
        ("shards/train/train-000001.tar", train.keys[row])
    ]


def test_a_picture_that_was_taken_by_its_header_and_does_not_decode_is_named(
    tmp_path: Path, encode: Callable[..., bytes], write_dataset: Callable[..., Dataset]
):
    from lglm_core.dataset.image_policy import ImagePolicy

    data = bytearray(encode(Image.effect_noise((64, 64), 90).convert("RGB"), "PNG"))
    data[len(data) // 2] ^= 0xFF  # its checksum tells, to who decodes it
    good = encode(Image.new("RGB", (4, 4)))
    rows = [("train", good, ["a"], []), ("train", bytes(data), ["a"], [])]
    url = write_dataset(tmp_path, ["a", "b"], rows, policy=ImagePolicy(verify="header")).url
    (damage,) = check_everything(url, require(url, DatasetManifest))
    assert damage.sample == "s1" and "cannot be decoded" in damage.problem
    assert "its bytes are those that were written" in damage.problem
    assert "write a new dataset with `verify` = decode" in damage.problem


def test_a_file_that_does_not_belong_there_is_named(copy: Path):
    (copy / "shards/train/train-000009.tar").touch()
    assert untracked_files(str(copy), require(str(copy), DatasetManifest)) == [
        "shards/train/train-000009.tar"
    ]


@pytest.mark.parametrize("name", ["shards/train/train-000000.tar", "receipts/train-000000.json"])
def test_a_file_that_cannot_be_read_hides_no_other_damage(copy: Path, name: str):
    url = str(copy)
    manifest = require(url, DatasetManifest)
    (copy / name).unlink()
    os.mkfifo(copy / name)
    other = copy / "labels.json"
    other.write_bytes(other.read_bytes()[:-1] + b" ")
    damages = check_everything(url, manifest)
    assert {damage.file for damage in damages} == {name, "labels.json"}
    assert f"{copy / name}: not a regular file" in [damage.problem for damage in damages]
