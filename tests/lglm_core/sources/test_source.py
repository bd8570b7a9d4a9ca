import re

import pytest

from lglm_core.sources.source import LabelledImage, key_of, split_of


@pytest.mark.parametrize("name", ["000000000009", "IMG_12-b"])
def test_a_valid_name_is_its_own_key(name: str):
    assert key_of(name) == name


NAMES = [
    "a.b",
    "a-b",
    "a b",
    "a/b",
    "ä-b",
    "a\nb",
    "../../etc/passwd",
    "x" * 80,
    "x" * 81,
    "y" + "x" * 80,
    "",
]


def test_keys_hold_letters_digits_and_dashes_and_fit_a_tar_header():
    assert all(re.fullmatch(r"[A-Za-z0-9_-]{0,89}", key_of(name)) for name in NAMES)


def test_no_two_names_meet_in_one_key():
    assert len({key_of(name) for name in NAMES}) == len(NAMES)


def test_the_fraction_of_validation_is_about_what_was_asked_for():
    splits = [split_of(f"picture-{number}", 0.2) for number in range(5000)]
    assert set(splits) == {"train", "val"}
    assert splits.count("val") / 5000 == pytest.approx(0.2, abs=0.02)


def test_a_larger_fraction_moves_pictures_one_way_only():
    for key in map(str, range(500)):
        assert not (split_of(key, 0.2) == "val" and split_of(key, 0.3) == "train")


@pytest.mark.parametrize(("fraction", "split"), [(0.0, "train"), (1.0, "val")])
def test_none_or_all_can_be_validation(fraction: float, split: str):
    assert {split_of(str(number), fraction) for number in range(200)} == {split}


@pytest.mark.parametrize(
    ("labels", "unknown", "unlabelled"), [((), (), True), (("a",), (), False), ((), ("b",), False)]
)
def test_an_image_is_unlabelled_if_it_has_neither_labels_nor_unknown_ones(
    labels: tuple[str, ...], unknown: tuple[str, ...], unlabelled: bool
):
    image = LabelledImage("k", "train", "/raw/k.jpg", "k.jpg", labels, unknown)
    assert image.is_unlabelled is unlabelled
