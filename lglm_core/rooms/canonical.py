"""JSON whose bytes depend on its content alone, and digests of it."""

import hashlib
import json
from typing import Any

COMPACT = json.JSONEncoder(separators=(",", ":"), sort_keys=True, ensure_ascii=False)


def to_json(value: Any) -> bytes:
    """Write JSON in the one form whose bytes depend on the content alone."""
    return (json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode(
        errors="backslashreplace"  # a file name need not be valid text
    )


def compact_json(value: Any) -> bytes:
    """Write JSON of many rows, which only programs read, on one line."""
    return COMPACT.encode(value).encode(errors="backslashreplace")


def digest(value: Any) -> str:
    """Return the sha256 of *value*: of bytes as they are, of anything else as canonical JSON."""
    return hashlib.sha256(value if isinstance(value, bytes) else to_json(value)).hexdigest()
