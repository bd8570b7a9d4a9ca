"""A room: a folder that one job writes and others read, committed by its manifest.

``manifest.json`` is written last, so *there* means *complete*. While a room is being made,
``unfinished.json`` records its provenance, so that nothing made from something else is mixed in.
"""

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Generic

from lglm_core import storage
from lglm_core.errors import InputError
from lglm_core.rooms import lease
from lglm_core.rooms.canonical import digest, to_json
from lglm_core.rooms.kinds import FileRecord
from lglm_core.rooms.manifest import (
    MANIFEST,
    M,
    Manifest,
    Provenance,
    a_kind,
    kind_named,
    parse_json,
    parse_manifest,
    read_manifest,
)

UNFINISHED = "unfinished.json"
OWN_FILES = frozenset({MANIFEST, UNFINISHED, lease.FILE})
"""The files by which rooms are kept, which no manifest lists."""


class Room(Generic[M]):
    """The folder at *url*, to be made from what *provenance* says.

    The order of calls is :meth:`find`; if that returns None, :meth:`begin`, :meth:`write` and :meth:`commit`.
    What is there already grows by :meth:`append` in place of :meth:`begin`. One process at a time writes a
    room: it holds the room's lease from :meth:`begin` or :meth:`append` to the end.
    """

    def __init__(self, url: str, provenance: Provenance[M]) -> None:
        self.url = url
        self.provenance = provenance
        self._unfinished = storage.join(url, UNFINISHED)
        self._base: tuple[M, str] | None = None

    def find(self) -> M | None:
        """Look whether the room is complete; remove only what a killed process left behind in it.

        Returns:
            The manifest if it is complete, else None.

        Raises:
            InputError: the room was made, or begun, from something else, or holds files of somebody else.
        """
        manifest = read_manifest(self.url)
        unfinished = storage.read_if_exists(self._unfinished)
        if manifest is not None:
            found = self._checked(manifest)
            if unfinished == self.provenance.to_json():  # killed between the last steps of a commit
                with suppress(InputError):  # another process writes there right now
                    lease.take(self.url)
                    self._tidy()
            return found
        if unfinished is not None:
            self._refuse_difference(self._parse_provenance(unfinished))
        elif storage.is_file(self.url):
            raise InputError(f"{self.url}: a file is there; name a folder to write to")
        elif not storage.is_empty(self.url):
            raise InputError(f"{self.url}: the folder holds other files; name an empty or a new one")
        return None

    def begin(self) -> None:
        """Begin making the room, or go on with one that was begun from the same provenance.

        Call this once everything that can be refused has been, so that a refusal leaves nothing behind. Of
        two processes that begin one room at once, one is refused, whatever their provenance. A complete room
        is begun again to write anew what is damaged; an unfinished append whose process is gone is rolled
        back.
        """
        if read_manifest(self.url) is None:
            existing = storage.create(self._unfinished, self.provenance.to_json())
            self._refuse_difference(self._parse_provenance(existing))
        lease.take(self.url)
        with self.released_on_error():
            storage.remove_unfinished(self.url)
            manifest = read_manifest(self.url)  # perhaps another process has completed the room since `find`
            if manifest is not None:
                try:
                    self._checked(manifest)
                except InputError:
                    self._tidy()
                    raise
                storage.write_bytes(self._unfinished, self.provenance.to_json())

    def append(self, base: M, keep_as: str) -> None:
        """Begin adding to the complete room whose manifest is *base*.

        :meth:`commit` keeps that manifest as the file *keep_as*. An unfinished append whose process is gone
        is rolled back by the caller, who knows which files it left.

        Raises:
            InputError: another process writes the room, or has changed it since *base* was read.
        """
        lease.take(self.url)
        with self.released_on_error():
            self.refuse_change(base)
            self._base = base, keep_as
            storage.write_bytes(self._unfinished, self.provenance.to_json())
            storage.remove_unfinished(self.url)

    def refuse_change(self, known: M | None) -> None:
        """Refuse to go on if the room's manifest is not *known*, which was read before the lease was taken.

        Raises:
            InputError: another process has written the room meanwhile.
        """
        manifest = read_manifest(self.url)
        if (manifest and manifest.to_json()) != (known and known.to_json()):
            raise InputError(
                f"{self.url}: another run changed this room meanwhile; run the same command again"
            )

    @contextmanager
    def released_on_error(self) -> Iterator[None]:
        """Give the lease back if the block fails, so that the same command can be run again."""
        try:
            yield
        except Exception:
            lease.release(self.url)
            raise

    def confirm(self) -> None:
        """Refuse to go on if another process took the lease over because this one seemed dead."""
        lease.confirm(self.url)

    def write(self, name: str, data: bytes) -> FileRecord:
        """Publish a file of the room whole; return what a manifest records of it."""
        storage.write_bytes(self.path(name), data)
        return FileRecord(len(data), digest(data))

    def remove(self, names: Iterable[str]) -> None:
        """Delete files of the room."""
        for name in names:
            storage.remove(self.path(name))

    def path(self, name: str) -> str:
        """Return the URL of a file of the room."""
        return storage.join(self.url, name)

    def commit(self, manifest: M) -> M:
        """Complete the room: its manifest is the last file written.

        It replaces no other manifest than the one it was appended to, or that of the same content: a room
        that is mended may have been written for other reasons, which the counts record.

        Raises:
            InputError: another process has completed the room, or taken over its lease.
        """
        self.confirm()
        url = self.path(MANIFEST)
        if self._base is not None:
            base, keep_as = self._base
            storage.write_bytes(self.path(keep_as), base.to_json())
            storage.write_bytes(url, manifest.to_json())
        else:
            existing = storage.create(url, manifest.to_json())
            if parse_manifest(existing, url).fingerprint != manifest.fingerprint:
                raise InputError(
                    f"{self.url}: another run completed this room meanwhile; name another folder"
                )
            if existing != manifest.to_json():
                storage.write_bytes(url, manifest.to_json())
        self._tidy()
        return manifest

    def rollback(self, written: Iterable[str] = ()) -> None:
        """Leave the room as it was before it was begun.

        Args:
            written: The files that an append wrote. A room that was never complete goes as a whole.
        """
        if self._base is not None:
            self.confirm()
            self.remove(written)
            self._tidy()
        else:
            lease.release(self.url)
            storage.remove(self.url)

    def invalidate(self) -> None:
        """Take the manifest off a complete room that was begun again, to be committed anew."""
        storage.remove(self.path(MANIFEST))

    def _tidy(self) -> None:
        """Remove what belongs to an unfinished room alone."""
        storage.remove(self._unfinished)
        lease.release(self.url)
        storage.remove_unfinished(self.url)

    def _checked(self, manifest: Manifest) -> M:
        self._refuse_difference(manifest.provenance)
        assert isinstance(manifest, self.provenance.manifest)
        return manifest

    def _parse_provenance(self, data: bytes) -> Provenance[Any]:
        record = parse_json(data, self._unfinished)
        try:
            return Provenance(kind_named(record["kind"]), dict(record["inputs"]), dict(record["options"]))
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"{self._unfinished}: does not say what the room is made from ({error!r}); "
                "remove the folder, or name another one"
            ) from error

    def _refuse_difference(self, found: Provenance[Any]) -> None:
        wanted = self.provenance
        if wanted.kind != found.kind:
            raise InputError(
                f"{self.url}: holds {a_kind(found.kind)} room; {a_kind(wanted.kind)} room needs a folder of "
                "its own"
            )
        differences = [
            f"{name} was {_brief(before.get(name))}, now {_brief(now.get(name))}"
            for now, before in ((wanted.inputs, found.inputs), (wanted.options, found.options))
            for name in sorted({*now, *before})
            if to_json(now.get(name)) != to_json(before.get(name))
        ]
        if differences:
            raise InputError(
                f"{self.url}: made from something else: {'; '.join(differences)}. "
                "Name another folder, or remove this one to make it anew"
            )


def is_unfinished(url: str) -> bool:
    """Tell whether the room at *url*, or an append to it, was begun and not completed."""
    return storage.is_file(storage.join(url, UNFINISHED))


def release_all() -> None:
    """Give back the leases of all rooms that this process began and did not complete."""
    lease.release_all()


def _brief(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 40 else f"{text[:18]}…{text[-8:]}"
