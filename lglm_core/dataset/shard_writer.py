"""Writing WebDataset tar shards, the same to the byte every time, each with its receipt."""

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, BinaryIO

import pyarrow as pa

from lglm_core import storage
from lglm_core.dataset.image_policy import ImagePolicy
from lglm_core.dataset.layout import DUPLICATE, INDEX_SCHEMA, Reject, receipt_name, shard_name
from lglm_core.dataset.plan import ShardPlan
from lglm_core.dataset.receipt import Receipt, read_receipt
from lglm_core.dataset.tar import END, TarWriter, frame
from lglm_core.images.codec import MAX_BYTES, ImageInfo, UnreadableImage
from lglm_core.labels.vocabulary import LabelVocabulary
from lglm_core.rooms.canonical import compact_json, digest
from lglm_core.sources.source import LabelledImage
from lglm_core.storage.prefetch import read_ahead


def write_shard(
    plan: ShardPlan,
    labels: LabelVocabulary,
    dataset: str,
    policy: ImagePolicy = ImagePolicy(),  # noqa: B008 - it is frozen
    without: Mapping[str, str] | None = None,
    retry_rejected: bool = False,
) -> Receipt:
    """Write one shard and its receipt, unless the shard exists and is whole.

    Args:
        policy: How images are checked and stored.
        without: The keys of images to leave out because they are duplicates, and what each is a duplicate of.
            None: whatever an existing shard leaves out; a new one leaves out nothing.
        retry_rejected: Whether a whole shard is written again if some of its images could not be read. It is
            kept if that would lose samples, because other images cannot be read now; the returned receipt
            names them as ``lost``.
    """
    url = storage.join(dataset, shard_name(plan.split, plan.name))
    existing = _existing(plan, url, storage.join(dataset, receipt_name(plan.name)))
    if existing and not (retry_rejected and existing.unreadable) and _leaves_out(existing, without):
        return existing
    try:
        with storage.write_whole(url) as staged, staged.open("wb") as file:
            receipt = _write_tar(file, plan, labels, policy, without or {})
            if existing and (lost := tuple(r for r in receipt.unreadable if r.key in existing.keys)):
                raise WouldLoseSamples
    except WouldLoseSamples:
        assert existing is not None
        return replace(existing, lost=lost)
    storage.write_bytes(storage.join(dataset, receipt_name(plan.name)), receipt.to_json())
    return receipt


def _existing(plan: ShardPlan, url: str, receipt_url: str) -> Receipt | None:
    """Return the receipt of a shard that was written from the same plan and is whole, or None."""
    receipt = read_receipt(receipt_url) if storage.is_file(receipt_url) else None
    if receipt and receipt.plan == plan.fingerprint and storage.is_file(url):
        return receipt if storage.sha256(url) == receipt.sha256 else None
    return None


class WouldLoseSamples(Exception):
    """An existing shard has samples whose images can no longer be read."""


def _leaves_out(receipt: Receipt, without: Mapping[str, str] | None) -> bool:
    """Tell whether a shard leaves out exactly the images *without*; None stands for any."""
    return without is None or receipt.duplicates.keys() == without.keys()


def _write_tar(
    file: BinaryIO, plan: ShardPlan, labels: LabelVocabulary, policy: ImagePolicy, without: Mapping[str, str]
) -> Receipt:
    tar = TarWriter(file)
    rows: dict[str, list[Any]] = defaultdict(list)
    envelopes: list[Any] = []
    rejects: list[Reject] = []
    for image, stored in _read([image for image in plan.images if image.key not in without], policy):
        if isinstance(stored, Reject):
            rejects.append(stored)
            continue
        data, info = stored
        row, envelope = _add(tar, image, data, info, labels)
        envelopes.append(envelope)
        for column, value in row.items():
            rows[column].append(value)
    tar.write(END)
    if envelopes:
        envelopes[-1].update(END)
    rows["shard"] = [plan.name] * len(envelopes)
    rows["envelope_sha256"] = [envelope.hexdigest() for envelope in envelopes]
    index = pa.table([rows[field.name] for field in INDEX_SCHEMA], schema=INDEX_SCHEMA)
    return Receipt(
        plan.fingerprint,
        plan.name,
        plan.split,
        tar.size,
        tar.sha256,
        index,
        _in_order(plan, rejects, without),
    )


def _add(
    tar: TarWriter, image: LabelledImage, data: bytes, info: ImageInfo, labels: LabelVocabulary
) -> tuple[dict[str, Any], Any]:
    """Add a sample; return its row of the index, and the digest of its envelope, which may grow.

    The envelope is everything around the image: headers, padding and JSON.
    """
    # Whatever the format: readers of WebDataset expect one name for the field, and look at the bytes.
    header, padding = frame(f"{image.key}.jpg", data)
    description = compact_json(_description(image))
    json_header, json_padding = frame(f"{image.key}.json", description)
    behind = padding + json_header + description + json_padding  # one write: small ones cost a call each
    row = {
        "key": image.key,
        "offset": tar.size + len(header),
        "size": len(data),
        "width": info.width,
        "height": info.height,
        "labels": labels.columns(image.labels),
        "unknown": labels.columns(image.unknown),
        "sha256": digest(data),
    }
    for part in (header, data, behind):
        tar.write(part)
    return row, hashlib.sha256(header + behind)


def _read(
    images: Sequence[LabelledImage], policy: ImagePolicy
) -> Iterator[tuple[LabelledImage, tuple[bytes, ImageInfo] | Reject]]:
    """Read and check images in order; yield the bytes to store and what they are, or why there are none."""
    for image, data in zip(images, read_ahead((image.uri for image in images), MAX_BYTES), strict=True):
        if isinstance(data, storage.UnreadableFile):
            # Without the URL: the raw folder may be elsewhere next time, and the reject must be the same.
            reason = str(data).removeprefix(f"{storage.redact_url(image.uri)}: ")
            yield image, _reject(image, data.status, reason)
            continue
        try:
            yield image, policy.apply(data)
        except UnreadableImage as error:
            yield image, _reject(image, error.reason, str(error))


def _in_order(plan: ShardPlan, rejects: list[Reject], without: Mapping[str, str]) -> tuple[Reject, ...]:
    """Return all rejects in the order of the plan, with the images that were left out as duplicates."""
    by_key = {reject.key: reject for reject in rejects}
    for image in plan.images:
        if image.key in without:
            by_key[image.key] = _reject(image, DUPLICATE, without[image.key])
    return tuple(by_key[image.key] for image in plan.images if image.key in by_key)


def _description(image: LabelledImage) -> dict[str, Any]:
    return {"labels": list(image.labels), "unknown": list(image.unknown), "source": image.source}


def _reject(image: LabelledImage, status: str, error: str) -> Reject:
    return Reject(image.key, image.split, image.source, status, error)
