"""People's own pictures: a table of image paths and labels, as CSV, TSV, JSONL or Parquet."""

import io
import json
import math
import os
from codecs import BOM_UTF8
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property, partial
from typing import Any

import pyarrow as pa
import pyarrow.csv

from lglm_core.data import storage
from lglm_core.data.source import MAX_KEY_LENGTH, LabelledImage, key_of, split_of
from lglm_core.errors import InputError
from lglm_core.labels import LabelVocabulary
from lglm_core.rooms import digest

COLUMNS = ("image", "labels")
SPLITS = ("train", "val", "test")
NO_SPLIT = ("nan", "none", "null")
USED = (*COLUMNS, "unknown", "split")
SEPARATOR = "|"
ONE_ROW = f"; all labels of a picture stand in one row, separated by {SEPARATOR!r}"
OTHER_SECRETS = (
    ", but for user, password, query and fragment, which enter no dataset; give each picture its own path"
)
Columns = dict[str, list[Any]]


class TableSource:
    """Columns ``image`` (a path below *image_root*, or an address of its own), ``labels`` (a list, or
    separated by ``|``) and, if the table has them, ``unknown``, labels of which nobody said whether they are
    there, and ``split``. A cell, or an item of a list, is text or a whole number; one that is null, NaN or
    empty says nothing, and anything else is refused.

    Args:
        validation_share: How many pictures go to ``val``, by the hash of their key, where no split is named.
        split_seed: Enters that hash.
        label_order: A file with all labels in the order of their columns, as a JSON list or one a line;
            default those that occur, in alphabetical order.
    """

    keys_per_split = False

    def __init__(
        self,
        table: str,
        image_root: str,
        *,
        validation_share: float = 0.2,
        split_seed: int = 0,
        label_order: str | None = None,
    ) -> None:
        if not storage.is_folder(image_root):
            raise InputError(
                f"{storage.shown(image_root)}: no such folder; "
                f"the pictures of {storage.shown(table)} were expected there"
            )
        self.table = table
        self.url = storage.shown(table)  # for messages, and for its suffix
        self.dropped = 0
        self.image_root = image_root
        self.validation_share = validation_share
        self.split_seed = split_seed
        self.label_order = label_order

    def inputs(self) -> Mapping[str, str]:
        """The digests of the table and, where an order of labels is given, of that."""
        order = {"label_order": self._order.digest} if self._order else {}
        return {"table": digest(self._bytes), **order}

    def options(self) -> Mapping[str, Any]:
        """How the pictures are divided where the table names no split."""
        return {"source": "table", "validation_share": self.validation_share, "split_seed": self.split_seed}

    def labels(self) -> LabelVocabulary:
        """All labels, in the order given, or in alphabetical order."""
        occur = {name for column in ("labels", "unknown") for names in self._names(column) for name in names}
        if self._order is None:
            return LabelVocabulary.found(sorted(occur), self.url)
        if lacking := sorted(occur - set(self._order)):
            raise InputError(
                f"{self.url}: {lacking[0]!r} is not among the {len(self._order)} labels of "
                f"{storage.shown(self.label_order or '')}"
                + (f", nor are {len(lacking) - 1} more" if lacking[1:] else "")
            )
        return self._order

    def images(self) -> Iterator[LabelledImage]:
        """Every row, in the table's order."""
        images = self._columns["image"]
        splits = self._columns.get("split", [None] * len(images))
        spelling = {name: name for name in SPLITS}
        seen: dict[str, int] = {}
        places: dict[str, int] = {}
        rows = zip(images, self._names("labels"), self._names("unknown"), splits, strict=True)
        for row, (cell, labels, unknown, split) in enumerate(rows, start=1):
            image = self._text(cell, row, "image")
            if not image.strip():
                raise InputError(f"{self.url}, row {row}: the column 'image' is empty")
            source = _source(image, self.image_root)
            key = key_of(source)
            if key in seen:
                others = ONE_ROW if image == str(images[seen[key] - 1]) else OTHER_SECRETS
                raise InputError(
                    f"{self.url}, row {row}: image {source!r} stands in row {seen[key]} already{others}"
                )
            seen[key] = row
            uri = _place(image, self.image_root)
            if (first := places.setdefault(_normal(uri), row)) != row:
                other = _source(str(images[first - 1]), self.image_root)
                raise InputError(
                    f"{self.url}, row {row}: image {source!r} is that of row {first}, {other!r}; "
                    "name each picture once"
                )
            if both := set(labels) & set(unknown):
                raise InputError(f"{self.url}, row {row}: {min(both)!r} is both a label and unknown")
            named = self._split(split, row)
            if (spelt := spelling.setdefault(named.casefold(), named)) != named:
                raise InputError(f"{self.url}, row {row}: split {named!r}; write {spelt!r}")
            yield LabelledImage(
                key=key,
                split=named or split_of(key, self.validation_share, self.split_seed),
                uri=uri,
                source=source,
                labels=labels,
                unknown=unknown,
            )

    @cached_property
    def _bytes(self) -> bytes:
        return storage.read_bytes(self.table)

    @cached_property
    def _columns(self) -> Columns:
        columns = _parse(self._bytes, self.url)
        missing = [name for name in COLUMNS if name not in columns]
        if missing:
            raise InputError(
                f"{self.url}: no column {missing[0]!r}; found {', '.join(map(repr, columns)) or 'none'}, "
                "expected image, labels (all of a picture's in one cell) and, if you like, unknown and split"
            )
        for name in USED:
            if name not in columns and (near := [other for other in columns if _bare(other) == _bare(name)]):
                raise InputError(
                    f"{self.url}: the column {near[0]!r} would be ignored; call it {name!r}, "
                    "or something else if it is not that"
                )
        return columns

    def _names(self, column: str) -> list[tuple[str, ...]]:
        """The label names in each row of a column; none where there is no such column."""
        cells = self._columns.get(column, [None] * len(self._columns["image"]))
        return [self._label_names(cell, row, column) for row, cell in enumerate(cells, start=1)]

    def _label_names(self, cell: Any, row: int, column: str) -> tuple[str, ...]:
        items = cell if isinstance(cell, list) else self._text(cell, row, column).split(SEPARATOR)
        if isinstance(cell, str) and cell.strip()[:1] == "[" and cell.strip()[-1:] == "]":
            raise InputError(
                f"{self.url}, row {row}, column {column!r}: {cell!r} is a list written as text; "
                f"separate labels by {SEPARATOR!r}, or bring lists as .parquet or .jsonl"
            )
        names = (self._text(item, row, column).strip() for item in items)
        return tuple(dict.fromkeys(name for name in names if name))

    def _split(self, cell: Any, row: int) -> str:
        """The split that a cell names; "" where it names none."""
        name = self._text(cell, row, "split").strip()
        if name.casefold() in NO_SPLIT:
            raise InputError(f"{self.url}, row {row}: split {name!r}; leave the cell empty where it is open")
        if key_of(name) != name:
            raise InputError(
                f"{self.url}, row {row}: split {name!r}; "
                f"a split is named in at most {MAX_KEY_LENGTH} letters, digits, '_' and '-'"
            )
        return name

    def _text(self, cell: Any, row: int, column: str) -> str:
        try:
            return _text_of(cell)
        except ValueError as error:
            raise InputError(f"{self.url}, row {row}, column {column!r}: {error}; mend the table") from error

    @cached_property
    def _order(self) -> LabelVocabulary | None:
        if self.label_order is None:
            return None
        data, url = storage.read_bytes(self.label_order), storage.shown(self.label_order)
        if url.endswith(".json"):
            return LabelVocabulary.parse(data, url)
        try:
            lines = data.decode("utf-8-sig").splitlines()
        except UnicodeDecodeError as error:
            raise InputError(f"{url}: not UTF-8 text ({error.reason})") from error
        return LabelVocabulary.found((line.strip() for line in lines if line.strip()), url)


