"""The sharding plan: which image goes into which shard, decided before any image is opened."""

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from lglm_core import storage
from lglm_core.errors import InputError
from lglm_core.labels.vocabulary import LabelVocabulary
from lglm_core.rooms.canonical import to_json
from lglm_core.sources.source import LabelledImage, LabelledImages


@dataclass(frozen=True)
class ShardPlan:
    """The images of one shard, in order; ``fingerprint`` identifies the whole plan."""

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
    """All shards of a dataset, and the vocabulary of their labels."""

    labels: LabelVocabulary
    shards: tuple[ShardPlan, ...]
    fingerprint: str
    unlabelled_dropped: int = 0
    """The number of unlabelled images that the source has and the plan leaves out."""

    @property
    def planned(self) -> int:
        """The number of images in the plan."""
        return sum(len(shard.images) for shard in self.shards)


def make_plan(
    source: LabelledImages,
    max_samples_per_shard: int,
    max_bytes_per_shard: int | None = None,
    *,
    numbers: Mapping[str, int] | None = None,
) -> Plan:
    """Divide the images of a source into shards, in the source's order.

    Args:
        max_samples_per_shard: The most images in a shard.
        max_bytes_per_shard: The most bytes of images in a shard, by the size of their files; an image that is
            larger gets a shard of its own. None: sizes are not looked up.
        numbers: The number of the first shard of each split, in a plan that appends to a dataset; default 0.

    Raises:
        InputError: two images have one key, the split ``train`` is empty, or the labels are no vocabulary.
    """
    labels = LabelVocabulary.from_names(source.labels(), source.where)
    splits, unlabelled_dropped = _by_split(source)
    if not splits.get("train") and numbers is None:
        raise InputError(
            f"{source.where}: no picture is in the split 'train', which a model learns from; "
            f"found {', '.join(sorted(splits)) or 'no picture at all'}"
        )
    numbers = numbers or {}
    divided = {
        split: list(_divide(images, max_samples_per_shard, max_bytes_per_shard))
        for split, images in sorted(splits.items())
    }
    fingerprint = _fingerprint(labels, divided, numbers)
    shards = tuple(
        ShardPlan(split, number, images, fingerprint)
        for split, groups in divided.items()
        for number, images in enumerate(groups, start=numbers.get(split, 0))
    )
    return Plan(labels, shards, fingerprint, unlabelled_dropped)


def _by_split(source: LabelledImages) -> tuple[dict[str, list[LabelledImage]], int]:
    """Return the images to plan by split, and the number of unlabelled images that are dropped."""
    dropped = 0
    splits: dict[str, list[LabelledImage]] = defaultdict(list)
    seen: dict[tuple[str, str], str] = {}
    for image in source.images():
        if image.is_unlabelled and source.unlabelled == "drop":
            dropped += 1
            continue
        name = (image.split if source.keys_per_split else "", image.key)
        if name in seen:
            raise InputError(
                f"{image.source} and {seen[name]} both get the key {image.key!r}; "
                "name each picture once, and differently"
            )
        seen[name] = image.source
        splits[image.split].append(image)
    return splits, dropped


def _divide(
    images: list[LabelledImage], max_samples: int, max_bytes: int | None
) -> Iterator[tuple[LabelledImage, ...]]:
    if max_bytes is None:
        for start in range(0, len(images), max_samples):
            yield tuple(images[start : start + max_samples])
        return
    shard: list[LabelledImage] = []
    filled = 0
    for image, size in zip(images, storage.sizes([image.uri for image in images]), strict=True):
        if shard and (len(shard) == max_samples or filled + size > max_bytes):
            yield tuple(shard)
            shard, filled = [], 0
        shard.append(image)
        filled += size
    if shard:
        yield tuple(shard)


def _fingerprint(
    labels: LabelVocabulary,
    divided: Mapping[str, Sequence[Sequence[LabelledImage]]],
    numbers: Mapping[str, int],
) -> str:
    """Digest everything that decides the bytes of the shards; the location of the raw folder does not."""
    described = hashlib.sha256(to_json([list(labels), numbers]))
    for split, shards in divided.items():
        for number, images in enumerate(shards):
            for image in images:
                described.update(
                    to_json([split, number, image.key, image.source, image.labels, image.unknown])
                )
    return described.hexdigest()
