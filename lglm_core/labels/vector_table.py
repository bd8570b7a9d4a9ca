"""Ready-made label vectors, read from a Parquet, JSON or CSV table and matched to labels by name."""

import csv
import difflib
import io
import json
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from lglm_core import storage
from lglm_core.errors import InputError
from lglm_core.labels.embeddings import MAX_NAMED, LabelEmbeddings, name_with_closest
from lglm_core.labels.vocabulary import LabelVocabulary

Row = tuple[str, str, Any]  # its place in the file for messages, its name, its numbers


def ready_made_embeddings(labels: LabelVocabulary, url: str) -> tuple[LabelEmbeddings, int]:
    """Take each label's vector from the row with the label's name.

    Args:
        labels: The names to embed.
        url: A ``.parquet`` file with the columns ``label`` and ``vector``, such as a label embeddings room
            holds; a ``.json`` file, one object from names to lists of numbers; or a ``.csv`` file whose first
            column is ``label`` and whose other columns hold one number each.

    Returns:
        The embeddings, and the number of rows that belong to no label.

    Raises:
        InputError: A label has no row, a name is given twice, rows differ in width, or a vector holds
            something other than numbers that are finite in float32.
    """
    vectors = _read(url)
    if without := [label for label in labels if label not in vectors]:
        closest = [difflib.get_close_matches(label, vectors, 2) for label in without[:MAX_NAMED]]
        raise InputError(
            f"{storage.redact_url(url)}: holds no vector of {name_with_closest(without, closest)}; "
            "every label needs one, by its name"
        )
    nonzero = [bool(vectors[label].any()) for label in labels]
    embeddings = LabelEmbeddings(
        labels,
        np.stack([vectors[label] for label in labels]),
        words=tuple((label,) if given else () for label, given in zip(labels, nonzero, strict=True)),
        missing=tuple(() if given else (label,) for label, given in zip(labels, nonzero, strict=True)),
        origin=tuple("vectors" if given else "zero" for given in nonzero),
        source="vectors",
    )
    return embeddings, len(vectors) - len(labels)


def _read(url: str) -> dict[str, np.ndarray]:
    """Read a file's vectors into a dict from name to vector, float32 [d], all of one width."""
    vectors: dict[str, np.ndarray] = {}
    first = ""
    for place, name, numbers in _rows(url):
        where = f"{place} ({name!r})"
        if name in vectors:
            raise InputError(f"{where}: this name is given twice; keep the row that counts")
        vectors[name] = _vector(where, numbers)
        first = first or where
        width, expected = len(vectors[name]), len(next(iter(vectors.values())))
        if width != expected:
            raise InputError(f"{where}: {width} numbers found, {expected} expected as in {first}")
    return vectors


def _vector(where: str, numbers: Any) -> np.ndarray:
    try:
        vector = np.asarray(numbers, dtype=np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(f"{where}: not all numbers ({error})") from error
    if vector.ndim != 1 or not len(vector):
        raise InputError(f"{where}: a list of numbers was expected")
    with np.errstate(over="ignore"):
        vector = vector.astype(np.float32)
    if not np.isfinite(vector).all():
        raise InputError(f"{where}: the vector is not finite")
    return vector


def _rows(url: str) -> Iterator[Row]:
    suffix = storage.redact_url(url).rpartition(".")[2].lower()
    readers = {"parquet": _parquet_rows, "json": _json_rows, "csv": _csv_rows}
    if suffix not in readers:
        raise InputError(
            f"{storage.redact_url(url)}: ready-made vectors are a .parquet, .json or .csv file, "
            f"not a .{suffix}"
        )
    return readers[suffix](storage.read_bytes(url), url)


def _parquet_rows(data: bytes, url: str) -> Iterator[Row]:
    table = storage.parse_parquet(data, url)
    _refuse_learned_from_pictures(table, url)
    for name, has_type, expected in (("label", _is_text, "text"), ("vector", _is_list, "lists")):
        if name not in table.column_names or not has_type(table.schema.field(name).type):
            found = ", ".join(f"{field.name} ({field.type})" for field in table.schema)
            raise InputError(
                f"{storage.redact_url(url)}: no column {name!r} of {expected}; found {found or 'none'}"
            )
    rows: Iterable[tuple[Any, Any]] = zip(table.column("label"), table.column("vector"), strict=True)
    for number, (name, numbers) in enumerate(rows, start=1):
        values = numbers.values
        yield (
            f"{storage.redact_url(url)}, row {number}",
            name.as_py(),
            None if values is None else values.to_numpy(False),
        )


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _is_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)


def _refuse_learned_from_pictures(table: pa.Table, url: str) -> None:
    """Raise an InputError if our own table holds vectors from a dataset's labels: they fit that one only."""
    origins = set(table.column("origin").to_pylist()) if "origin" in table.column_names else set()
    if (table.schema.metadata or {}).get(b"source") == b"ppmi" or "cooccurrence" in origins:
        raise InputError(
            f"{storage.redact_url(url)}: holds vectors from the co-occurrence of labels in one dataset; "
            "make them for this one by `oov` cooccurrence, or without `vectors`"
        )


def _json_rows(data: bytes, url: str) -> Iterator[Row]:
    try:
        text = data.decode("utf-8-sig")
        rows = json.loads(text, object_pairs_hook=list)  # a dict would hide a name given twice
    except ValueError as error:
        raise InputError(f"{storage.redact_url(url)}: not JSON ({error})") from error
    if not text.lstrip().startswith("{"):
        raise InputError(f"{storage.redact_url(url)}: expected one JSON object, of lists of numbers by name")
    for name, numbers in rows:
        yield storage.redact_url(url), name, numbers


def _csv_rows(data: bytes, url: str) -> Iterator[Row]:
    try:
        reader = csv.reader(io.StringIO(data.decode("utf-8-sig"), newline=""))
        if next(reader, [])[:1] != ["label"]:
            raise InputError(
                f"{storage.redact_url(url)}: the first line names the columns, of which 'label' is the first"
            )
        for name, *numbers in filter(None, reader):
            yield f"{storage.redact_url(url)}, line {reader.line_num}", name, numbers
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{storage.redact_url(url)}: not a CSV file in UTF-8 ({error})") from error
