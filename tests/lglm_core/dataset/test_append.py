"""Adding to a dataset: what stands is never touched, and is never added twice."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lglm_core import rooms
from lglm_core.dataset.append import NewImages, orphan_files
from lglm_core.dataset.commit import commit_dataset
from lglm_core.dataset.plan import Plan, make_plan
from lglm_core.dataset.reader import Dataset
from lglm_core.dataset.shard_writer import write_shard
from lglm_core.dataset.statistics import describe
from lglm_core.errors import InputError
from lglm_core.rooms import lease
from lglm_core.sources.source import LabelledImage
from tests.jobs.commands import contents
from tests.lglm_core.conftest import ListedSource

COUNTED = ("planned", "written", "rejected")
Encode = Callable[..., bytes]
Listed = Callable[..., ListedSource]


@pytest.fixture
def first(tmp_path: Path, encode: Encode, write_dataset: Callable[..., Dataset]) -> Dataset:
    """Five pictures, s0 to s4, the last of which cannot be read."""
    rows = [
        ("val" if n == 1 else "train", encode(Image.new("RGB", (5, 4), (n, 0, 0))), ["a"], ["b"] if n else [])
        for n in range(4)
    ]
    return write_dataset(tmp_path, ["a", "b"], [*rows, ("train", b"", ["a"], [])], per_shard=2)


@pytest.fixture
def listed(first: Dataset, encode: Encode, listed_source: Listed) -> Listed:
    """A source of the same folder with further pictures: ``listed({"s7": ["a"]}, labels)``."""

    def source(
        rows: dict[str, Sequence[str]], labels: Sequence[str] = ("a", "b"), split: str = "train"
    ) -> ListedSource:
        raw = Path(first.url).parent / "raw"
        images = []
        for key, present in rows.items():
            path = raw / key
            if not path.exists():
                path.write_bytes(encode(Image.new("RGB", (5, 4), (0, int(key[1:]), 0))))
            unknown = ("b",) if key in ("s1", "s2", "s3") else ()
            images.append(LabelledImage(key, split, str(path), key, tuple(present), unknown))
        return listed_source(tuple(labels), tuple(images))

    return source


def add(dataset: Dataset, source: ListedSource, **options: bool) -> Dataset:
    addition = NewImages(source, dataset, **options)
    plan = make_plan(addition, 2, numbers=addition.numbers())
    recipe = rooms.Provenance("dataset", source.inputs(), source.options())
    rooms.begin_addition(dataset.url, recipe, dataset.manifest)
    receipts = [write_shard(shard, plan.labels, dataset.url) for shard in plan.shards]
    commit_dataset(dataset.url, recipe, plan, receipts, base=dataset.manifest, retried=addition.retried)
    return Dataset.open(dataset.url)


def test_new_pictures_become_new_shards_and_what_stands_is_untouched(first: Dataset, listed: Listed):
    before = contents(Path(first.url))
    second = add(first, listed({"s0": ["a"], "s1": ["a"], "s7": ["b"], "s8": []}))
    after = contents(Path(first.url))
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {"manifest.json"}
    assert after["manifests/0000.json"] == before["manifest.json"]
    assert second.split("train").keys == ["s0", "s2", "s3", "s7", "s8"]
    assert second.split("val").keys == ["s1"]
    assert second.manifest.fingerprint != first.manifest.fingerprint
    counts = second.manifest.counts
    assert counts["planned"] == counts["written"] + counts["rejected"] == 7
    names = [shard["name"] for shard in second.manifest.details["shards"]]
    assert sorted(names) == ["train-000000", "train-000001", "train-000002", "val-000000"]
    for name in ("train", "val"):
        split = second.split(name)
        assert [split.read_image(row)[:4] for row in range(len(split))] == [b"\x89PNG"] * len(split)


def test_a_picture_keeps_its_split_whatever_the_source_says_now(first: Dataset, listed: Listed):
    addition = NewImages(listed({"s0": ["a"], "s9": ["a"]}, split="val"), first)
    assert [(image.key, image.split) for image in addition.images()] == [("s9", "val")]
    assert addition.standing == 1


def test_a_key_of_its_split_alone_is_another_picture_in_another_split(first: Dataset, listed: Listed):
    source = replace(listed({"s0": ["a"], "s9": ["a"]}, split="val"), keys_per_split=True)
    addition = NewImages(source, first)
    assert [(image.key, image.split) for image in addition.images()] == [("s0", "val"), ("s9", "val")]
    second = add(first, source)
    assert second.split("val").keys == ["s1", "s0", "s9"]
    assert not list(NewImages(source, second).images())


def test_dropped_unlabelled_pictures_are_neither_compared_nor_known(first: Dataset, listed: Listed):
    """s0 had a label when it was added, and has none now."""
    source = replace(listed({"s0": [], "s7": [], "s8": ["a"]}), unlabelled="drop")
    addition = NewImages(source, first)
    plan = make_plan(addition, 2, numbers=addition.numbers())
    assert [[image.key for image in shard.images] for shard in plan.shards] == [["s8"]]
    assert (plan.unlabelled_dropped, addition.standing) == (2, 0)


def test_one_key_in_two_splits_is_refused_where_it_names_one_picture(listed: Listed, listed_source: Listed):
    images = (*listed({"s7": []}).listed, *listed({"s7": []}, split="val").listed)
    with pytest.raises(InputError, match="both get the key 's7'"):
        make_plan(listed_source(("a", "b"), images), 2)


def test_what_could_not_be_read_before_may_be_so_again(first: Dataset, listed: Listed):
    """s4 is in the plan once more, and is still empty."""
    addition = NewImages(listed({"s4": ["a"], "s7": ["a"]}), first, retry_rejected=True)
    plan = make_plan(addition, 2, numbers=addition.numbers())
    recipe = rooms.Provenance("dataset", {}, {})
    rooms.begin_addition(first.url, recipe, first.manifest)
    receipts = [write_shard(shard, plan.labels, first.url) for shard in plan.shards]
    with pytest.raises(InputError, match="1 of 2 pictures could not be read"):
        commit_dataset(first.url, recipe, plan, receipts, max_rejected=0.2, base=first.manifest)
    manifest = commit_dataset(
        first.url, recipe, plan, receipts, max_rejected=0.2, retried=addition.retried, base=first.manifest
    )
    assert (addition.retried, manifest.counts["written"]) == (1, 5)


def test_what_later_labels_leave_unknown_is_counted_as_that(first: Dataset, listed: Listed):
    source = listed({"s7": ["c", "a"], "s8": ["a"]}, ("a", "b", "c"))
    second = add(first, source, extend_labels=True)
    found, targets = describe(second), second.split("train").targets
    assert found.train.unknown.tolist() == (targets == -1).sum(axis=0).tolist() == [0, 2, 3]
    np.testing.assert_allclose(found.train.shares, second.training_shares())
    a, c = (found.together.labels.index(name) for name in "ac")
    assert found.together.expected[a, c] == pytest.approx(1 * 0.5 * 2)  # c is known of two pictures


def test_of_an_addition_that_was_given_up_its_own_files_alone_are_removed(first: Dataset, listed: Listed):
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
    second = add(first, listed({"s7": ["b"]}))
    third = add(second, listed({"s8": ["b", "c"]}, ("a", "b", "c")), extend_labels=True)
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
        InputError, match=r"has no label 'c'; mend the names, or add them with --extend-labels"
    ):
        add(first, source)
    second = add(first, source, extend_labels=True)
    assert list(second.labels) == ["a", "b", "c"]
    assert second.split("train").targets.tolist() == [
        [1, 0, -1],
        [1, -1, -1],
        [1, -1, -1],
        [0, 0, 1],
        [1, 0, 0],
    ]
    assert second.manifest.details["splits"]["train"]["label_counts"] == [4, 0, 1]


def test_that_later_labels_are_unknown_in_a_picture_may_be_said_of_it(first: Dataset, listed: Listed):
    second = add(first, listed({"s7": ["c"]}, ("a", "b", "c")), extend_labels=True)
    source = listed({"s0": ["a"], "s7": ["c"], "s8": ["b"]}, ("a", "b", "c", "d"))
    source = replace(source, listed=tuple(replace(i, unknown=(*i.unknown, "d")) for i in source.listed[:-1]))
    said_of_c = replace(source.listed[0], unknown=("c", "d"))
    third = replace(source, listed=(said_of_c, *source.listed[1:]))
    addition = NewImages(third, second, extend_labels=True)
    assert (list(addition.images()), addition.standing) == ([], 2)
    said_of_b = replace(said_of_c, unknown=("b", "c"))
    with pytest.raises(InputError, match=r"s0: is in .* already, with the unknown none, now b;"):
        list(NewImages(replace(source, listed=(said_of_b,)), second, extend_labels=True).images())


def test_other_labels_for_a_picture_that_is_there_are_refused(first: Dataset, listed: Listed):
    with pytest.raises(InputError, match=r"s0: is in .* already, with the labels a, now b"):
        add(first, listed({"s0": ["b"]}))


def test_another_picture_by_the_name_of_one_that_is_there_is_refused(first: Dataset, listed: Listed):
    raw = Path(first.url).parent / "raw"
    source = listed({"s0": ["a"], "s2": ["a"], "s7": ["a"]})
    (raw / "s0").unlink()  # what is away is not compared
    assert [image.key for image in NewImages(source, first).images()] == ["s7"]
    (raw / "s2").write_bytes((raw / "s7").read_bytes())
    with pytest.raises(InputError, match=r"s2: is in .* already, and now another picture"):
        add(first, source)


def test_of_many_pictures_that_are_there_some_are_compared(
    tmp_path: Path, encode: Encode, write_dataset: Callable[..., Dataset], listed_source: Listed
):
    rows = [("train", encode(Image.new("RGB", (5, 4), (n, 0, 0))), ["a"], []) for n in range(95)]
    many = write_dataset(tmp_path, ["a", "b"], rows, per_shard=50)
    raw = tmp_path / "raw"
    images = [LabelledImage(f"s{n}", "train", str(raw / f"s{n}"), f"s{n}", ("a",), ()) for n in range(95)]
    source = listed_source(("a", "b"), tuple(images))
    assert list(NewImages(source, many).images()) == []
    for n in range(95):
        (raw / f"s{n}").write_bytes(rows[(n + 1) % 95][1])
    with pytest.raises(InputError, match="now another picture"):
        list(NewImages(source, many).images())


def test_a_picture_that_could_not_be_read_is_taken_again_on_request_alone(first: Dataset, listed: Listed):
    raw = Path(first.url).parent / "raw"
    (raw / "s4").write_bytes((raw / "s0").read_bytes())
    source = listed({"s4": ["a"]})
    assert list(NewImages(source, first).images()) == []
    second = add(first, source, retry_rejected=True)
    assert "s4" in second.split("train").keys
    assert {n: second.manifest.counts[n] for n in COUNTED} == {"planned": 5, "written": 5, "rejected": 0}
    assert (first.rejects().num_rows, second.rejects().num_rows) == (1, 0)


def test_what_fails_again_is_one_reject_for_its_last_reason(first: Dataset, listed: Listed):
    (Path(first.url).parent / "raw" / "s4").write_text("no picture")
    second = add(first, listed({"s4": ["a"], "s7": ["a"]}), retry_rejected=True)
    assert {n: second.manifest.counts[n] for n in COUNTED} == {"planned": 6, "written": 5, "rejected": 1}
    assert [dataset.rejects().column("status").to_pylist() for dataset in (first, second)] == [
        ["empty"],
        ["not_an_image"],
    ]


def test_a_duplicate_that_was_dropped_is_not_taken_again(first: Dataset, listed: Listed):
    source = listed({"s7": ["a"]})
    plan = make_plan(NewImages(source, first), 2, numbers={"train": 9})
    recipe = rooms.Provenance("dataset", {}, {})
    rooms.begin_addition(first.url, recipe, first.manifest)
    receipts = [write_shard(shard, plan.labels, first.url, without={"s7": "s0"}) for shard in plan.shards]
    commit_dataset(first.url, recipe, plan, receipts, base=first.manifest)
    again = NewImages(source, Dataset.open(first.url), retry_rejected=True)
    assert (list(again.images()), again.standing, again.retried) == ([], 1, 0)


def test_a_picture_that_is_taken_again_stays_in_its_split(first: Dataset, listed: Listed):
    raw = Path(first.url).parent / "raw"
    (raw / "s4").write_bytes((raw / "s0").read_bytes())
    second = add(first, listed({"s4": ["a"]}, split="val"), retry_rejected=True)
    assert "s4" in second.split("train").keys
    assert second.rejects().num_rows == 0


def test_an_addition_to_what_changed_meanwhile_is_refused(first: Dataset, listed: Listed):
    add(first, listed({"s7": ["b"]}))
    with pytest.raises(InputError, match="another run changed this room meanwhile"):
        add(first, listed({"s8": ["b"]}))


@pytest.mark.parametrize("of_an_addition", [True, False])
def test_who_lost_the_room_to_another_process_leaves_its_files_alone(
    first: Dataset, listed: Listed, of_an_addition: bool
):
    """As after a network was gone for a while: another process took the room over, and completed it."""
    url, source = first.url, listed({"s7": ["a"], "s8": ["b"]})
    recipe = rooms.Provenance("dataset", source.inputs(), source.options())
    if of_an_addition:
        addition = NewImages(source, first)
        plan, base = make_plan(addition, 2, numbers=addition.numbers()), first.manifest
        rooms.begin_addition(url, recipe, base)
    else:
        plan, base = make_plan(source, 2), None
        rooms.begin(url, first.manifest.provenance)
    receipts = [write_shard(shard, plan.labels, str(Path(url).parent / "elsewhere")) for shard in plan.shards]
    (Path(url) / lease.FILE).write_text('{"token": "another"}')
    before = contents(Path(url))
    with pytest.raises(InputError, match="another run took over this room meanwhile"):
        commit_dataset(url, recipe, plan, receipts, base=base)
    assert contents(Path(url)) == before
