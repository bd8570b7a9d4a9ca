"""Whether a dataset still is what was written: quickly by names and sizes, or byte by byte."""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import pyarrow as pa

from lglm_core import rooms, storage
from lglm_core.dataset.layout import shard_name
from lglm_core.dataset.sample_spans import SampleSpan, SampleSpans
from lglm_core.errors import DamageError
from lglm_core.images.codec import UnreadableImage, inspect
from lglm_core.rooms import DatasetManifest, FileRecord, ShardRecord
from lglm_core.storage.prefetch import read_ahead

CHUNK = 1 << 20
OTHER_BYTES = "its bytes are not those that were written (their sha256 differs)"
REMEDY = (
    "remove what is left of it and write the dataset again from the same source, which writes only what is "
    "missing; in a dataset that was appended to, bring back a copy"
)
NEVER_DECODED = (
    "though its bytes are those that were written: only its header was checked, or an older version "
    "wrote it; write a new dataset with `verify` = decode, which rejects it"
)


@dataclass(frozen=True)
class Damage:
    """What is wrong with one file of a dataset, or with one ``sample`` in it."""

    file: str
    problem: str
    sample: str | None = None

    def __str__(self) -> str:
        return f"{self.file}{'' if self.sample is None else f', sample {self.sample}'}: {self.problem}"


def written_files(manifest: DatasetManifest) -> dict[str, FileRecord]:
    """Return size and digest of every file that the manifest lists, by name."""
    shards = manifest.shards
    return {
        **manifest.files,
        **{shard_name(shard.split, shard.name): shard for shard in shards},
        **{shard.receipt.name: shard.receipt for shard in shards},
    }


def check_sizes(url: str, manifest: DatasetManifest) -> list[Damage]:
    """Return the files that are missing or of another size than was written, without opening any."""
    found = {file.name: file.size for file in storage.list_files(url)}
    damages = []
    for name, written in written_files(manifest).items():
        if name not in found:
            damages.append(Damage(name, "missing"))
        elif found[name] != written.bytes:
            damages.append(Damage(name, f"{found[name]} bytes found, {written.bytes} were written"))
    return damages


def untracked_files(url: str, manifest: DatasetManifest) -> list[str]:
    """Return the files that the manifest does not list: somebody else's, or those of an unfinished append."""
    known = {*written_files(manifest), *rooms.OWN_FILES}
    found = [file.name for file in storage.list_files(url)]
    return [name for name in found if name not in known]


def read_checked(url: str, name: str, written: FileRecord) -> bytes:
    """Read a whole file of the dataset.

    Raises:
        DamageError: its bytes are not those that were written.
    """
    data = storage.read_bytes(storage.join(url, name))
    if rooms.digest(data) != written.sha256:
        raise DamageError(f"{storage.join(url, name)}: {OTHER_BYTES}; {REMEDY}")
    return data


def check_files(url: str, manifest: DatasetManifest, names: Iterable[str]) -> list[Damage]:
    """Read whole files and return those whose bytes are not those that were written.

    A missing file is left to :func:`check_sizes`.
    """
    names, written, damages = list(names), written_files(manifest), []
    for name, data in zip(names, read_ahead(storage.join(url, name) for name in names), strict=True):
        if isinstance(data, bytes):
            if rooms.digest(data) != written[name].sha256:
                damages.append(Damage(name, OTHER_BYTES))
        elif not data.missing:
            damages.append(Damage(name, str(data)))
    return damages


def files_beside_shards(manifest: DatasetManifest) -> list[str]:
    """Return the names of all files that are not shards."""
    shards = {shard_name(shard.split, shard.name) for shard in manifest.shards}
    return [name for name in written_files(manifest) if name not in shards]


def files_without_samples(manifest: DatasetManifest) -> list[str]:
    """Return the files that reading all samples never opens: receipts, and shards without samples."""
    shards = manifest.shards
    empty = [shard_name(shard.split, shard.name) for shard in shards if not shard.samples]
    return empty + [shard.receipt.name for shard in shards]


def check_shard(url: str, shard: ShardRecord, index: pa.Table | None) -> list[Damage]:
    """Read a whole shard, compare every byte with what was written, and decode every image.

    A missing shard is left to :func:`check_sizes`.

    Args:
        shard: What the manifest records of it.
        index: Its rows of the index, from :func:`~lglm_core.dataset.sample_spans.with_stops`; None where the
            index itself is damaged.
    """
    name = shard_name(shard.split, shard.name)
    damages, whole = [], hashlib.sha256()
    try:
        with storage.reading(storage.join(url, name)) as file:
            for span, key in _spans(index):
                data = file.read(span.size)
                whole.update(data)
                if problem := span.problem(data) or _undecodable(span.image(data)):
                    damages.append(Damage(name, problem, key))
            while rest := file.read(CHUNK):
                whole.update(rest)
    except storage.UnreadableFile as error:
        return damages if error.missing else [*damages, Damage(name, str(error))]
    if whole.hexdigest() != shard.sha256 and not damages:
        damages.append(Damage(name, OTHER_BYTES))
    return damages


def _spans(index: pa.Table | None) -> Iterator[tuple[SampleSpan, str]]:
    if index is not None:
        spans = SampleSpans(index)
        for row, key in enumerate(index.column("key").to_pylist()):
            yield spans[row], key


def _undecodable(image: bytes) -> str | None:
    try:
        inspect(image)
    except UnreadableImage as error:
        return f"the image cannot be decoded ({error}), {NEVER_DECODED}"
    return None


def summary(url: str, damages: Iterable[Damage], most: int = 3) -> str:
    """Return one line that names the first damages and counts the others."""
    damages = list(damages)
    first = "; ".join(map(str, damages[:most]))
    return f"{url}: {first}" + (f"; and {len(damages) - most} more" if len(damages) > most else "")
