"""Writing, appending and retrying through the one writer of datasets."""

from collections.abc import Callable
from pathlib import Path

import pytest

from lglm_core.dataset.append import (
    new_images,
)
from lglm_core.dataset.image_policy import ImagePolicy
from lglm_core.dataset.reader import Dataset
from lglm_core.dataset.writer import DatasetWriter, WriteSettings
from lglm_core.errors import InputError
from lglm_core.rooms import MissingRoom
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
