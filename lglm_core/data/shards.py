"""WebDataset tar shards: written the same to the byte every time, each with its receipt."""

import io
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lglm_core.data import storage
from lglm_core.data.images import UnreadableImage, inspect
from lglm_core.data.plan import ShardPlan
from lglm_core.data.source import LabelledImage
from lglm_core.errors import InputError
from lglm_core.labels import LabelVocabulary
from lglm_core.rooms import digest, read_json, to_json


@dataclass(frozen=True)
class IndexRow:
    """Where one sample's image lies in its shard, and what it shows.

    ``offset`` and ``size`` are bytes in the tar, ``width`` and ``height`` pixels, ``labels`` and
    ``unknown`` columns of the vocabulary, ``sha256`` that of the image's bytes.
    """

    key: str
    shard: str
    offset: int
    size: int
    width: int
    height: int
    labels: tuple[int, ...]
    unknown: tuple[int, ...]
    sha256: str


@dataclass(frozen=True)
class Reject:
    """A picture that became no sample: ``status`` is a short code, ``error`` says more."""

    key: str
    split: str
    source: str
    status: str
    error: str


@dataclass(frozen=True)
class Receipt:
    """What a finished shard holds; it is recognised by this, never by its name existing."""

    plan: str
    shard: str
    split: str
    bytes: int
    sha256: str
    index: tuple[IndexRow, ...]
    rejects: tuple[Reject, ...]


def shard_url(dataset: str, split: str, name: str) -> str:
    """Return where the shard *name* lies."""
    return storage.join(dataset, "shards", split, f"{name}.tar")


def write_shard(
    plan: ShardPlan, labels: LabelVocabulary, dataset: str, retry_rejected: bool = False
) -> Receipt:
    """Write one shard and its receipt, unless a whole one is there already.

    Args:
        retry_rejected: Whether a whole one that pictures were rejected from is written again.
    """
    receipt_url = storage.join(dataset, "receipts", f"{plan.name}.json")
    url = shard_url(dataset, plan.split, plan.name)
    if storage.is_file(receipt_url):
        receipt = _read_receipt(receipt_url)
        again = receipt is not None and retry_rejected and receipt.rejects
        if receipt and receipt.plan == plan.fingerprint and not again and _is_whole(url, receipt):
            return receipt
    with storage.write_whole(url) as staged:
        index, rejects = _write_tar(staged, plan, labels)
        receipt = Receipt(
            plan=plan.fingerprint,
            shard=plan.name,
            split=plan.split,
            bytes=staged.stat().st_size,
            sha256=storage.sha256(str(staged)),
            index=tuple(index),
            rejects=tuple(rejects),
        )
    storage.write_bytes(receipt_url, to_json(asdict(receipt)))
    return receipt


def _write_tar(target: Path, plan: ShardPlan, labels: LabelVocabulary) -> tuple[list[IndexRow], list[Reject]]:
    index: list[IndexRow] = []
    rejects: list[Reject] = []
    with tarfile.open(target, "w", format=tarfile.USTAR_FORMAT) as tar:
        for image, data in _read(plan.images):
            if isinstance(data, storage.UnreadableFile):
                # Without its address: the raw folder may stand elsewhere next time.
                reason = str(data).removeprefix(f"{storage.shown(image.uri)}: ")
                rejects.append(_reject(image, "missing" if data.missing else "unreadable", reason))
                continue
            try:
                info = inspect(data)
            except UnreadableImage as error:
                rejects.append(_reject(image, error.reason, str(error)))
                continue
            offset = _add(tar, f"{image.key}.{info.extension}", data)
            _add(tar, f"{image.key}.json", to_json(_description(image)))
            index.append(
                IndexRow(
                    key=image.key,
                    shard=plan.name,
                    offset=offset,
                    size=len(data),
                    width=info.width,
                    height=info.height,
                    labels=tuple(labels.columns(image.labels)),
                    unknown=tuple(labels.columns(image.unknown)),
                    sha256=digest(data),
                )
            )
    return index, rejects


def _read(images: Sequence[LabelledImage]) -> Iterator[tuple[LabelledImage, bytes | storage.UnreadableFile]]:
    """Read the pictures in order, several at a time; of one that cannot be read there is the reason."""

    def read(image: LabelledImage) -> bytes | storage.UnreadableFile:
        try:
            return storage.read_bytes(image.uri)
        except storage.UnreadableFile as error:
            return error

    with ThreadPoolExecutor(storage.READERS, thread_name_prefix="reader") as pool:
        for first in range(0, len(images), storage.READERS):
            chosen = images[first : first + storage.READERS]
            yield from zip(chosen, pool.map(read, chosen), strict=True)


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> int:
    """Add a member that carries no time and no owner; return the offset of its bytes."""
    member = tarfile.TarInfo(name)
    member.size, member.mode, member.mtime = len(data), 0o644, 0
    tar.addfile(member, io.BytesIO(data))
    padded = -(-len(data) // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
    return tar.offset - padded


def _description(image: LabelledImage) -> dict[str, Any]:
    return {"labels": list(image.labels), "unknown": list(image.unknown), "source": image.source}


def _reject(image: LabelledImage, status: str, error: str) -> Reject:
    return Reject(image.key, image.split, image.source, status, error)


def _read_receipt(url: str) -> Receipt | None:
    """Read a receipt; one that cannot be read is none, and its shard is written again."""
    try:
        record = read_json(url)
        index = tuple(IndexRow(**{**row, **_columns(row)}) for row in record["index"])
        rejects = tuple(Reject(**row) for row in record["rejects"])
        return Receipt(**{**record, "index": index, "rejects": rejects})
    except (InputError, KeyError, TypeError):
        return None


def _columns(row: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(row[name]) for name in ("labels", "unknown")}


def _is_whole(url: str, receipt: Receipt) -> bool:
    return storage.is_file(url) and storage.sha256(url) == receipt.sha256


def rows_of(receipts: list[Receipt], split: str) -> Iterator[IndexRow]:
    """Go through the index rows of one split in shard order."""
    return (row for receipt in receipts if receipt.split == split for row in receipt.index)