def _text_of(cell: Any) -> str:
    """What a cell says; "" where it is null, NaN or empty.

    Raises:
        ValueError: it is no text, nor a whole number. The cell itself, which may be a picture, is not shown.
    """
    if cell is None or (isinstance(cell, float) and math.isnan(cell)):
        return ""
    if isinstance(cell, bool) or not isinstance(cell, str | int):
        raise ValueError(f"a {type(cell).__name__} found, text or a whole number expected")
    text = str(cell)
    text.encode()  # half a character, as JSON can name one by "\ud800", is none: a ValueError too
    return text


def _place(image: str, root: str) -> str:
    """Where a picture lies: below the root, unless it has an address of its own."""
    return image if _has_address(image) else storage.join(root, image)


def _source(image: str, root: str) -> str:
    """What a dataset may tell of where a picture lies: neither secrets nor the root."""
    if not _has_address(image) and storage.is_local(root):
        return image
    shown = storage.shown(_place(image, root))
    return shown if _has_address(image) else shown.removeprefix(storage.join(storage.shown(root), ""))


def _normal(uri: str) -> str:
    """The same for all ways to write where one file lies, but for links."""
    return os.path.normpath(storage.local_path(uri).absolute()) if storage.is_local(uri) else uri


def _bare(column: str) -> str:
    return column.strip().casefold().removesuffix("s")


