"""People's own pictures: a table of image paths and labels, as CSV, TSV, JSONL or Parquet."""

import csv
import io
import json
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property, partial
from posixpath import splitext
from typing import Any

from lglm_core import storage
from lglm_core.errors import InputError
from lglm_core.labels.vocabulary import LabelVocabulary
from lglm_core.rooms.canonical import digest
from lglm_core.sources.source import MAX_KEY_LENGTH, LabelledImage, Unlabelled, key_of, split_of

COLUMNS = ("image", "labels")
SPLITS = ("train", "val", "test")
NO_SPLIT = ("nan", "none", "null")
USED = (*COLUMNS, "unknown", "split")
SEPARATOR = "|"
ONE_ROW = f"; all labels of a picture stand in one row, separated by {SEPARATOR!r}"
OTHER_SECRETS = (
    ", but for user, password, query and fragment, which enter no dataset; give each picture its own path"
)
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff")
HOW_TO_QUOTE = "a cell that begins with '\"' ends with one, and those within it are doubled"
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
    unlabelled: Unlabelled = "keep"

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
                f"{storage.redact_url(image_root)}: no such folder; "
                f"the pictures of {storage.redact_url(table)} were expected there"
            )
        self.table = table
        self.where = storage.redact_url(table)  # its suffix tells what it is
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

    def labels(self) -> Sequence[str]:
        """All labels, in the order given, or in alphabetical order."""
        occur = {name for column in ("labels", "unknown") for names in self._names(column) for name in names}
        if self._order is None:
            return tuple(sorted(occur))
        if lacking := sorted(occur - set(self._order)):
            raise InputError(
                f"{self.where}: {lacking[0]!r} is not among the {len(self._order)} labels of "
                f"{storage.redact_url(self.label_order or '')}"
                + (f", nor are {len(lacking) - 1} more" if lacking[1:] else "")
            )
        return self._order.names

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
                raise InputError(f"{self.where}, row {row}: the column 'image' is empty")
            source = _source(image, self.image_root)
            if wrong := _wrong_in_address(image, self.image_root):
                raise InputError(f"{self.where}, row {row}: image {image.partition('?')[0]!r}: {wrong}")
            key = key_of(source)
            if key in seen:
                others = ONE_ROW if image == str(images[seen[key] - 1]) else OTHER_SECRETS
                raise InputError(
                    f"{self.where}, row {row}: image {source!r} stands in row {seen[key]} already{others}"
                )
            seen[key] = row
            uri = _place(image, self.image_root)
            if (first := places.setdefault(self._normal(uri, row), row)) != row:
                other = _source(str(images[first - 1]), self.image_root)
                raise InputError(
                    f"{self.where}, row {row}: image {source!r} is that of row {first}, {other!r}; "
                    "name each picture once"
                )
            if both := set(labels) & set(unknown):
                raise InputError(f"{self.where}, row {row}: {min(both)!r} is both a label and unknown")
            named = self._split(split, row)
            if (spelt := spelling.setdefault(named.casefold(), named)) != named:
                raise InputError(f"{self.where}, row {row}: split {named!r}; write {spelt!r}")
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
        return _parse(self._bytes, self.where)

    def _names(self, column: str) -> list[tuple[str, ...]]:
        """The label names in each row of a column; none where there is no such column."""
        cells = self._columns.get(column, [None] * len(self._columns["image"]))
        return [self._label_names(cell, row, column) for row, cell in enumerate(cells, start=1)]

    def _label_names(self, cell: Any, row: int, column: str) -> tuple[str, ...]:
        items = cell if isinstance(cell, list) else self._text(cell, row, column).split(SEPARATOR)
        if isinstance(cell, str) and cell.strip()[:1] == "[" and cell.strip()[-1:] == "]":
            raise InputError(
                f"{self.where}, row {row}, column {column!r}: {cell!r} is a list written as text; "
                f"separate labels by {SEPARATOR!r}, or bring lists as .parquet or .jsonl"
            )
        names = (self._text(item, row, column).strip() for item in items)
        return tuple(dict.fromkeys(name for name in names if name))

    def _split(self, cell: Any, row: int) -> str:
        """The split that a cell names; "" where it names none."""
        name = self._text(cell, row, "split").strip()
        if name.casefold() in NO_SPLIT:
            raise InputError(
                f"{self.where}, row {row}: split {name!r}; leave the cell empty where it is open"
            )
        if key_of(name) != name:
            raise InputError(
                f"{self.where}, row {row}: split {name!r}; "
                f"a split is named in at most {MAX_KEY_LENGTH} letters, digits, '_' and '-'"
            )
        return name

    def _normal(self, uri: str, row: int) -> str:
        """The same for all ways to write where one file lies, but for links."""
        try:
            return os.path.normpath(storage.local_path(uri).absolute()) if storage.is_local(uri) else uri
        except InputError as error:
            raise InputError(f"{self.where}, row {row}: {error}") from error

    def _text(self, cell: Any, row: int, column: str) -> str:
        try:
            return _text_of(cell)
        except ValueError as error:
            raise InputError(
                f"{self.where}, row {row}, column {column!r}: {error}; mend the table"
            ) from error

    @cached_property
    def _order(self) -> LabelVocabulary | None:
        if self.label_order is None:
            return None
        data, url = storage.read_bytes(self.label_order), storage.redact_url(self.label_order)
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
    shown = storage.redact_url(_place(image, root))
    return shown if _has_address(image) else shown.removeprefix(storage.join(storage.redact_url(root), ""))


