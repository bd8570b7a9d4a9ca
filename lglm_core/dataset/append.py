"""Appending to a dataset: which images of a source it lacks, and whether those it has are unchanged."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from lglm_core.dataset.integrity import untracked_files
from lglm_core.dataset.layout import DUPLICATE, Reject, earlier_manifest, in_part, shard_files
from lglm_core.dataset.plan import Plan
from lglm_core.dataset.reader import Dataset, Split
from lglm_core.errors import InputError
from lglm_core.images.codec import MAX_BYTES
from lglm_core.rooms import DatasetManifest, digest
from lglm_core.sources.source import LabelledImage, Source, Unlabelled
from lglm_core.storage.prefetch import read_ahead

NAMED = 5
COMPARED = 20  # existing images: enough to notice that the folder is another one, and soon read
WRITTEN = re.compile(r"shards/.*\.tar|receipts/.*\.json|index/.*\.parquet")


@dataclass(frozen=True)
class ImagesToAppend:
    """The images of a source that become a new part of a dataset, as a sharding plan takes them.

    ``known`` counts the images of the source that are not among them, as the dataset has seen them already.
    """

    where: str
    keys_per_split: bool
    unlabelled: Unlabelled
    names: Sequence[str]
    listed: Sequence[LabelledImage]
    known: int

    def labels(self) -> Sequence[str]:
        """Return all labels of the dataset to be."""
        return self.names

    def images(self) -> Sequence[LabelledImage]:
        """Return the images to append, in the source's order."""
        return self.listed


def new_images(source: Source, dataset: Dataset, *, extend_labels: bool = False) -> ImagesToAppend:
    """Return the images of *source* that *dataset* has not seen.

    An image is known by its key; where the source's keys belong to their splits, by its split and key. It
    stays in the split it was put into.

    Args:
        extend_labels: Whether labels that the dataset does not have are added to it, behind the others.

    Raises:
        InputError: the source has labels that the dataset does not, and they are not to be added; or an image
            that is in the dataset has other labels now or, of some that are compared, other bytes.
    """
    known = set(dataset.labels)
    new = [name for name in source.labels() if name not in known]
    if new and not extend_labels:
        raise InputError(
            f"{dataset.url}: has no label {_some(new)}; mend the names, or add them with `extend_labels`: in "
            "all pictures that are there they are unknown"
        )
    comparison = _Comparison(source, dataset)
    listed = [image for image in comparison.unseen() if comparison.is_new(image)]
    return comparison.to_append(listed, [*dataset.labels, *new])


def rejected_images(source: Source, dataset: Dataset, *, extend_labels: bool = False) -> ImagesToAppend:
    """Return the images of *source* that *dataset* has rejected because they could not be read.

    Duplicates are not among them. Each goes to the split it was planned for.

    Args:
        extend_labels: Whether labels of theirs that the dataset does not have are added, behind the others.

    Raises:
        InputError: one of them has labels that the dataset does not, and they are not to be added; or an
            image that is in the dataset has other labels now or, of some that are compared, other bytes.
    """
    comparison = _Comparison(source, dataset)
    listed = [
        replace(image, split=reject.split)
        for image in comparison.unseen()
        if (reject := comparison.reject(image)) is not None and reject.status != DUPLICATE
    ]
    needed = {name for image in listed for name in (*image.labels, *image.unknown)} - {*dataset.labels}
    new = [name for name in source.labels() if name in needed]
    if new and not extend_labels:
        raise InputError(
            f"{dataset.url}: has no label {_some(new)}, which rejected pictures have now; mend the names, or "
            "add them with `extend_labels`"
        )
    return comparison.to_append(listed, [*dataset.labels, *new])


