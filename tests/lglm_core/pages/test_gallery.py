"""The pictures that a dataset's page shows."""

import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lglm_core.dataset.image_policy import ImagePolicy
from lglm_core.dataset.reader import Dataset
from lglm_core.errors import DamageError
from lglm_core.pages import gallery as module
from lglm_core.pages.gallery import PER_LABEL, choose_label_rows, draw_gallery, examples_by_label

WriteDataset = Callable[..., Dataset]
NAMES = ("common", "rare", "once", "never", "only val")


@pytest.fixture(scope="module")
def dataset(
    tmp_path_factory: pytest.TempPathFactory, encode: Callable, write_dataset: WriteDataset
) -> Dataset:
    rows = []
    for number in range(40):
        present = ["common"] if number % 2 else []
        present += ["rare"] if number in (4, 8, 20, 32) else []
        present += ["once"] if number == 30 else []
        picture = encode(Image.new("RGB", (90 + number, 60), (6 * number, 0, 0)))
        rows.append(("train", picture, present, ["never"] if number == 3 else []))
    rows += [("val", picture, [*present, "only val"], unknown) for _, picture, present, unknown in rows[:6]]
    return write_dataset(tmp_path_factory.mktemp("gallery"), NAMES, rows, per_shard=16)


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def test_every_label_is_shown_three_times_or_as_often_as_it_occurs(dataset: Dataset):
    train = dataset.split("train")
    rows = choose_label_rows(train, range(5), 400, rng())
    assert len(set(rows)) == len(rows)
    examples = (train.targets[rows] == 1).sum(axis=0)
    assert examples[0] >= PER_LABEL and examples.tolist()[1:] == [3, 1, 0, 0]


def test_with_few_rows_every_label_is_shown_once_before_any_is_shown_twice(dataset: Dataset):
    train = dataset.split("train")
    rows = choose_label_rows(train, range(5), 3, rng())
    assert (train.targets[rows] == 1).any(axis=0).tolist() == [True, True, True, False, False]


def test_only_wanted_labels_get_examples(dataset: Dataset):
    assert choose_label_rows(dataset.split("train"), {2}, 400, rng()) == [30]


def test_the_gallery_shows_pictures_with_their_own_labels(dataset: Dataset):
    found = draw_gallery(dataset, ["train", "val"], examples=40)
    assert {split: len(pictures) for split, pictures in found.by_split.items()} == {"train": 40, "val": 6}
    for split, pictures in found.by_split.items():
        samples = dataset.split(split)
        assert sorted(picture.key for picture in pictures) == sorted(samples.keys)
        for picture in pictures:
            row = samples.keys.index(picture.key)
            for value, named in ((1, picture.labels), (-1, picture.unknown)):
                expected = [NAMES[k] for k in np.flatnonzero(samples.targets[row] == value)]
                assert list(named) == expected
            red = Image.open(io.BytesIO(picture.jpeg)).getpixel((5, 5))[0]
            original = int(picture.key[1:]) % 40
            assert abs(red - 6 * original) <= 6


def test_a_label_that_training_lacks_is_shown_from_another_split(dataset: Dataset):
    found = draw_gallery(dataset, ["train", "val"], examples=1)
    positions = examples_by_label(found)
    assert [picture.split for picture in found.label_examples].count("val") == PER_LABEL
    counts = [len(positions.get(label, ())) for label in NAMES]
    assert counts == [3, 3, 1, 0, 3]
    for label, of_label in positions.items():
        assert {found.label_examples[k].split for k in of_label} == {
            "val" if label == "only val" else "train"
        }
        assert all(label in found.label_examples[k].labels for k in of_label)


def test_the_same_dataset_gives_the_same_gallery_and_another_one_another(dataset: Dataset):
    assert draw_gallery(dataset, ["train"], 5) == draw_gallery(Dataset.open(dataset.url), ["train"], 5)
    other = replace(dataset, manifest=replace(dataset.manifest, fingerprint="f" * 64))
    assert draw_gallery(dataset, ["train"], 5) != draw_gallery(other, ["train"], 5)


def test_the_number_of_label_examples_is_limited(dataset: Dataset, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "MAX_LABEL_PICTURES", 4)
    assert len(draw_gallery(dataset, ["train", "val"], 1).label_examples) == 4


def test_a_damaged_picture_is_named(tmp_path: Path, encode: Callable, write_dataset: WriteDataset):
    picture = encode(Image.new("RGB", (9, 9)))
    dataset = write_dataset(tmp_path, ["a", "b"], [("train", picture, ["a"], [])] * 3)
    (shard,) = Path(dataset.url, "shards").rglob("*.tar")
    data = bytearray(shard.read_bytes())
    data[int(dataset.split("train").index.column("offset")[1].as_py()) + 20] ^= 1
    shard.write_bytes(data)
    with pytest.raises(DamageError, match="sample s1: the image is not the one that was written"):
        draw_gallery(dataset, ["train"], 3)


def test_a_picture_that_was_checked_by_its_header_and_does_not_decode_is_left_out(
    tmp_path: Path, encode: Callable, write_dataset: WriteDataset
):
    good = encode(Image.new("RGB", (9, 9)))
    bad = bytearray(encode(Image.effect_noise((64, 64), 90).convert("RGB"), "PNG"))
    bad[len(bad) // 2] ^= 0xFF  # the checksum fails when it is decoded
    rows = [("train", data, ["a"], []) for data in (good, bytes(bad), good)]
    dataset = write_dataset(tmp_path, ["a", "b"], rows, policy=ImagePolicy(verify="header"))
    found = draw_gallery(dataset, ["train"], 3)
    assert sorted(picture.key for picture in found.by_split["train"]) == ["s0", "s2"]
    assert sorted(picture.key for picture in found.label_examples) == ["s0", "s2"]


@pytest.mark.parametrize("format", ["JPEG", "PNG"])
def test_a_picture_on_its_side_is_shown_upright(
    tmp_path: Path, encode: Callable, write_dataset: WriteDataset, format: str
):
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encode(Image.new("RGB", (60, 30)), format, exif=exif)
    dataset = write_dataset(tmp_path, ["a", "b"], [("train", data, ["a"], [])])
    (picture,) = draw_gallery(dataset, ["train"], 1).by_split["train"]
    assert Image.open(io.BytesIO(picture.jpeg)).size == (30, 60)