def _wrong_in_address(image: str, root: str) -> str | None:
    """What keeps a name below a web address from being one of its own, if anything does.

    Of a name on a disk, in a bucket or in an archive every character is its own.
    """
    path = image.partition("?")[0]
    if _has_address(image) or not storage.is_address(storage.join(root, path)):
        return None
    if "#" in path or re.search(r"%(?![0-9A-Fa-f]{2})", path):
        return "below a web address it is part of that; write '#' as '%23' and '%' as '%25' in it"
    return None


def _bare(column: str) -> str:
    return column.strip().casefold().removesuffix("s")


def _has_address(image: str) -> bool:
    return "://" in image or image.startswith("/")


def _parse(data: bytes, url: str) -> Columns:
    """Read those columns of a table that are used, cell by cell."""
    suffix = url.rpartition(".")[2].lower()
    if suffix == "parquet":
        return _parse_parquet(data, url)
    if suffix not in ("csv", "tsv", "jsonl", "ndjson"):
        raise InputError(f"{url}: a table ends in .csv, .tsv, .jsonl or .parquet, not in .{suffix}")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{url}: not UTF-8 text ({error}); save it as that") from error
    if suffix in ("csv", "tsv"):
        return _parse_csv(text, "," if suffix == "csv" else "\t", url)
    return _parse_jsonl(text, url)


def _parse_parquet(data: bytes, url: str) -> Columns:
    table = storage.parse_parquet(data, url, columns=list(USED))
    _refuse_names(storage.parquet_names(data, url), url)
    return table.to_pydict()


def _parse_csv(text: str, delimiter: str, url: str) -> Columns:
    csv.field_size_limit(max(csv.field_size_limit(), len(text)))  # columns that nobody asked for may be long
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    names: list[str] = []
    row = lines = 0
    try:
        names = next(filter(None, reader), [])
        _refuse_names(names, url)
        used = [(column, names.index(column)) for column in USED if column in names]
        columns: Columns = {column: [] for column, _ in used}
        for row, cells in enumerate(filter(None, reader), start=1):
            if len(cells) != len(names):
                raise InputError(
                    f"{url}, row {row}, line {reader.line_num}: {len(cells)} cells found, {len(names)} "
                    "expected as in the first line; put a cell that holds the separator in quotation marks"
                )
            if reader.line_num > lines + 1:
                _refuse_rows_within(names, cells, delimiter, f"{url}, row {row}")
            lines = reader.line_num
            for column, position in used:
                columns[column].append(cells[position])
    except csv.Error as error:  # a row would take others for its own
        where = f"row {row + 1}" if names else "the first line"
        raise InputError(
            f"{url}, {where}: not a readable .{url.rpartition('.')[2]} row ({error}); {HOW_TO_QUOTE}"
        ) from error
    return columns


