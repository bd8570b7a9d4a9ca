"""Rooms."""

from lglm_core.rooms.canonical import COMPACT, compact_json, digest, to_json
from lglm_core.rooms.manifest import (
    FORMAT_VERSION,
    MANIFEST,
    WRITTEN_BY,
    Manifest,
    Provenance,
    parse_json,
    parse_manifest,
    read_json,
    read_manifest,
    require,
)
from lglm_core.rooms.room import (
    UNFINISHED,
    abandon,
    begin,
    begin_addition,
    commit,
    commit_addition,
    end_addition,
    find,
    is_unfinished,
    reopen,
)

__all__ = [
    "COMPACT",
    "FORMAT_VERSION",
    "MANIFEST",
    "UNFINISHED",
    "WRITTEN_BY",
    "Manifest",
    "Provenance",
    "abandon",
    "begin",
    "begin_addition",
    "commit",
    "commit_addition",
    "compact_json",
    "digest",
    "end_addition",
    "find",
    "is_unfinished",
    "parse_json",
    "parse_manifest",
    "read_json",
    "read_manifest",
    "reopen",
    "require",
    "to_json",
]
