"""Writing a dataset room: new, grown by what a source has more, or with rejected images read again.

The writer owns the receipts, the duplicates, the limit of rejects, and what is rolled back. How shards are
written side by side is given to it: one after the other in this process, or as tasks on a cluster.
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import pyarrow as pa

from lglm_core import storage
from lglm_core.dataset.append import (
    ImagesToAppend,
    first_shard_numbers,
    new_images,
    orphan_files,
    rejected_images,
)
from lglm_core.dataset.commit import (
    NothingReadable,
    Written,
    commit_append,
    commit_dataset,
    refuse_other_shards,
)
from lglm_core.dataset.duplicates import find_duplicates, twins_by_shard, without_orphans
from lglm_core.dataset.image_policy import ImagePolicy
from lglm_core.dataset.integrity import check_sizes, summary
from lglm_core.dataset.layout import earlier_manifest
from lglm_core.dataset.plan import Plan, make_plan
from lglm_core.dataset.reader import Dataset
from lglm_core.dataset.receipt import Receipt
from lglm_core.dataset.shard_writer import write_shard
from lglm_core.errors import DamageError, InputError, RunError
from lglm_core.rooms import DatasetManifest, Provenance, Room, is_unfinished, read_manifest, require
from lglm_core.sources.source import Source

MUST_AGREE = ("verify", "max_side", "quality", "duplicates")
"""The settings that all parts of a dataset share."""
LeftOut = Mapping[str, Mapping[str, str] | None]
"""Of each shard, the keys of the images that are left out and why; None: whatever its receipt leaves out."""
logger = logging.getLogger("lglm.dataset")


RunTasks = Callable[
    [Callable[..., Receipt], Sequence[tuple[Any, ...]], str, Callable[[], object]], list[Receipt]
]
"""Calls a function with each of several argument lists, perhaps side by side.

