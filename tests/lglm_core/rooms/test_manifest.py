"""Manifests and provenances: what is written, what is read back, and what is refused."""

import json
import pickle
from pathlib import Path

import pytest

from lglm_core.errors import DamageError, InputError
from lglm_core.rooms import (
    EvaluationManifest,
    MissingRoom,
    Provenance,
    Room,
    TagsManifest,
    digest,
    read_manifest,
    require,
    to_json,
)
from tests.lglm_core.rooms.samples import MANIFEST, PROVENANCE, complete


def test_a_required_room_of_another_kind_is_refused(room: Path):
    Room(str(room), PROVENANCE).commit(MANIFEST)
    with pytest.raises(InputError, match="a tags room was found where an evaluation room was expected"):
        require(str(room), EvaluationManifest)


def test_a_required_room_is_returned_with_its_manifest(room: Path):
    Room(str(room), PROVENANCE).commit(MANIFEST)
    assert require(str(room), TagsManifest) == MANIFEST


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("{", "not JSON"),
        ("{}", "not the manifest of a room"),
        ('{"a": 1}', "not the manifest of a room"),
    ],
)
def test_a_manifest_that_is_none_is_refused_by_name(room: Path, content: str, complaint: str):
    room.mkdir()
    (room / "manifest.json").write_text(content)
    with pytest.raises(InputError, match=rf"manifest\.json: {complaint}"):
        read_manifest(str(room))


def test_another_format_version_is_refused(room: Path):
    Room(str(room), PROVENANCE).commit(MANIFEST)
    path = room / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format_version": 1}))
    with pytest.raises(InputError, match="format version 1; this lglm reads version 2"):
        require(str(room), TagsManifest)


def test_the_fingerprint_does_not_depend_on_the_order_of_the_options():
    turned = Provenance(TagsManifest, {"table": "abc"}, {"share": 0.2, "source": "table"})
    assert turned.fingerprint == PROVENANCE.fingerprint


def test_a_changed_byte_of_a_manifest_is_damage(room: Path):
    complete(room)
    path = room / "manifest.json"
    path.write_bytes(path.read_bytes().replace(b'"files": 3', b'"files": 4'))
    with pytest.raises(DamageError, match=r"manifest\.json: its bytes are not those that were written"):
        read_manifest(str(room))


def test_a_missing_room_comes_out_of_a_worker_as_it_was(room: Path):
    """Errors cross processes as pickles."""
    with pytest.raises(MissingRoom) as refused:
        require(str(room), TagsManifest)
    again = pickle.loads(pickle.dumps(refused.value))
    assert (str(again), again.missing_kind) == (str(refused.value), "tags")


def test_a_changed_byte_of_the_kind_is_damage_too(room: Path):
    complete(room)
    path = room / "manifest.json"
    path.write_bytes(path.read_bytes().replace(b'"kind": "tags"', b'"kind": "tagz"'))
    with pytest.raises(DamageError, match="its bytes are not those that were written"):
        read_manifest(str(room))


def test_a_kind_that_does_not_exist_is_refused(room: Path):
    room.mkdir()
    content = {**json.loads(MANIFEST.to_json()), "kind": "tagz"}
    del content["digest"]
    (room / "manifest.json").write_bytes(to_json({**content, "digest": digest(content)}))
    with pytest.raises(InputError, match="not the manifest of a room"):
        read_manifest(str(room))
