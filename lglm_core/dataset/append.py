"""Adding to a dataset: of a source, the pictures that are not in it yet."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import NamedTuple

from lglm_core.dataset.integrity import untracked_files
from lglm_core.dataset.layout import DUPLICATE, Reject, earlier_manifest, in_part, shard_files
from lglm_core.dataset.plan import Plan
from lglm_core.dataset.reader import Dataset, Split
from lglm_core.errors import InputError
from lglm_core.images.codec import MAX_BYTES
from lglm_core.rooms.canonical import digest
from lglm_core.rooms.manifest import Manifest
from lglm_core.sources.source import LabelledImage, Source, Unlabelled
from lglm_core.storage.prefetch import read_ahead

NAMED = 5
LOOKED_AT = 20  # pictures that stand in the dataset: enough to know another folder by, and soon read
WRITTEN = re.compile(r"shards/.*\.tar|receipts/.*\.json|index/.*\.parquet")


@dataclass
class NewImages:
    """A source of what *source* has and *dataset* lacks; what stands in the dataset stays as it is.

    A picture is known by its key, so that it stays in the split it was put in; where the source's keys are of
    their splits alone, by both.

    Args:
        extend_labels: Whether labels that the dataset does not have are added to it, behind the others.
        retry_rejected: Whether pictures that could not be read before are taken again.

    As :meth:`images` goes, ``standing`` counts the pictures that are in the dataset already, and ``retried``
    those that could not be read before.
    """

    source: Source
    dataset: Dataset
    extend_labels: bool = False
    retry_rejected: bool = False
    standing: int = field(default=0, init=False)
    retried: int = field(default=0, init=False)

    @property
    def keys_per_split(self) -> bool:
        """As the source has it."""
        return self.source.keys_per_split

    @property
    def unlabelled(self) -> Unlabelled:
        """As the source has it."""
        return self.source.unlabelled

    def inputs(self) -> Mapping[str, str]:
        """Those of the source, and the dataset as it is."""
        return {**self.source.inputs(), "added_to": self.dataset.manifest.fingerprint}

    @property
    def where(self) -> str:
        """As the source has it."""
        return self.source.where

    def labels(self) -> Sequence[str]:
        """The dataset's, and those that are added to them.

        Raises:
            InputError: the source has labels that the dataset does not, and they are not to be added.
        """
        return self._labels

    @cached_property
    def _labels(self) -> Sequence[str]:
        known = set(self.dataset.labels)
        new = [name for name in self.source.labels() if name not in known]
        if new and not self.extend_labels:
            more = f" and {len(new) - NAMED} more" if len(new) > NAMED else ""
            raise InputError(
                f"{self.dataset.url}: has no label {', '.join(map(repr, new[:NAMED]))}{more}; mend "
                "the names, or add them with --extend-labels: in all pictures that are there they are unknown"
            )
        return [*self.dataset.labels, *new]

    def images(self) -> Iterator[LabelledImage]:
        """The pictures that are new, in the source's order.

        Raises:
            InputError: one that is in the dataset has other labels now or, of some that are compared, other
                bytes.
        """
        self.standing = self.retried = 0
        every = max(1, len(self._samples) // LOOKED_AT)
        looked_at: list[LabelledImage] = []
        for image in self.source.images():
            if image.is_unlabelled and self.unlabelled == "drop":
                yield image  # the plan drops and counts it, whether or not it is in the dataset
                continue
            name = self._name(image.split, image.key)
            if name in self._samples:
                if self.standing % every == 0:
                    looked_at.append(image)
                self.standing += 1
                self._refuse_other_labels(image, self._samples[name])
            elif name not in self._rejected:
                yield image
            elif self.retry_rejected and self._rejected[name].status != DUPLICATE:  # what those are of stands
                self.retried += 1
                yield replace(image, split=self._rejected[name].split)
            else:
                self.standing += 1
        self._refuse_other_pictures(looked_at)

    @cached_property
    def splits(self) -> dict[str, Split]:
        """Those of the dataset, each of which is read once."""
        return {name: self.dataset.split(name) for name in self.dataset.manifest.details["splits"]}

    def numbers(self) -> dict[str, int]:
        """Of each split, the number of its first new shard."""
        shards = self.dataset.manifest.details["shards"]
        return {
            split: sum(shard["split"] == split for shard in shards) for split in {s["split"] for s in shards}
        }

    def _name(self, split: str, key: str) -> tuple[str, str]:
        """What a picture is known by."""
        return (split if self.keys_per_split else "", key)

    def _refuse_other_labels(self, image: LabelledImage, standing: "IndexedLabels") -> None:
        # Labels that came later are unknown in it anyway.
        unknown = {name for name in image.unknown if self._columns[name] < standing.known}
        for what, before, now in (
            ("labels", standing.labels, set(image.labels)),
            ("unknown", standing.unknown, unknown),
        ):
            ours = {self.dataset.labels[column] for column in before}
            if now != ours:
                raise InputError(
                    f"{image.source}: is in {self.dataset.url} already, with the {what} "
                    f"{', '.join(sorted(ours)) or 'none'}, now {', '.join(sorted(now)) or 'none'}; "
                    "adding leaves what is there as it is: leave such pictures out, or write a new dataset"
                )

    def _refuse_other_pictures(self, images: Sequence[LabelledImage]) -> None:
        """Refuse a source of other pictures with the same names, as two cameras give them."""
        if "max_side" in self.dataset.manifest.options:
            return  # what is stored is not what was read
        digests = self._digests({image.key for image in images})
        for image, read in zip(images, read_ahead((image.uri for image in images), MAX_BYTES), strict=True):
            if isinstance(read, bytes) and digest(read) != digests[self._name(image.split, image.key)]:
                raise InputError(
                    f"{image.source}: is in {self.dataset.url} already, and now another picture; adding "
                    "leaves what stands as it is: give new pictures names of their own, or make a new dataset"
                )

    def _digests(self, keys: set[str]) -> dict[tuple[str, str], str]:
        return {
            self._name(name, key): sha256
            for name, split in self.splits.items()
            for key, sha256 in split.values("sha256", keys).items()
        }

    @cached_property
    def _columns(self) -> dict[str, int]:
        return {name: column for column, name in enumerate(self._labels)}

    @cached_property
    def _samples(self) -> dict[tuple[str, str], "IndexedLabels"]:
        found: dict[tuple[str, str], IndexedLabels] = {}
        for name, split in self.splits.items():
            columns = [split.index.column(column).to_pylist() for column in ("key", *IndexedLabels._fields)]
            for key, *said in zip(*columns, strict=True):
                found[self._name(name, key)] = IndexedLabels(*said)
        return found

    @cached_property
    def _rejected(self) -> dict[tuple[str, str], Reject]:
        rejects = [Reject(**row) for row in self.dataset.rejects().to_pylist()]
        return {self._name(reject.split, reject.key): reject for reject in rejects}


class IndexedLabels(NamedTuple):
    """Of a sample the columns of its labels and unknown ones, and how many were ``known`` at all then."""

    labels: Sequence[int]
    unknown: Sequence[int]
    known: int


def orphan_files(url: str, manifest: Manifest, plan: Plan | None = None) -> list[str]:
    """Return the files that an addition to the dataset left behind, and that no part of it knows.

    Files of other names are somebody's own; of those that *plan* will write, the writer decides.
    """
    shards = plan.shards if plan else ()
    planned = {name for shard in shards for name in shard_files(shard.split, shard.name)}
    part = len(manifest.details["parts"])
    tables = {in_part(name, part) for name in ("labels.json", "rejects.parquet", "duplicates.parquet")}
    return [
        name
        for name in untracked_files(url, manifest)
        if (WRITTEN.fullmatch(name) and name not in planned)
        or name in tables
        or name == earlier_manifest(part - 1)
    ]
