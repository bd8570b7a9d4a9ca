"""The sharding plan: which picture goes into which shard, fixed before any is opened."""

import hashlib
from collections import defaultdict
from dataclasses import dataclass

from lglm_core.data.source import LabelledImage, Source
from lglm_core.errors import InputError
from lglm_core.labels import LabelVocabulary
from lglm_core.rooms import to_json


@dataclass(frozen=True)
class ShardPlan:
    """The pictures of one shard, in order; ``fingerprint`` stands for them and for the whole plan."""

    split: str
    number: int
    images: tuple[LabelledImage, ...]
    fingerprint: str

    @property
    def name(self) -> str:
        """The shard's name, without folder or suffix."""
        return f"{self.split}-{self.number:06d}"


@dataclass(frozen=True)
class Plan:
    """All shards of a dataset, and the vocabulary their labels are of."""

    labels: LabelVocabulary
    shards: tuple[ShardPlan, ...]
    fingerprint: str

    @property
    def planned(self) -> int:
        """How many pictures the plan holds."""
        return sum(len(shard.images) for shard in self.shards)


def make_plan(source: Source, max_samples_per_shard: int) -> Plan:
    """Divide a source's pictures into shards of at most *max_samples_per_shard*, in source order."""
    labels = source.labels()
    splits: dict[str, list[LabelledImage]] = defaultdict(list)
    seen: dict[tuple[str, str], str] = {}
    for image in source.images():
        place = (image.split, image.key)
        if place in seen:
            raise InputError(
                f"{image.source} and {seen[place]} both get the key {image.key!r}; "
                "name each picture once, and differently"
            )
        seen[place] = image.source
        splits[image.split].append(image)
    if not splits.get("train"):
        raise InputError(
            f"no picture is in the split 'train'; found {', '.join(sorted(splits)) or 'no picture at all'}"
        )
    fingerprint = _fingerprint(labels, splits, max_samples_per_shard)
    shards = tuple(
        ShardPlan(split, number, tuple(images[start : start + max_samples_per_shard]), fingerprint)
        for split, images in sorted(splits.items())
        for number, start in enumerate(range(0, len(images), max_samples_per_shard))
    )
    return Plan(labels, shards, fingerprint)


def _fingerprint(
    labels: LabelVocabulary, splits: dict[str, list[LabelledImage]], max_samples_per_shard: int
) -> str:
    """Digest what decides the bytes of the shards; where the raw folder stands does not."""
    described = hashlib.sha256(to_json([list(labels), max_samples_per_shard]))
    for split, images in sorted(splits.items()):
        for image in images:
            described.update(to_json([split, image.key, image.source, image.labels, image.unknown]))
    return described.hexdigest()
