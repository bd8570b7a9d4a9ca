"""A provenance, and a manifest of it."""

from pathlib import Path

from lglm_core.rooms import Provenance, Room, TagsManifest

PROVENANCE = Provenance(TagsManifest, {"table": "abc"}, {"source": "table", "share": 0.2})
MANIFEST = TagsManifest(
    fingerprint="f" * 64,
    inputs=PROVENANCE.inputs,
    options=PROVENANCE.options,
    counts={"files": 3},
    labels={"dog": 2},
)


def complete(room: Path) -> None:
    writer = Room(str(room), PROVENANCE)
    writer.begin()
    writer.commit(MANIFEST)
