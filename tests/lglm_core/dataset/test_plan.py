from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from lglm_core.dataset.plan import make_plan
from lglm_core.errors import InputError
from lglm_core.sources.source import LabelledImage

IMAGES = tuple(
    LabelledImage(f"k{n}", "val" if n % 3 == 0 else "train", f"/raw/k{n}.jpg", f"k{n}.jpg", ("a",))
    for n in range(10)
)
Listed = Callable[..., object]


def test_shards_keep_the_source_order_and_are_filled_up(listed_source: Listed):
    plan = make_plan(listed_source(("a", "b"), IMAGES), 3)
    assert [(shard.name, [image.key for image in shard.images]) for shard in plan.shards] == [
        ("train-000000", ["k1", "k2", "k4"]),
        ("train-000001", ["k5", "k7", "k8"]),
        ("val-000000", ["k0", "k3", "k6"]),
        ("val-000001", ["k9"]),
    ]
    assert plan.planned == 10


def test_where_the_raw_folder_stands_does_not_matter(listed_source: Listed):
    moved = tuple(replace(image, uri=f"/elsewhere/{image.source}") for image in IMAGES)
    plans = [make_plan(listed_source(("a", "b"), images), 3) for images in (IMAGES, moved)]
    assert plans[0].fingerprint == plans[1].fingerprint


@pytest.mark.parametrize(
    "change",
    [{"labels": ("b",)}, {"unknown": ("b",)}, {"source": "other.jpg"}, {"key": "other"}, {"split": "val"}],
)
def test_whatever_decides_the_bytes_changes_the_fingerprint(listed_source: Listed, change: dict[str, object]):
    changed = (IMAGES[0], replace(IMAGES[1], **change), *IMAGES[2:])  # type: ignore[arg-type]
    plans = [make_plan(listed_source(("a", "b"), images), 3) for images in (IMAGES, changed)]
    assert plans[0].fingerprint != plans[1].fingerprint


def test_order_shard_size_and_vocabulary_change_the_fingerprint(listed_source: Listed):
    plans = [
        make_plan(listed_source(("a", "b"), IMAGES), 3),
        make_plan(listed_source(("a", "b"), IMAGES), 4),
        make_plan(listed_source(("b", "a"), IMAGES), 3),
        make_plan(listed_source(("a", "b"), IMAGES[::-1]), 3),
    ]
    assert len({plan.fingerprint for plan in plans}) == 4


def test_every_shard_carries_the_plans_fingerprint(listed_source: Listed):
    plan = make_plan(listed_source(("a", "b"), IMAGES), 3)
    assert {shard.fingerprint for shard in plan.shards} == {plan.fingerprint}


def test_two_pictures_with_one_key_are_refused_by_name(listed_source: Listed):
    twins = (*IMAGES, replace(IMAGES[1], source="k1.png"))
    with pytest.raises(InputError, match=r"k1\.png and k1\.jpg both get the key 'k1'"):
        make_plan(listed_source(("a", "b"), twins), 3)


def test_one_picture_listed_twice_is_refused_too(listed_source: Listed):
    with pytest.raises(InputError, match=r"k1\.jpg"):
        make_plan(listed_source(("a", "b"), (*IMAGES, IMAGES[1])), 3)


def test_unlabelled_pictures_are_dropped_and_counted_if_the_source_says_so(listed_source: Listed):
    """Before keys are compared: a dropped picture may have another one's."""
    unlabelled = (replace(IMAGES[1], labels=()), replace(IMAGES[0], labels=(), key="k10"))
    unknown = replace(IMAGES[0], labels=(), unknown=("b",), key="k11")
    images = (*IMAGES, *unlabelled, unknown)
    plan = make_plan(listed_source(("a", "b"), images, unlabelled="drop"), 3)
    assert (plan.planned, plan.unlabelled_dropped) == (11, 2)
    assert plan == replace(make_plan(listed_source(("a", "b"), (*IMAGES, unknown)), 3), unlabelled_dropped=2)
    kept = make_plan(listed_source(("a", "b"), images[:10] + unlabelled[1:]), 3)
    assert (kept.planned, kept.unlabelled_dropped) == (11, 0)


@pytest.mark.parametrize("images", [(), (replace(IMAGES[0], split="val"),)])
def test_without_training_pictures_there_is_no_plan(listed_source: Listed, images: tuple[LabelledImage, ...]):
    with pytest.raises(InputError, match=r"^the list: no picture is in the split 'train'"):
        make_plan(listed_source(("a", "b"), images), 3)


def test_a_shard_holds_no_more_bytes_than_asked_for(tmp_path: Path, listed_source: Listed):
    sizes = {"k1": 40, "k2": 60, "k4": 1, "k5": 200, "k7": 10, "k8": 10}
    for key, size in sizes.items():
        (tmp_path / key).write_bytes(bytes(size))
    images = tuple(replace(image, uri=f"{tmp_path}/{image.key}") for image in IMAGES)
    plan = make_plan(listed_source(("a", "b"), images), 3, 100)
    assert [[image.key for image in shard.images] for shard in plan.shards if shard.split == "train"] == [
        ["k1", "k2"],
        ["k4"],
        ["k5"],
        ["k7", "k8"],
    ]
    val = [[image.key for image in shard.images] for shard in plan.shards if shard.split == "val"]
    assert val == [["k0", "k3", "k6"], ["k9"]]  # which are not there, and count as nothing


def test_what_no_file_can_be_called_counts_as_nothing(listed_source: Listed):
    names = ("a\0b", "gs://bucket/a", "x" * 5000)
    images = tuple(replace(image, uri=name) for image, name in zip(IMAGES, names, strict=False))
    assert make_plan(listed_source(("a", "b"), images), 3, 100).planned == 3


def test_a_plan_that_adds_goes_on_counting_and_needs_no_training_pictures(listed_source: Listed):
    plan = make_plan(listed_source(("a", "b"), IMAGES), 3, numbers={"train": 7})
    names = [shard.name for shard in plan.shards]
    assert names == ["train-000007", "train-000008", "val-000000", "val-000001"]
    assert plan.fingerprint != make_plan(listed_source(("a", "b"), IMAGES), 3).fingerprint
    only_val = listed_source(("a", "b"), (replace(IMAGES[0], split="val"),))
    assert make_plan(only_val, 3, numbers={"train": 7}).planned == 1
