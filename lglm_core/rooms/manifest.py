"""The record that commits a room: reading and checking it, and the provenance that it records.

Imports nothing heavy: whether a room is complete is found out before torch or ray is loaded.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import cache
from typing import Any, ClassVar, Generic, Self, TypedDict, TypeVar

from pydantic import ConfigDict, TypeAdapter, ValidationError

from lglm_core import storage
from lglm_core.errors import DamageError, InputError
from lglm_core.rooms.canonical import digest, to_json

FORMAT_VERSION = 2
MANIFEST = "manifest.json"


class MissingRoom(InputError):
    """No complete room of the kind *missing_kind* is there."""

    def __init__(self, message: str, *, missing_kind: str = "") -> None:
        super().__init__(message)
        self.missing_kind = missing_kind


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The record that commits a room; a subclass adds the fields of its kind of room.

    ``fingerprint`` identifies the content or, where only people read the room, its provenance; ``inputs``
    holds the fingerprints of what the room is made from and ``options`` the settings that matter; ``counts``
    are for people and for assertions.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")
    kind: ClassVar[str]
    fingerprint: str
    inputs: Mapping[str, str]
    options: Mapping[str, Any]
    counts: Mapping[str, int]

    @property
    def provenance(self) -> "Provenance[Self]":
        """The provenance of the room."""
        return Provenance(type(self), self.inputs, self.options)

    def to_json(self) -> bytes:
        """Return the bytes of the manifest's file; they hold a digest that makes a changed byte known."""
        common = {field.name for field in fields(Manifest)}
        details = {
            field.name: value
            for field in fields(self)
            if field.name not in common and (value := getattr(self, field.name)) != field.default
        }
        content = {
            "kind": self.kind,
            **{name: getattr(self, name) for name in common},
            "details": {name: _plain(value) for name, value in details.items()},
            "format_version": FORMAT_VERSION,
        }
        return to_json({**content, "digest": digest(content)})


M = TypeVar("M", bound=Manifest)


class MadeFrom(TypedDict):
    """The fields of a manifest that record the provenance of its room."""

    inputs: Mapping[str, str]
    options: Mapping[str, Any]


@dataclass(frozen=True)
class Provenance(Generic[M]):
    """The origin of a room: the fingerprints of its inputs and the options that matter.

    ``manifest`` is the class of the room's manifest, which says what kind of room it is.
    """

    manifest: type[M]
    inputs: Mapping[str, str]
    options: Mapping[str, Any]

    @property
    def kind(self) -> str:
        """The kind of room."""
        return self.manifest.kind

    @property
    def fields(self) -> MadeFrom:
        """The fields that record it in a manifest: ``TagsManifest(**provenance.fields, …)``."""
        return {"inputs": self.inputs, "options": self.options}

    @property
    def fingerprint(self) -> str:
        """The sha256 over kind, inputs and options."""
        return digest(self._content())

    def to_json(self) -> bytes:
        """Return the bytes of the file that records the provenance of an unfinished room."""
        return to_json(self._content())

    def _content(self) -> dict[str, Any]:
        return {"kind": self.kind, "inputs": self.inputs, "options": self.options}


def read_json(url: str) -> Any:
    """Read a JSON file; refuse, by name, what is not JSON."""
    return parse_json(storage.read_bytes(url), url)


def parse_json(data: bytes, url: str) -> Any:
    """Turn the bytes of a JSON file into what it holds; *url* is for the error."""
    try:
        return json.loads(data)
    except ValueError as error:
        raise InputError(f"{url}: not JSON ({error})") from error


def read_manifest(room: str) -> Manifest | None:
    """Return the manifest of a complete room, or None where there is none."""
    url = storage.join(room, MANIFEST)
    data = storage.read_if_exists(url)
    return None if data is None else parse_manifest(data, url)


def require(room: str, kind: type[M]) -> M:
    """Return the manifest of an input room of the given kind.

    Raises:
        MissingRoom: no complete room is there.
        InputError: a room of another kind, or of another format version, is there.
        DamageError: the manifest is not the one that was written.
    """
    manifest = read_manifest(room)
    if manifest is None:
        raise MissingRoom(
            f"{room}: no complete {kind.kind} room there (no {MANIFEST})", missing_kind=kind.kind
        )
    if not isinstance(manifest, kind):
        raise InputError(
            f"{room}: {a_kind(manifest.kind)} room was found where {a_kind(kind.kind)} room was expected"
        )
    return manifest


def parse_manifest(data: bytes, url: str) -> Manifest:
    """Turn the bytes of a manifest into the class of its kind; *url* is for the error.

    Raises:
        InputError: it is no manifest, or of another format version.
        DamageError: its bytes are not those that were written.
    """
    record = parse_json(data, url)
    version = record.get("format_version") if isinstance(record, dict) else None
    if isinstance(version, int) and version != FORMAT_VERSION:
        raise InputError(f"{url}: format version {version}; this lglm reads version {FORMAT_VERSION}")
    try:
        common = {field.name: record[field.name] for field in fields(Manifest)}
        content = {name: value for name, value in record.items() if name != "digest"}
        if to_json({**content, "digest": digest(content)}) != data:
            raise DamageError(
                f"{url}: its bytes are not those that were written; bring back a copy of it, or remove the "
                "folder and make it again"
            )
        return _adapter(record["kind"]).validate_python({**common, **record["details"]})
    except (KeyError, TypeError, ValidationError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{url}: not the manifest of a room ({reason})") from error


def kind_named(name: str) -> type[Manifest]:
    """Return the manifest's class of a kind of room; a KeyError if there is no such kind."""
    return {kind.kind: kind for kind in Manifest.__subclasses__()}[name]


@cache
def _adapter(kind: str) -> TypeAdapter[Manifest]:
    return TypeAdapter(kind_named(kind))


def _plain(value: Any) -> Any:
    """Turn records, at any depth, into what JSON knows."""
    if isinstance(value, Mapping):
        return {name: _plain(one) for name, one in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(one) for one in value]
    return asdict(value) if hasattr(value, "__dataclass_fields__") else value


def a_kind(kind: str) -> str:
    """Return the kind of room with its article, for messages."""
    return f"{'an' if kind[0] in 'aeiou' else 'a'} {kind}"