def _has_address(image: str) -> bool:
    return "://" in image or image.startswith("/")


def _parse(data: bytes, url: str) -> Columns:
    suffix = url.rpartition(".")[2].lower()
    try:
        if suffix == "parquet":
            return _to_columns(storage.parse_parquet(data, url), url)
        if suffix in ("jsonl", "ndjson"):
            return _parse_jsonl(data, url)
        if suffix in ("csv", "tsv"):
            by = pyarrow.csv.ParseOptions(delimiter="," if suffix == "csv" else "\t")
            as_text = pyarrow.csv.ConvertOptions(  # a label that looks like a number is still a name
                column_types=dict.fromkeys(USED, pa.string()),
                strings_can_be_null=False,
            )
            table = pyarrow.csv.read_csv(io.BytesIO(data), parse_options=by, convert_options=as_text)
            columns = _to_columns(table, url)
            _refuse_line_breaks(columns, url)
            return columns
    except (pa.ArrowInvalid, UnicodeDecodeError, OSError) as error:
        _refuse_other_encodings(data, suffix, url)
        raise InputError(f"{url}: not a readable .{suffix} table ({error})") from error
    raise InputError(f"{url}: a table ends in .csv, .tsv, .jsonl or .parquet, not in .{suffix}")


def _refuse_other_encodings(data: bytes, suffix: str, url: str) -> None:
    """Say so of a text that is in none of ours; how a reader stumbles over it tells nobody."""
    try:
        if suffix != "parquet":
            data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{url}: not UTF-8 text ({error}); save it as that") from error


def _to_columns(table: pa.Table, url: str) -> Columns:
    _refuse_twice(table.column_names, url)
    return table.to_pydict()


def _refuse_line_breaks(columns: Columns, url: str) -> None:
    """Refuse a cell that holds the rows behind it, as one does whose quotation mark is not closed."""
    for name in USED:
        for row, cell in enumerate(columns.get(name, ()), start=1):
            if "\n" in cell or "\r" in cell:
                raise InputError(
                    f"{url}, row {row}, column {name!r}: a cell goes on over several lines, "
                    f"{cell.splitlines()[0]!r} and more; close its '\"', or leave that out"
                )


def _refuse_twice(names: Sequence[str], where: str) -> None:
    """Refuse names of which a dict would keep the last, unless nobody asks for them."""
    for name in USED:
        if names.count(name) > 1:
            raise InputError(
                f"{where}: the column {name!r} stands there {names.count(name)} times, one was expected; "
                "leave that which counts"
            )


def _parse_jsonl(data: bytes, url: str) -> Columns:
    """Parse one JSON object per line; Arrow's own reader would take names for dates."""
    rows = []
    for number, line in enumerate(data.removeprefix(BOM_UTF8).splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line, object_pairs_hook=partial(_to_row, where=f"{url}, line {number}"))
        except ValueError as error:
            raise InputError(f"{url}, line {number}: not JSON ({error})") from error
        if not isinstance(row, dict):
            raise InputError(f"{url}, line {number}: expected an object with the columns image and labels")
        rows.append(row)
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [row.get(name) for row in rows] for name in names}


def _to_row(pairs: Sequence[tuple[str, Any]], where: str) -> dict[str, Any]:
    _refuse_twice([name for name, _ in pairs], where)
    return dict(pairs)
