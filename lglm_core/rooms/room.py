"""Rooms: folders that one job writes and others read, committed by their manifest.

``manifest.json`` is written last, so *there* means *complete*. While a room is being made,
``unfinished.json`` says from what, so that nothing made from something else is mixed in.
Imports nothing heavy: completeness is checked before torch or ray is loaded.
"""

import json
from contextlib import suppress
from dataclasses import asdict
from typing import Any

from lglm_core import storage
from lglm_core.errors import InputError
from lglm_core.rooms import lease
from lglm_core.rooms.canonical import to_json
from lglm_core.rooms.manifest import (
    MANIFEST,
    Manifest,
    Provenance,
    _read_if_there,
    parse_json,
    parse_manifest,
    read_manifest,
)

UNFINISHED = "unfinished.json"


def find(room: str, provenance: Provenance) -> Manifest | None:
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
        _refuse_difference(room, provenance, manifest.provenance)
        if begun == to_json(asdict(provenance)):  # killed between the last steps of commit
            with suppress(InputError):  # another process is there, just now
                lease.take(room)
                _tidy(room)
    elif begun is not None:
        _refuse_difference(room, provenance, _parse_provenance(begun, unfinished))
    elif storage.is_file(room):
        raise InputError(f"{room}: a file is there; name a folder to write to")
    elif not storage.is_empty(room):
        raise InputError(f"{room}: the folder holds other files; name an empty or a new one")
    return manifest


def begin(room: str, provenance: Provenance) -> None:
    """Begin making a room, or go on with one that was begun from the same recipe.

    Called once everything that can be refused has been, so that a refusal leaves nothing behind. Of two
    processes that write one room at once, one is refused, whatever their recipes. A complete room is begun
    again to mend it; an addition to it that was begun, and whose process is gone, is given up.
    """
    unfinished = storage.join(room, UNFINISHED)
    if read_manifest(room) is None:
        standing = storage.create(unfinished, to_json(asdict(provenance)))
        _refuse_difference(room, provenance, _parse_provenance(standing, unfinished))
    lease.take(room)
    storage.remove_unfinished(room)
    manifest = read_manifest(room)  # perhaps of another that completed the room since it was looked for
    if manifest is not None:
        try:
            _refuse_difference(room, provenance, manifest.provenance)
        except InputError:
            _tidy(room)
            raise
        storage.write_bytes(unfinished, to_json(asdict(provenance)))


def begin_addition(room: str, provenance: Provenance, base: Manifest) -> None:
    """Begin adding to a complete room; one that was begun, and whose process is gone, is given up for it."""
    lease.take(room)
    manifest = read_manifest(room)
    if manifest != base:
        lease.release(room)
        raise InputError(f"{room}: another run changed this room meanwhile; run the same command again")
    unfinished = storage.join(room, UNFINISHED)
    storage.write_bytes(unfinished, to_json(asdict(provenance)))
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


def _tidy(room: str) -> None:
    """Remove what belongs to a room in the making alone."""
    storage.remove(storage.join(room, UNFINISHED))
    lease.release(room)
    storage.remove_unfinished(room)


def _parse_provenance(data: bytes, url: str) -> Provenance:
    try:
        return Provenance(**parse_json(data, url))
    except TypeError as error:
        raise InputError(f"{url}: does not say what the room is made from ({error})") from error


def _refuse_difference(room: str, wanted: Provenance, found: Provenance) -> None:
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