def _refuse_rows_within(names: Sequence[str], cells: Sequence[str], delimiter: str, where: str) -> None:
    """Refuse a cell that holds the rows behind it, as one does whose quotation mark is not closed.

    Of the columns that are used none goes on over several lines. In others captions may: a line of these that
    has enough cells, and a picture where the row has one, is a row. Of pictures without a suffix this is not
    seen.
    """
    image = names.index("image")
    kinds = {*SUFFIXES, splitext(cells[image])[1].casefold()} - {""}

    def is_row(line: str, position: int, fewest: int) -> bool:
        taken = line.split(delimiter)
        return len(taken) >= fewest and splitext(taken[position])[1].casefold() in kinds

    for column, (name, cell) in enumerate(zip(names, cells, strict=True)):
        first, *others = re.split(r"[\r\n]+", cell)
        if others and (
            name in USED
            or (column < image and is_row(first, image - column, len(names) - column))  # the row's own rest
            or any(is_row(line, image, max(column, image) + 1) for line in others)
        ):
            raise InputError(
                f"{where}, column {name!r}: a cell goes on over several lines, {first!r}, {others[0]!r}; "
                f"{HOW_TO_QUOTE}"
            )


def _parse_jsonl(text: str, url: str) -> Columns:
    """Parse one JSON object per line; Arrow's own reader would take names for dates."""
    names: dict[str, None] = {}  # in order, each once
    cells: Columns = {name: [] for name in USED}
    for number, line in enumerate(io.StringIO(text, newline=None), start=1):
        if not line.strip():
            continue
        where = f"{url}, line {number}"
        try:
            row = json.loads(line, object_pairs_hook=partial(_to_row, where=where))
        except ValueError as error:
            raise InputError(f"{where}: not JSON ({error})") from error
        if not isinstance(row, dict):
            raise InputError(f"{where}: expected an object with the columns image and labels")
        _refuse_near_misses(list(row), where)
        names.update(dict.fromkeys(row))
        for name in USED:
            cells[name].append(row.get(name))
    _refuse_names(list(names), url)
    return {name: cells[name] for name in USED if name in names}


def _to_row(pairs: Sequence[tuple[str, Any]], where: str) -> dict[str, Any]:
    _refuse_twice([name for name, _ in pairs], where)
    return dict(pairs)


def _refuse_names(names: Sequence[str], where: str) -> None:
    """Refuse a table whose columns are not those that are asked for, or only nearly."""
    _refuse_twice(names, where)
    if missing := [name for name in COLUMNS if name not in names]:
        raise InputError(
            f"{where}: no column {missing[0]!r}; found {', '.join(map(repr, names)) or 'none'}, "
            "expected image, labels (all of a picture's in one cell) and, if you like, unknown and split"
        )
    _refuse_near_misses(names, where)


def _refuse_twice(names: Sequence[str], where: str) -> None:
    """Refuse names of which a dict would keep the last, unless nobody asks for them."""
    for name in USED:
        if names.count(name) > 1:
            raise InputError(
                f"{where}: the column {name!r} stands there {names.count(name)} times, one was expected; "
                "leave that which counts"
            )


def _refuse_near_misses(names: Sequence[str], where: str) -> None:
    for name in USED:
        if name not in names and (near := [other for other in names if _bare(other) == _bare(name)]):
            raise InputError(
                f"{where}: the column {near[0]!r} would be ignored; call it {name!r}, "
                "or something else if it is not that"
            )