The third argument says what the progress is of; the fourth is called after each result and may raise. The
results come in the order of the calls.
"""


@contextmanager
def in_this_process() -> Iterator[RunTasks]:
    """Write the shards one after the other, here."""

    def run(
        function: Callable[..., Receipt],
        calls: Sequence[tuple[Any, ...]],
        progress: str,
        after_each: Callable[[], object],
    ) -> list[Receipt]:
        results = []
        for call in calls:
            results.append(function(*call))
            after_each()
        return results

    yield run


@dataclass(frozen=True, kw_only=True)
class WriteSettings:
    """The settings of a dataset writer.

    Args:
        max_samples_per_shard: The most images in a shard.
        max_bytes_per_shard: The most bytes of images in a shard; None: no bound.
        images: How images are checked and stored.
        duplicates: Whether images with the same bytes as another are kept and reported, or all but one become
            rejects.
        max_rejected: The fraction of images that may be unreadable; with more, nothing is completed.
    """

    max_samples_per_shard: int = 1000
    max_bytes_per_shard: int | None = None
    images: ImagePolicy = field(default_factory=ImagePolicy)
    duplicates: Literal["keep", "drop"] = "keep"
    max_rejected: float = 0.2

    def provenance(
        self, inputs: Mapping[str, str], of_source: Mapping[str, Any]
    ) -> Provenance[DatasetManifest]:
        """Return what decides the bytes of the shards, with the inputs and the options of their source."""
        options: dict[str, Any] = {**of_source, "max_samples_per_shard": self.max_samples_per_shard}
        if self.max_bytes_per_shard is not None:
            options["max_bytes_per_shard"] = self.max_bytes_per_shard
        if self.duplicates == "drop":
            options["duplicates"] = "drop"
        return Provenance(DatasetManifest, inputs, {**options, **self.images.options()})


@dataclass(frozen=True)
class Change:
    """The result of an append or a retry; ``changed`` is False where the dataset is as it was.

    ``added`` counts the samples that it has more, ``known`` the images of the source that it had seen before,
    and ``still_unreadable`` the images that were read again in vain.
    """

    manifest: DatasetManifest
    changed: bool
    added: int = 0
    known: int = 0
    still_unreadable: int = 0


@dataclass(frozen=True)
class DatasetWriter:
    """Writes the dataset at *url*.

    Args:
        workers: Opens what shards are written by, once there is something to write.
    """

    url: str
    settings: WriteSettings = field(default_factory=WriteSettings)
    workers: Callable[[], AbstractContextManager[RunTasks]] = in_this_process

    def find(self, provenance: Provenance[DatasetManifest]) -> DatasetManifest | None:
        """Return the manifest of a dataset that is complete and whole; None if shards are to be written.

        Raises:
            InputError: the dataset was made, or begun, from something else.
            DamageError: files of a dataset that was appended to are missing or of another size.
        """
        manifest = Room(self.url, provenance).find()
        damages = check_sizes(self.url, manifest) if manifest else []
        if damages and manifest and len(manifest.parts) > 1:
            raise DamageError(
                f"{summary(self.url, damages)}; it was appended to, so bring back a copy of that"
            )
        return None if damages else manifest

    def write(self, source: Source, provenance: Provenance[DatasetManifest] | None = None) -> DatasetManifest:
        """Write the shards that are missing, and commit the dataset, unless it is complete and whole.

        Args:
            provenance: What decides the bytes of the shards; default: source and settings.

        Raises:
            InputError: the source is at fault, too many images cannot be read, or another process writes.
            DamageError: a damaged dataset cannot be written again as it was.
        """
        provenance = provenance or self._provenance(source)
        if complete := self.find(provenance):
            return complete
        damaged, new = self._existing(), storage.is_empty(self.url)
        plan = self._plan(source)
        if damaged and damaged.parts[0].plan != plan.fingerprint:
            raise InputError(
                f"{self.url}: the pictures' sizes, by which `max_bytes_per_shard` divides them, have changed "
                "since; bring back what is damaged from a copy"
            )
        room = Room(self.url, provenance)
        with self.workers() as run, room.released_on_error():
            room.begin()
            room.refuse_change(damaged)
            written = self._write_shards(room, run, plan)
            if damaged:
                refuse_other_shards(room, damaged, written)
            return self._commit(room, written, damaged, new=new)

    def retry(self, source: Source, *, extend_labels: bool = False) -> Change:
        """Read the images again that could not be read, and write their shards again.

        A dataset keeps its shards if it has several parts, was made from another state of the source, or
        would be divided into other shards now: what can be read then becomes a new part.

        Args:
            extend_labels: Whether labels of rejected images that the dataset does not have are added to it.

        Raises:
            MissingRoom: there is no dataset, complete or begun.
        """
        existing, provenance = self._existing(), self._provenance(source)
        damages = check_sizes(self.url, existing) if existing else []
        if existing is None:
            if not is_unfinished(self.url):
                require(self.url, DatasetManifest)  # refuses
            Room(self.url, provenance).find()  # refuses what was begun from something else
        elif not existing.unreadable and not damages:
            return Change(existing, False)
        elif len(existing.parts) > 1 or existing.provenance.to_json() != provenance.to_json():
            return self._retry_as_part(source, extend_labels)
        plan = self._plan(source)
        if existing and existing.parts[0].plan != plan.fingerprint:
            return self._retry_as_part(source, extend_labels)
        room = Room(self.url, provenance)
        with self.workers() as run, room.released_on_error():
            room.begin()
            room.refuse_change(existing)
            room.invalidate()
            written = self._write_shards(room, run, plan, retry=True)
            manifest = self._commit(room, written, existing)
        added = manifest.counts["written"] - (existing.counts["written"] if existing else 0)
        changed = existing is None or bool(damages) or manifest.to_json() != existing.to_json()
        return Change(manifest, changed, added, still_unreadable=manifest.unreadable)

    def append(self, source: Source, *, extend_labels: bool = False) -> Change:
        """Write what *source* has and the dataset lacks as a new part; no existing file changes.

        Args:
            extend_labels: Whether labels that the dataset does not have are added; they are unknown in older
                images.

        Raises:
            InputError: the source contradicts the dataset, or brings labels that are not to be added.
        """
        dataset = Dataset.open(self.url)
        self._refuse_other_settings(dataset.manifest, source)
        return self._append(source, dataset, new_images(source, dataset, extend_labels=extend_labels))

    def _retry_as_part(self, source: Source, extend_labels: bool) -> Change:
        dataset = Dataset.open(self.url)
        self._refuse_other_settings(dataset.manifest, source)
        images = rejected_images(source, dataset, extend_labels=extend_labels)
        return self._append(source, dataset, images, retry=True)

    def _append(
        self, source: Source, dataset: Dataset, images: ImagesToAppend, *, retry: bool = False
    ) -> Change:
        base, settings = dataset.manifest, self.settings
        plan = make_plan(
            images,
            settings.max_samples_per_shard,
            settings.max_bytes_per_shard,
            numbers=first_shard_numbers(base),
        )
        inputs = {**source.inputs(), "added_to": base.fingerprint}
        room = Room(self.url, settings.provenance(inputs, source.options()))
        keep_as = earlier_manifest(len(base.parts) - 1)
        if not plan.planned:
            if is_unfinished(self.url):  # an append was stopped, whose images are gone now
                with suppress(InputError):  # another process writes there right now
                    room.append(base, keep_as)
                    room.rollback(orphan_files(self.url, base))
            return Change(base, False, known=images.known)
        existing = {name: split.index for name, split in dataset.splits().items()}
        with self.workers() as run, room.released_on_error():
            room.append(base, keep_as)
            room.remove(orphan_files(self.url, base, plan))
            written = self._write_shards(room, run, plan, existing, retried=plan.planned if retry else 0)
            if retry and len(written.unreadable) == plan.planned:
                room.rollback(orphan_files(self.url, base))
                return Change(base, False, known=images.known, still_unreadable=plan.planned)
            manifest = commit_append(
                room, base, written, self._provenance(source), max_rejected=settings.max_rejected
            )
        added = manifest.counts["written"] - base.counts["written"]
        return Change(manifest, True, added, images.known, manifest.unreadable if retry else 0)

    def _commit(
        self,
        room: Room[DatasetManifest],
        written: Written,
        existing: DatasetManifest | None,
        *,
        new: bool = False,
    ) -> DatasetManifest:
        if existing:  # what could not be read before was allowed then
            written = replace(written, retried=existing.unreadable)
        try:
            return commit_dataset(room, written, max_rejected=self.settings.max_rejected)
        except NothingReadable:
            if new:  # the folder would only stand in the way of the next try
                room.rollback()
            raise

    def _existing(self) -> DatasetManifest | None:
        manifest = read_manifest(self.url)
        return manifest if isinstance(manifest, DatasetManifest) else None

    def _provenance(self, source: Source) -> Provenance[DatasetManifest]:
        return self.settings.provenance(source.inputs(), source.options())

    def _plan(self, source: Source) -> Plan:
        return make_plan(source, self.settings.max_samples_per_shard, self.settings.max_bytes_per_shard)

    def _refuse_other_settings(self, base: DatasetManifest, source: Source) -> None:
        """Refuse to append images that are checked, scaled or compared in another way than those there."""
        options = self._provenance(source).options
        differences = [
            f"{name} was {base.options.get(name, 'not given')}, now {options.get(name, 'not given')}"
            for name in MUST_AGREE
            if base.options.get(name) != options.get(name)
        ]
        if differences:
            raise InputError(
                f"{self.url}: made with other options: {'; '.join(differences)}. Give the same ones"
            )

    def _write_shards(
        self,
        room: Room[DatasetManifest],
        run: RunTasks,
        plan: Plan,
        existing: Mapping[str, pa.Table] | None = None,
        *,
        retry: bool = False,
        retried: int = 0,
    ) -> Written:
        """Write all shards of a plan that are missing, and settle which images are duplicates.

        Args:
            existing: The index of each split of the dataset that the plan adds to.
            retry: Whether shards with images that could not be read are written again.
            retried: How many images of the plan could not be read before.
        """
        existing = existing or {}
        where = (plan.labels, storage.absolute(self.url), self.settings.images)
        shards = {shard.name: shard for shard in plan.shards}
        receipts: dict[str, Receipt] = {}

        def write(
            left_out: Mapping[str, Mapping[str, str] | None], progress: str, retry: bool = False
        ) -> None:
            calls = [(shards[name], *where, without, retry) for name, without in left_out.items()]
            receipts.update(zip(left_out, run(write_shard, calls, progress, room.confirm), strict=True))
            for receipt in (receipts[name] for name in left_out if receipts[name].lost):
                if not retry:
                    raise RunError(
                        f"{self.url}: {_why_kept(receipt)}; bring them back, and run the same again"
                    )
                logger.warning(_why_kept(receipt))

        write(dict.fromkeys(shards), "shard", retry)
        if orphans := without_orphans(list(receipts.values()), existing):
            write(orphans, "take duplicates back")
        duplicates = find_duplicates(list(receipts.values()), existing)
        if self.settings.duplicates == "drop" and len(duplicates):
            twins = twins_by_shard(duplicates)
            more = {name: {**receipts[name].duplicates, **twins[name]} for name in twins}
            write(more, "drop duplicates")
            duplicates = duplicates.slice(0, 0)
        return Written(plan, [receipts[name] for name in shards], duplicates, retried)


def _why_kept(receipt: Receipt) -> str:
    first = receipt.lost[0]
    return (
        f"{receipt.shard} stays as it was, with {len(receipt.unreadable)} pictures rejected: of its samples "
        f"{len(receipt.lost)} can no longer be read, such as {first.source} ({first.error})"
    )
