"""The receipt of a shard: a record of what it holds, to the byte."""

import builtins
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

import pyarrow as pa

from lglm_core.dataset.layout import DUPLICATE, INDEX_SCHEMA, Reject
from lglm_core.errors import InputError
from lglm_core.rooms.canonical import compact_json, digest
from lglm_core.rooms.manifest import read_json


@dataclass(frozen=True)
class Receipt:
    """What a finished shard holds. A shard counts as finished by its receipt, never because its file exists.

    ``index`` is of :data:`INDEX_SCHEMA`, and ``bytes`` and ``sha256`` describe the tar. ``lost`` is not
    stored: it names samples that could not be read when the shard was to be written again, so that it was
    kept.
    """

    plan: str
    shard: str
    split: str
    bytes: int
    sha256: str
    index: pa.Table
    rejects: tuple[Reject, ...]
    lost: tuple[Reject, ...] = field(default=(), compare=False)

    def to_json(self) -> "builtins.bytes":
        """Return the bytes of the receipt's file."""
        rejects = [asdict(reject) for reject in self.rejects]
        facts = {**vars(self), "index": self.index.to_pydict(), "rejects": rejects}
        del facts["lost"]
        return compact_json({**facts, "digest": digest(compact_json(facts))})

    @property
    def keys(self) -> set[str]:
        """The keys of the samples."""
        return set(self.index.column("key").to_pylist())

    @property
    def duplicates(self) -> Mapping[str, str]:
        """What each image that was left out is a duplicate of, by key."""
        return {reject.key: reject.error for reject in self.rejects if reject.status == DUPLICATE}

    @property
    def unreadable(self) -> tuple[Reject, ...]:
        """The rejects of images that could not be read."""
        return tuple(reject for reject in self.rejects if reject.status != DUPLICATE)


def read_receipt(url: str) -> Receipt | None:
    """Return a receipt, or None if it is missing or damaged, so that its shard is written again."""
    try:
        record = read_json(url)
        if record.pop("digest") != digest(compact_json(record)):
            return None
        index = pa.table([record["index"][name] for name in INDEX_SCHEMA.names], schema=INDEX_SCHEMA)
        rejects = tuple(Reject(**row) for row in record["rejects"])
        return Receipt(**{**record, "index": index, "rejects": rejects})
    except (InputError, AttributeError, KeyError, TypeError, pa.ArrowInvalid):
        return None
