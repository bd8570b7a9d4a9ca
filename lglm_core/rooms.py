"""Rooms: folders that one job writes and others read, committed by their manifest.

``manifest.json`` is written last, so *there* means *complete*. While a room is being made,
``unfinished.json`` says from what, so that nothing made from something else is mixed in.
Imports nothing heavy: completeness is checked before torch or ray is loaded.
"""

import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Any

from lglm_core import lease
from lglm_core.data import storage
from lglm_core.errors import DamageError, InputError

FORMAT_VERSION = 2
MANIFEST = "manifest.json"
UNFINISHED = "unfinished.json"

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


COMPACT = json.JSONEncoder(separators=(",", ":"), sort_keys=True, ensure_ascii=False)


def to_json(value: Any) -> bytes:
    """Write JSON in the one form whose bytes depend on the content alone."""
    return (json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode(
        errors="backslashreplace"  # a file name need not be valid text
    )


def compact_json(value: Any) -> bytes:
    """Write JSON of many rows, which only programs read, on one line."""
    return COMPACT.encode(value).encode(errors="backslashreplace")


def digest(value: Any) -> str:
    """Return the sha256 of *value*: of bytes as they are, of anything else as canonical JSON."""
    return hashlib.sha256(value if isinstance(value, bytes) else to_json(value)).hexdigest()


@dataclass(frozen=True)
class Recipe:
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
    def recipe(self) -> Recipe:
        """What the room was made from."""
        return Recipe(self.kind, self.inputs, self.options)


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


def find(room: str, recipe: Recipe) -> Manifest | None:
    """Look whether a room is complete already; only what a kill left behind in it is removed.

    Returns:
        The manifest if it is, else None: the caller may :func:`begin`.

    Raises:
        InputError: the room was made, or begun, from something else, or holds foreign files.
    """
    manifest = read_manifest(room)
    unfinished = storage.join(room, UNFINISHED)
    begun = _read_if_there(unfinished)
    if manifest is not None:
        _refuse_difference(room, recipe, manifest.recipe)
        if begun == to_json(asdict(recipe)):  # killed between the last steps of commit
            with suppress(InputError):  # another process is there, just now
                lease.take(room)
                _tidy(room)
    elif begun is not None:
        _refuse_difference(room, recipe, _parse_recipe(begun, unfinished))
    elif storage.is_file(room):
        raise InputError(f"{room}: a file is there; name a folder to write to")
    elif not storage.is_empty(room):
        raise InputError(f"{room}: the folder holds other files; name an empty or a new one")
    return manifest


def begin(room: str, recipe: Recipe) -> None:
    """Begin making a room, or go on with one that was begun from the same recipe.

    Called once everything that can be refused has been, so that a refusal leaves nothing behind. Of two
    processes that write one room at once, one is refused, whatever their recipes. A complete room is begun
    again to mend it; an addition to it that was begun, and whose process is gone, is given up.
    """
    unfinished = storage.join(room, UNFINISHED)
    if read_manifest(room) is None:
        standing = storage.create(unfinished, to_json(asdict(recipe)))
        _refuse_difference(room, recipe, _parse_recipe(standing, unfinished))
    lease.take(room)
    storage.remove_unfinished(room)
    manifest = read_manifest(room)  # perhaps of another that completed the room since it was looked for
    if manifest is not None:
        try:
            _refuse_difference(room, recipe, manifest.recipe)
        except InputError:
            _tidy(room)
            raise
        storage.write_bytes(unfinished, to_json(asdict(recipe)))


def begin_addition(room: str, recipe: Recipe, base: Manifest) -> None:
    """Begin adding to a complete room; one that was begun, and whose process is gone, is given up for it."""
    lease.take(room)
    manifest = read_manifest(room)
    if manifest != base:
        lease.release(room)
        raise InputError(f"{room}: another run changed this room meanwhile; run the same command again")
    unfinished = storage.join(room, UNFINISHED)
    storage.write_bytes(unfinished, to_json(asdict(recipe)))
    storage.remove_unfinished(room)


def end_addition(room: str) -> None:
    """Give up an addition that came to nothing; the caller has removed what it wrote."""
    _tidy(room)


def is_unfinished(room: str) -> bool:
    """Tell whether a room, or an addition to it, was begun and not completed."""
    return storage.is_file(storage.join(room, UNFINISHED))


def reopen(room: str) -> None:
    """Take the manifest off a room that was begun again, to be completed anew."""
    storage.remove(storage.join(room, MANIFEST))


def abandon(room: str) -> None:
    """Remove a room that came to nothing."""
    lease.release(room)
    storage.remove(room)


def commit(room: str, manifest: Manifest) -> Manifest:
    """Complete a room: its manifest is the last file written, and takes no place but that of its like.

    One stands there of a room that was damaged and is mended; what it says of files written anew may differ.
    """
    lease.confirm(room)
    url = storage.join(room, MANIFEST)
    standing = storage.create(url, manifest.to_json())
    if parse_manifest(standing, url).fingerprint != manifest.fingerprint:
        raise InputError(f"{room}: another run completed this room meanwhile; name another folder")
    if standing != manifest.to_json():
        storage.write_bytes(url, manifest.to_json())
    _tidy(room)
    return manifest


def commit_addition(room: str, manifest: Manifest, base: Manifest, earlier: str) -> Manifest:
    """Complete an addition: *base* is kept as the file *earlier*, and *manifest* takes its place."""
    lease.confirm(room)
    storage.write_bytes(storage.join(room, earlier), base.to_json())
    storage.write_bytes(storage.join(room, MANIFEST), manifest.to_json())
    _tidy(room)
    return manifest


def _read_if_there(url: str) -> bytes | None:
    try:
        return storage.read_bytes(url)
    except storage.UnreadableFile as error:
        if not error.missing:
            raise
        return None


def _tidy(room: str) -> None:
    """Remove what belongs to a room in the making alone."""
    storage.remove(storage.join(room, UNFINISHED))
    lease.release(room)
    storage.remove_unfinished(room)


def _parse_recipe(data: bytes, url: str) -> Recipe:
    try:
        return Recipe(**parse_json(data, url))
    except TypeError as error:
        raise InputError(f"{url}: does not say what the room is made from ({error})") from error


def parse_json(data: bytes, url: str) -> Any:
    """Turn the bytes of a JSON file into what it holds; *url* is for the error."""
    try:
        return json.loads(data)
    except ValueError as error:
        raise InputError(f"{url}: not JSON ({error})") from error


def _refuse_difference(room: str, wanted: Recipe, found: Recipe) -> None:
    if wanted.kind != found.kind:
        raise InputError(f"{room}: holds a {found.kind} room; a {wanted.kind} room needs a folder of its own")
    differences = [
        f"{name} was {_brief(theirs.get(name))}, now {_brief(ours.get(name))}"
        for ours, theirs in ((wanted.inputs, found.inputs), (wanted.options, found.options))
        for name in sorted({*ours, *theirs})
        if to_json(ours.get(name)) != to_json(theirs.get(name))
    ]
    if differences:
        raise InputError(
            f"{room}: made from something else: {'; '.join(differences)}. "
            "Name another folder, or remove this one to make it anew"
        )


def _brief(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 40 else f"{text[:18]}…{text[-8:]}"
