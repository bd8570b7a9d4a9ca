"""Writing, appending and retrying through the one writer of datasets."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from lglm_core.dataset.append import (
    new_images,
)
from lglm_core.dataset.image_policy import ImagePolicy
from lglm_core.dataset.reader import Dataset
from lglm_core.dataset.writer import DatasetWriter, RunTasks, WriteSettings, in_this_process
from lglm_core.errors import InputError
from lglm_core.rooms import MissingRoom, lease
from tests.jobs.commands import contents
from tests.lglm_core.conftest import ListedSource
from tests.lglm_core.dataset.samples import append, keys, retry, writer_of

COUNTED = ("planned", "written", "rejected")
Encode = Callable[..., bytes]
Listed = Callable[..., ListedSource]


def test_an_image_that_could_not_be_read_before_may_be_unreadable_again(first: Dataset, listed: Listed):
    """s4 is empty; appended beside another one, half of them are more than is allowed, retried none."""
    source = listed({"s7": ["a"], "s8": ["a"], "s9": ["a"]})
    raw = Path(first.url).parent / "raw"
    (raw / "s7").write_bytes(b"")
    (raw / "s8").write_bytes(b"")
    with pytest.raises(InputError, match=r"2 of 3 pictures could not be read, more than `max_rejected`"):
        writer_of(first, 0.6).append(source)
    second = append(first, source)
    (raw / "s8").write_bytes((raw / "s9").read_bytes())
    change = writer_of(second, 0.0).retry(source)
    assert (change.changed, change.added) == (True, 1)
    assert change.manifest.counts["written"] == 6


def test_a_picture_that_could_not_be_read_is_taken_again_on_request_alone(first: Dataset, listed: Listed):
    raw = Path(first.url).parent / "raw"
    (raw / "s4").write_bytes((raw / "s0").read_bytes())
    source = listed({"s4": ["a"]})
    assert keys(new_images(source, first)) == []
    second = retry(first, source)
    assert "s4" in second.split("train").keys
    assert {n: second.manifest.counts[n] for n in COUNTED} == {"planned": 5, "written": 5, "rejected": 0}
    assert (first.rejects().num_rows, second.rejects().num_rows) == (1, 0)


def test_what_fails_again_is_one_reject_for_its_last_reason(first: Dataset, listed: Listed):
    raw = Path(first.url).parent / "raw"
    source = listed({"s4": ["a"], "s5": ["a"]})
    (raw / "s5").write_bytes(b"")
    second = append(first, source)
    (raw / "s4").write_text("no picture")
    (raw / "s5").write_bytes((raw / "s0").read_bytes())
    third = retry(second, source)
    assert {n: third.manifest.counts[n] for n in COUNTED} == {"planned": 6, "written": 5, "rejected": 1}
    assert [dataset.rejects().column("status").to_pylist() for dataset in (first, third)] == [
        ["empty"],
        ["not_an_image"],
    ]


def test_a_retry_in_vain_leaves_the_dataset_as_it_was(first: Dataset, listed: Listed):
    before = contents(Path(first.url))
    change = writer_of(first).retry(listed({"s4": ["a"], "s7": ["a"]}))
    assert (change.changed, change.still_unreadable) == (False, 1)
    assert contents(Path(first.url)) == before


def test_a_retry_of_nothing_is_refused(tmp_path: Path, listed: Listed):
    with pytest.raises(MissingRoom, match="no complete dataset room there"):
        DatasetWriter(str(tmp_path / "nowhere")).retry(listed({"s0": ["a"]}))


def test_a_picture_that_is_taken_again_stays_in_its_split(first: Dataset, listed: Listed):
    raw = Path(first.url).parent / "raw"
    (raw / "s4").write_bytes((raw / "s0").read_bytes())
    second = retry(first, listed({"s4": ["a"]}, split="val"))
    assert "s4" in second.split("train").keys
    assert second.rejects().num_rows == 0


def test_a_dataset_is_written_here_and_found_complete(first: Dataset, listed: Listed, tmp_path: Path):
    source = listed({"s0": ["a"], "s1": ["a"], "s2": ["a"]})
    writer = DatasetWriter(str(tmp_path / "another"), WriteSettings(max_samples_per_shard=2))
    provenance = writer.settings.provenance(source.inputs(), source.options())
    assert writer.find(provenance) is None
    written = writer.write(source)
    assert (len(written.shards), written.counts["written"]) == (2, 3)
    assert writer.find(provenance) == written


def test_a_removed_shard_is_written_again_to_the_same_bytes(first: Dataset, listed: Listed, tmp_path: Path):
    source, out = listed({"s0": ["a"], "s1": ["a"], "s2": ["a"]}), tmp_path / "another"
    writer = DatasetWriter(str(out), WriteSettings(max_samples_per_shard=2))
    provenance = writer.write(source).provenance
    before = contents(out)
    (out / "shards" / "train" / "train-000001.tar").unlink()
    assert writer.find(provenance) is None
    writer.write(source)
    assert contents(out) == before


def test_settings_at_their_defaults_are_not_recorded():
    """A provenance of 0.4.0 has none of them either."""
    plain, other = WriteSettings(), WriteSettings(max_bytes_per_shard=9, duplicates="drop")
    assert plain.provenance({}, {"source": "x"}).options == {"source": "x", "max_samples_per_shard": 1000}
    assert other.provenance({}, {}).options == {
        "max_samples_per_shard": 1000,
        "max_bytes_per_shard": 9,
        "duplicates": "drop",
    }


@pytest.mark.parametrize(
    ("settings", "difference"),
    [
        (WriteSettings(images=ImagePolicy(verify="header")), "verify was not given, now header"),
        (WriteSettings(duplicates="drop"), "duplicates was not given, now drop"),
    ],
)
def test_images_that_are_handled_in_another_way_are_not_appended(
    first: Dataset, listed: Listed, settings: WriteSettings, difference: str
):
    with pytest.raises(InputError, match=difference):
        DatasetWriter(first.url, settings).append(listed({"s7": ["a"]}))


def test_a_rejected_image_with_a_new_label_extends_the_labels_on_request(first: Dataset, listed: Listed):
    raw = Path(first.url).parent / "raw"
    (raw / "s4").write_bytes((raw / "s0").read_bytes())
    source = listed({"s4": ["c"], "s7": ["d"]}, ("a", "b", "c", "d"))
    with pytest.raises(InputError, match="has no label 'c', which rejected pictures have now"):
        writer_of(first).retry(source)
    change = writer_of(first).retry(source, extend_labels=True)
    assert (change.added, list(Dataset.open(first.url).labels)) == (1, ["a", "b", "c"])


def test_a_dataset_that_changes_while_a_retry_is_prepared_is_left_alone(first: Dataset, listed: Listed):
    """Another process appends between the plan of a retry and its lease."""
    source = listed({f"s{n}": ["a"] for n in range(5)})
    source = replace(
        source, listed=tuple(replace(i, split="val") if i.key == "s1" else i for i in source.listed)
    )
    again = DatasetWriter(first.url, WriteSettings(max_samples_per_shard=2, max_rejected=1.0))
    assert again.find(first.manifest.provenance) == first.manifest

    @contextmanager
    def workers() -> Iterator[RunTasks]:
        append(first, listed({"s7": ["b"]}))
        with in_this_process() as run:
            yield run

    with pytest.raises(InputError, match="another run changed this room meanwhile"):
        replace(again, workers=workers).retry(source)
    second = Dataset.open(first.url)
    assert (len(second.manifest.parts), "s7" in second.split("train").keys) == (2, True)


def test_files_of_somebody_else_are_not_written_over(listed: Listed, tmp_path: Path):
    other = tmp_path / "theirs" / "shards" / "train" / "x.tar"
    other.parent.mkdir(parents=True)
    other.touch()
    with pytest.raises(InputError, match="the folder holds other files"):
        DatasetWriter(str(tmp_path / "theirs")).write(listed({"s0": ["a"]}))
    assert other.exists()


def test_a_writer_that_fails_gives_its_lease_back(first: Dataset, listed: Listed):
    source = listed({"s7": ["a"]})
    (Path(first.url).parent / "raw" / "s7").write_bytes(b"")
    with pytest.raises(InputError, match="more than `max_rejected`"):
        writer_of(first, 0.0).append(source)
    assert not (Path(first.url) / lease.FILE).exists()
