"""The manifest of every kind of room, as 0.4.0 wrote it."""

import json
import zipfile
from pathlib import Path

import pytest

from lglm_core.rooms import DatasetManifest, Manifest, parse_manifest

ROOMS = Path(__file__).parents[2] / "rooms_0_4_0" / "rooms.zip"
KINDS = {kind.kind: kind for kind in Manifest.__subclasses__()}


def manifests() -> dict[str, bytes]:
    with zipfile.ZipFile(ROOMS) as rooms:
        return {name: rooms.read(name) for name in rooms.namelist() if name.endswith("manifest.json")}


@pytest.mark.parametrize("name", manifests())
def test_a_manifest_of_0_4_0_is_read_and_written_to_the_same_bytes(name: str):
    data = manifests()[name]
    manifest = parse_manifest(data, name)
    assert type(manifest) is KINDS[json.loads(data)["kind"]]
    assert manifest.to_json() == data


def test_every_kind_is_among_them():
    assert {parse_manifest(data, name).kind for name, data in manifests().items()} == {*KINDS}


def test_a_dataset_counts_what_could_not_be_read_without_dropped_duplicates():
    data = manifests()["dataset/manifest.json"]
    manifest = parse_manifest(data, "dataset")
    assert isinstance(manifest, DatasetManifest)
    assert (manifest.counts["rejected"], manifest.unreadable) == (1, 1)
    assert manifest.has_samples("val") and not manifest.has_samples("test")
    assert [shard.name for shard in manifest.shards_of("val")] == ["val-000000"]
