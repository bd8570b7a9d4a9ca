"""The record that commits a room."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from lglm_core import storage
from lglm_core.errors import DamageError, InputError
from lglm_core.rooms.canonical import digest, to_json

FORMAT_VERSION = 2


MANIFEST = "manifest.json"


WRITTEN_BY = {
    "dataset": "lglm shard",
    "label-embeddings": "lglm label-embeddings",
    "run": "lglm train",
    "model": "lglm train",
    "evaluation": "lglm evaluate",
    "embeddings": "lglm embed",
    "tags": "lglm tag",
    "explanation": "lglm explain",
}


@dataclass(frozen=True)
class Provenance:
    """What a room is made from: the fingerprints of its inputs and the options that matter."""

    kind: str
    inputs: Mapping[str, str]
    options: Mapping[str, Any]

    @property
    def fingerprint(self) -> str:
        """The sha256 over kind, inputs and options."""
        return digest(asdict(self))


@dataclass(frozen=True)
class Manifest:
    """The record that commits a room.

    ``fingerprint`` identifies the content or, where only people read the room, its recipe; ``counts`` are
    for people and for assertions; ``details`` hold what is particular to the kind of room.
    """

    kind: str
    fingerprint: str
    inputs: Mapping[str, str]
    options: Mapping[str, Any]
    counts: Mapping[str, int]
    details: Mapping[str, Any] = field(default_factory=dict)
    format_version: int = FORMAT_VERSION

    def to_json(self) -> bytes:
        """The bytes of its file; a digest in them makes any other bytes recognisable."""
        content = asdict(self)
        return to_json({**content, "digest": digest(content)})

    @property
    def provenance(self) -> Provenance:
        """What the room was made from."""
        return Provenance(self.kind, self.inputs, self.options)


def read_json(url: str) -> Any:
    """Read a JSON file; refuse, by name, what is none."""
    return parse_json(storage.read_bytes(url), url)


def read_manifest(room: str) -> Manifest | None:
    """Return the manifest of a complete room, or None where there is none."""
    url = storage.join(room, MANIFEST)
    data = _read_if_there(url)
    return None if data is None else parse_manifest(data, url)


def parse_manifest(data: bytes, url: str) -> Manifest:
    """Read a manifest; refuse, by name, one that is damaged or of another format version."""
    record = parse_json(data, url)
    version = record.get("format_version") if isinstance(record, dict) else None
    if isinstance(version, int) and version != FORMAT_VERSION:
        raise InputError(f"{url}: format version {version}; this lglm reads version {FORMAT_VERSION}")
    try:
        record.pop("digest", None)
        manifest = Manifest(**record)
    except (AttributeError, TypeError) as error:
        raise InputError(f"{url}: not the manifest of an lglm room ({error})") from error
    if manifest.to_json() != data:
        raise DamageError(
            f"{url}: what it says is not what was written; bring back a copy of it, or remove the folder and "
            "make it again"
        )
    return manifest


def require(room: str, kind: str) -> Manifest:
    """Return the manifest of an input room of the given *kind*, or refuse by name."""
    manifest = read_manifest(room)
    if manifest is None:
        raise InputError(
            f"{room}: no complete {kind} room there (no {MANIFEST}); {WRITTEN_BY[kind]} writes one"
        )
    if manifest.kind != kind:
        raise InputError(f"{room}: a {manifest.kind} room was found where a {kind} room was expected")
    return manifest


def _read_if_there(url: str) -> bytes | None:
    try:
        return storage.read_bytes(url)
    except storage.UnreadableFile as error:
        if not error.missing:
            raise
        return None


def parse_json(data: bytes, url: str) -> Any:
    """Turn the bytes of a JSON file into what it holds; *url* is for the error."""
    try:
        return json.loads(data)
    except ValueError as error:
        raise InputError(f"{url}: not JSON ({error})") from error