class _Comparison:
    """A source beside a dataset that was made from an earlier state of it."""

    def __init__(self, source: Source, dataset: Dataset) -> None:
        self._source = source
        self._dataset = dataset
        self._splits = dataset.splits()
        self._samples = {
            self._name(split, key): labels
            for split, samples in self._splits.items()
            for key, labels in _indexed_labels(samples)
        }
        rejects = [Reject(**row) for row in dataset.rejects().to_pylist()]
        self._rejects = {self._name(reject.split, reject.key): reject for reject in rejects}
        self._seen = 0

    def reject(self, image: LabelledImage) -> Reject | None:
        """Return why the dataset has no sample of this image, if it has seen it."""
        return self._rejects.get(self._name(image.split, image.key))

    def is_new(self, image: LabelledImage) -> bool:
        """Tell whether the dataset has not seen an image that is none of its samples."""
        return self._is_dropped(image) or self.reject(image) is None

    def unseen(self) -> list[LabelledImage]:
        """Return the images that are no samples of the dataset; refuse those that are and have changed.

        Unlabelled images that the plan will drop are among them, and are compared with nothing.
        """
        every = max(1, len(self._samples) // COMPARED)
        columns = {name: column for column, name in enumerate(self._dataset.labels)}
        unseen, compared, seen = [], [], 0
        for image in self._source.images():
            name = self._name(image.split, image.key)
            if name not in self._samples or self._is_dropped(image):
                unseen.append(image)
                continue
            if seen % every == 0:
                compared.append(image)
            seen += 1
            self._refuse_other_labels(image, self._samples[name], columns)
        self._refuse_other_bytes(compared)
        self._seen = seen + len(unseen)
        return unseen

    def to_append(self, listed: Sequence[LabelledImage], labels: Sequence[str]) -> ImagesToAppend:
        """Return *listed*, which are some of the unseen images, as what is to be appended."""
        source = self._source
        known = self._seen - len(listed)
        return ImagesToAppend(source.where, source.keys_per_split, source.unlabelled, labels, listed, known)

    def _is_dropped(self, image: LabelledImage) -> bool:
        return image.is_unlabelled and self._source.unlabelled == "drop"

    def _name(self, split: str, key: str) -> tuple[str, str]:
        """Return what an image is known by."""
        return (split if self._source.keys_per_split else "", key)

    def _refuse_other_labels(
        self, image: LabelledImage, indexed: "IndexedLabels", columns: Mapping[str, int]
    ) -> None:
        # Labels that came with a later part are unknown in it anyway, as are those of nobody.
        unknown = {name for name in image.unknown if columns.get(name, indexed.known) < indexed.known}
        for what, before, now in (
            ("labels", indexed.labels, set(image.labels)),
            ("unknown", indexed.unknown, unknown),
        ):
            ours = {self._dataset.labels[column] for column in before}
            if now != ours:
                raise InputError(
                    f"{image.source}: is in {self._dataset.url} already, with the {what} "
                    f"{', '.join(sorted(ours)) or 'none'}, now {', '.join(sorted(now)) or 'none'}; "
                    "what a dataset holds stays as it is: leave such pictures out, or write a new dataset"
                )

    def _refuse_other_bytes(self, images: Sequence[LabelledImage]) -> None:
        """Refuse a source of other images with the same names, as two cameras give them."""
        if "max_side" in self._dataset.manifest.options:
            return  # what is stored is not what was read
        digests = self._digests({image.key for image in images})
        for image, read in zip(images, read_ahead((image.uri for image in images), MAX_BYTES), strict=True):
            if isinstance(read, bytes) and digest(read) != digests[self._name(image.split, image.key)]:
                raise InputError(
                    f"{image.source}: is in {self._dataset.url} already, and now another picture; what a "
                    "dataset holds stays as it is: give new pictures other names, or write a new dataset"
                )

    def _digests(self, keys: set[str]) -> dict[tuple[str, str], str]:
        return {
            self._name(name, key): sha256
            for name, split in self._splits.items()
            for key, sha256 in split.values("sha256", keys).items()
        }


class IndexedLabels(NamedTuple):
    """A sample's labels and unknown labels, as columns, and how many labels there were at the time."""

    labels: Sequence[int]
    unknown: Sequence[int]
    known: int


def _indexed_labels(split: Split) -> list[tuple[str, IndexedLabels]]:
    columns = [split.index.column(column).to_pylist() for column in ("key", *IndexedLabels._fields)]
    return [(key, IndexedLabels(*labels)) for key, *labels in zip(*columns, strict=True)]


def first_shard_numbers(manifest: DatasetManifest) -> dict[str, int]:
    """Return the number that the first new shard of each split gets."""
    splits = {shard.split for shard in manifest.shards}
    return {split: len(manifest.shards_of(split)) for split in splits}


def orphan_files(url: str, manifest: DatasetManifest, plan: Plan | None = None) -> list[str]:
    """Return the files that an unfinished append left behind, and that no part of the dataset knows.

    Files of other names belong to somebody else; of those that *plan* will write, the writer decides.
    """
    shards = plan.shards if plan else ()
    planned = {name for shard in shards for name in shard_files(shard.split, shard.name)}
    part = len(manifest.parts)
    tables = {in_part(name, part) for name in ("labels.json", "rejects.parquet", "duplicates.parquet")}
    return [
        name
        for name in untracked_files(url, manifest)
        if (WRITTEN.fullmatch(name) and name not in planned)
        or name in tables
        or name == earlier_manifest(part - 1)
    ]


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(map(repr, names[:NAMED])) + more
