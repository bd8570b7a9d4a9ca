"""Adding to a dataset: what stands is never touched, and is never added twice."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lglm_core.dataset.append import (
    first_shard_numbers,
    new_images,
    orphan_files,
    rejected_images,
)
from lglm_core.dataset.commit import Written, commit_append, commit_dataset
from lglm_core.dataset.plan import Plan, make_plan
from lglm_core.dataset.reader import Dataset
from lglm_core.dataset.shard_writer import write_shard
from lglm_core.dataset.statistics import describe
from lglm_core.errors import InputError
from lglm_core.rooms import DatasetManifest, Provenance, Room, lease
from lglm_core.sources.source import LabelledImage
from tests.jobs.commands import contents
from tests.lglm_core.conftest import ListedSource
from tests.lglm_core.dataset.samples import append, keys

COUNTED = ("planned", "written", "rejected")
Encode = Callable[..., bytes]
Listed = Callable[..., ListedSource]


def test_new_pictures_become_new_shards_and_what_stands_is_untouched(first: Dataset, listed: Listed):
    before = contents(Path(first.url))
    second = append(first, listed({"s0": ["a"], "s1": ["a"], "s7": ["b"], "s8": []}))
    after = contents(Path(first.url))
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {"manifest.json"}
    assert after["manifests/0000.json"] == before["manifest.json"]
    assert second.split("train").keys == ["s0", "s2", "s3", "s7", "s8"]
    assert second.split("val").keys == ["s1"]
    assert second.manifest.fingerprint != first.manifest.fingerprint
    counts = second.manifest.counts
    assert counts["planned"] == counts["written"] + counts["rejected"] == 7
    names = [shard.name for shard in second.manifest.shards]
    assert sorted(names) == ["train-000000", "train-000001", "train-000002", "val-000000"]
    for name in ("train", "val"):
        split = second.split(name)
        assert [split.read_image(row)[:4] for row in range(len(split))] == [b"\x89PNG"] * len(split)


def test_a_picture_keeps_its_split_whatever_the_source_says_now(first: Dataset, listed: Listed):
    found = new_images(listed({"s0": ["a"], "s9": ["a"]}, split="val"), first)
    assert [(image.key, image.split) for image in found.images()] == [("s9", "val")]
    assert found.known == 1


def test_a_key_of_its_split_alone_is_another_picture_in_another_split(first: Dataset, listed: Listed):
    source = replace(listed({"s0": ["a"], "s9": ["a"]}, split="val"), keys_per_split=True)
    found = new_images(source, first)
    assert [(image.key, image.split) for image in found.images()] == [("s0", "val"), ("s9", "val")]
    second = append(first, source)
    assert second.split("val").keys == ["s1", "s0", "s9"]
    assert keys(new_images(source, second)) == []


def test_dropped_unlabelled_pictures_are_neither_compared_nor_counted_as_known(
    first: Dataset, listed: Listed
):
    """s0 had a label when it was added, and has none now."""
    source = replace(listed({"s0": [], "s7": [], "s8": ["a"]}), unlabelled="drop")
    found = new_images(source, first)
    plan = make_plan(found, 2, numbers=first_shard_numbers(first.manifest))
    assert [[image.key for image in shard.images] for shard in plan.shards] == [["s8"]]
    assert (plan.unlabelled_dropped, found.known) == (2, 0)


def test_one_key_in_two_splits_is_refused_where_it_names_one_picture(listed: Listed, listed_source: Listed):
    images = (*listed({"s7": []}).listed, *listed({"s7": []}, split="val").listed)
    with pytest.raises(InputError, match="both get the key 's7'"):
        make_plan(listed_source(("a", "b"), images), 2)


def test_what_later_labels_leave_unknown_is_counted_as_that(first: Dataset, listed: Listed):
    source = listed({"s7": ["c", "a"], "s8": ["a"]}, ("a", "b", "c"))
    second = append(first, source, extend_labels=True)
    found, targets = describe(second), second.split("train").targets
    assert found.train.unknown.tolist() == (targets == -1).sum(axis=0).tolist() == [0, 2, 3]
    np.testing.assert_allclose(found.train.prevalence, second.training_prevalence())
    a, c = (found.together.labels.index(name) for name in "ac")
    assert found.together.expected[a, c] == pytest.approx(1 * 0.5 * 2)  # c is known of two pictures


def test_only_the_files_of_an_unfinished_append_are_orphans(first: Dataset, listed: Listed):
    ours = ("shards/train/train-000009.tar", "receipts/train-000009.json", "labels.0001.json")
    own = ("README.md", "shards/notes.txt", "labels.0002.json", "audit/shards/x.tar")
    for name in (*ours, *own):
        path = Path(first.url, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    plan = make_plan(listed({"s7": ["a"], "s8": ["a"], "s9": ["a"]}), 2, numbers={"train": 8})
    assert [shard.name for shard in plan.shards] == ["train-000008", "train-000009"]
    assert sorted(orphan_files(first.url, first.manifest, plan)) == ["labels.0001.json"]
    none = Plan(plan.labels, (), "")
    assert sorted(orphan_files(first.url, first.manifest, none)) == sorted(ours)


def test_the_dataset_as_it_was_is_still_readable(first: Dataset, listed: Listed):
    second = append(first, listed({"s7": ["b"]}))
    third = append(second, listed({"s8": ["b", "c"]}, ("a", "b", "c")), extend_labels=True)
    assert Dataset.open(first.url) == third
    for part, expected in enumerate((first, second, third)):
        again = Dataset.open(first.url, part)
        assert again.manifest == expected.manifest and again.labels == expected.labels
        assert again.split("train").targets.tolist() == expected.split("train").targets.tolist()
    with pytest.raises(InputError, match="no part 3; it has 3, the first is 0"):
        Dataset.open(first.url, 3)


def test_new_labels_are_refused_unless_they_are_allowed_and_then_unknown_before(
    first: Dataset, listed: Listed
):
    source = listed({"s7": ["c"], "s8": ["a"]}, ("c", "a", "b"))
    with pytest.raises(
        InputError, match=r"has no label 'c'; mend the names, or add them with `extend_labels`"
    ):
        append(first, source)
    second = append(first, source, extend_labels=True)
    assert list(second.labels) == ["a", "b", "c"]
    assert second.split("train").targets.tolist() == [
        [1, 0, -1],
        [1, -1, -1],
        [1, -1, -1],
        [0, 0, 1],
        [1, 0, 0],
    ]
    assert second.manifest.splits["train"].label_counts == (4, 0, 1)


def test_that_later_labels_are_unknown_in_a_picture_may_be_said_of_it(first: Dataset, listed: Listed):
    second = append(first, listed({"s7": ["c"]}, ("a", "b", "c")), extend_labels=True)
    source = listed({"s0": ["a"], "s7": ["c"], "s8": ["b"]}, ("a", "b", "c", "d"))
    source = replace(source, listed=tuple(replace(i, unknown=(*i.unknown, "d")) for i in source.listed[:-1]))
    said_of_c = replace(source.listed[0], unknown=("c", "d"))
    third = replace(source, listed=(said_of_c, *source.listed[1:]))
    found = new_images(third, second, extend_labels=True)
    assert (keys(found), found.known) == ([], 2)
    said_of_b = replace(said_of_c, unknown=("b", "c"))
    with pytest.raises(InputError, match=r"s0: is in .* already, with the unknown none, now b;"):
        new_images(replace(source, listed=(said_of_b,)), second, extend_labels=True)


def test_other_labels_for_a_picture_that_is_there_are_refused(first: Dataset, listed: Listed):
    with pytest.raises(InputError, match=r"s0: is in .* already, with the labels a, now b"):
        append(first, listed({"s0": ["b"]}))


def test_another_picture_by_the_name_of_one_that_is_there_is_refused(first: Dataset, listed: Listed):
    raw = Path(first.url).parent / "raw"
    source = listed({"s0": ["a"], "s2": ["a"], "s7": ["a"]})
    (raw / "s0").unlink()  # what is away is not compared
    assert keys(new_images(source, first)) == ["s7"]
    (raw / "s2").write_bytes((raw / "s7").read_bytes())
    with pytest.raises(InputError, match=r"s2: is in .* already, and now another picture"):
        append(first, source)


def test_of_many_pictures_that_are_there_some_are_compared(
    tmp_path: Path, encode: Encode, write_dataset: Callable[..., Dataset], listed_source: Listed
):
    rows = [("train", encode(Image.new("RGB", (5, 4), (n, 0, 0))), ["a"], []) for n in range(95)]
    many = write_dataset(tmp_path, ["a", "b"], rows, per_shard=50)
    raw = tmp_path / "raw"
    images = [LabelledImage(f"s{n}", "train", str(raw / f"s{n}"), f"s{n}", ("a",), ()) for n in range(95)]
    source = listed_source(("a", "b"), tuple(images))
    assert keys(new_images(source, many)) == []
    for n in range(95):
        (raw / f"s{n}").write_bytes(rows[(n + 1) % 95][1])
    with pytest.raises(InputError, match="now another picture"):
        new_images(source, many)


def test_a_retry_takes_no_new_images(first: Dataset, listed: Listed):
    found = rejected_images(listed({"s0": ["a"], "s4": ["a"], "s7": ["a"]}), first)
    assert (keys(found), found.known) == (["s4"], 2)


def test_a_rejected_image_with_a_label_that_the_dataset_lacks_is_refused(first: Dataset, listed: Listed):
    with pytest.raises(InputError, match="has no label 'c', which rejected pictures have now"):
        rejected_images(listed({"s4": ["c"]}, ("a", "b", "c")), first)


def test_a_duplicate_that_was_dropped_is_not_taken_again(first: Dataset, listed: Listed):
    source = listed({"s7": ["a"]})
    plan = make_plan(new_images(source, first), 2, numbers={"train": 9})
    provenance = Provenance(DatasetManifest, {}, {})
    room = Room(first.url, provenance)
    room.append(first.manifest, "manifests/0000.json")
    receipts = [write_shard(shard, plan.labels, first.url, without={"s7": "s0"}) for shard in plan.shards]
    commit_append(room, first.manifest, Written(plan, receipts), provenance)
    again = rejected_images(source, Dataset.open(first.url))
    assert (keys(again), again.known) == ([], 1)


@pytest.mark.parametrize("appending", [True, False])
def test_a_process_that_lost_the_room_leaves_its_files_alone(first: Dataset, listed: Listed, appending: bool):
    """As after a network was gone for a while: another process took the room over, and completed it."""
    source, base = listed({"s7": ["a"], "s8": ["b"]}), first.manifest
    room = Room(first.url, base.provenance)
    if appending:
        plan = make_plan(new_images(source, first), 2, numbers=first_shard_numbers(base))
        room.append(base, "manifests/0000.json")
    else:
        plan = make_plan(source, 2)
        room.begin()
    elsewhere = str(Path(first.url).parent / "elsewhere")
    written = Written(plan, [write_shard(shard, plan.labels, elsewhere) for shard in plan.shards])
    (Path(first.url) / lease.FILE).write_text('{"token": "another"}')
    before = contents(Path(first.url))
    with pytest.raises(InputError, match="another run took over this room meanwhile"):
        if appending:
            commit_append(room, base, written, base.provenance)
        else:
            commit_dataset(room, written)
    assert contents(Path(first.url)) == before
