"""Which pictures stand for a dataset."""

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
from lglm_core.pages.gallery import PER_LABEL, draw_gallery, label_pictures, rows_of_labels

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


def test_every_label_is_seen_three_times_or_as_often_as_it_is_there(dataset: Dataset):
    train = dataset.split("train")
    rows = rows_of_labels(train, range(5), 400, rng())
    assert len(set(rows)) == len(rows)
    seen = (train.targets[rows] == 1).sum(axis=0)
    assert seen[0] >= PER_LABEL and seen.tolist()[1:] == [3, 1, 0, 0]


def test_where_few_rows_may_be_chosen_every_label_comes_once_before_any_comes_twice(dataset: Dataset):
    train = dataset.split("train")
    rows = rows_of_labels(train, range(5), 3, rng())
    assert (train.targets[rows] == 1).any(axis=0).tolist() == [True, True, True, False, False]


def test_only_wanted_labels_are_looked_for(dataset: Dataset):
    assert rows_of_labels(dataset.split("train"), {2}, 400, rng()) == [30]


def test_the_gallery_shows_pictures_with_their_own_labels(dataset: Dataset):
    found = draw_gallery(dataset, ["train", "val"], examples=40)
    assert {split: len(shown) for split, shown in found.sheets.items()} == {"train": 40, "val": 6}
    for split, shown in found.sheets.items():
        samples = dataset.split(split)
        assert sorted(picture.key for picture in shown) == sorted(samples.keys)
        for picture in shown:
            row = samples.keys.index(picture.key)
            for value, named in ((1, picture.labels), (-1, picture.unknown)):
                expected = [NAMES[k] for k in np.flatnonzero(samples.targets[row] == value)]
                assert list(named) == expected
            red = Image.open(io.BytesIO(picture.jpeg)).getpixel((5, 5))[0]
            original = int(picture.key[1:]) % 40
            assert abs(red - 6 * original) <= 6


def test_a_label_that_training_lacks_is_shown_from_another_split(dataset: Dataset):
    found = draw_gallery(dataset, ["train", "val"], examples=1)
    places = label_pictures(found)
    assert [picture.split for picture in found.of_labels].count("val") == PER_LABEL
    counts = [len(places.get(label, ())) for label in NAMES]
    assert counts == [3, 3, 1, 0, 3]
    for label, where in places.items():
        assert {found.of_labels[k].split for k in where} == {"val" if label == "only val" else "train"}
        assert all(label in found.of_labels[k].labels for k in where)


def test_the_same_dataset_gives_the_same_gallery_and_another_one_another(dataset: Dataset):
    assert draw_gallery(dataset, ["train"], 5) == draw_gallery(Dataset.open(dataset.url), ["train"], 5)
    other = replace(dataset, manifest=replace(dataset.manifest, fingerprint="f" * 64))
    assert draw_gallery(dataset, ["train"], 5) != draw_gallery(other, ["train"], 5)


def test_there_are_never_more_pictures_of_labels_than_a_page_takes(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(module, "LABEL_PICTURES", 4)
    assert len(draw_gallery(dataset, ["train", "val"], 1).of_labels) == 4


def test_a_damaged_picture_is_named(tmp_path: Path, encode: Callable, write_dataset: WriteDataset):
    picture = encode(Image.new("RGB", (9, 9)))
    dataset = write_dataset(tmp_path, ["a", "b"], [("train", picture, ["a"], [])] * 3)
    (shard,) = Path(dataset.url, "shards").rglob("*.tar")
    data = bytearray(shard.read_bytes())
    data[int(dataset.split("train").index.column("offset")[1].as_py()) + 20] ^= 1
    shard.write_bytes(data)
    with pytest.raises(DamageError, match="sample s1: the image is not the one that was written"):
        draw_gallery(dataset, ["train"], 3)


def test_a_picture_that_was_taken_by_its_header_and_does_not_decode_is_left_out(
    tmp_path: Path, encode: Callable, write_dataset: WriteDataset
):
    good = encode(Image.new("RGB", (9, 9)))
    bad = bytearray(encode(Image.effect_noise((64, 64), 90).convert("RGB"), "PNG"))
    bad[len(bad) // 2] ^= 0xFF  # its checksum tells, to who decodes it
    rows = [("train", data, ["a"], []) for data in (good, bytes(bad), good)]
    dataset = write_dataset(tmp_path, ["a", "b"], rows, policy=ImagePolicy(verify="header"))
    found = draw_gallery(dataset, ["train"], 3)
    assert sorted(picture.key for picture in found.sheets["train"]) == ["s0", "s2"]
    assert sorted(picture.key for picture in found.of_labels) == ["s0", "s2"]


@pytest.mark.parametrize("format", ["JPEG", "PNG"])
def test_a_picture_on_its_side_is_shown_upright(
    tmp_path: Path, encode: Callable, write_dataset: WriteDataset, format: str
):
    exif = Image.Exif()
    exif[0x0112] = 6
    picture = encode(Image.new("RGB", (60, 30)), format, exif=exif)
    dataset = write_dataset(tmp_path, ["a", "b"], [("train", picture, ["a"], [])])
    (shown,) = draw_gallery(dataset, ["train"], 1).sheets["train"]
    assert Image.open(io.BytesIO(shown.jpeg)).size == (30, 60)
