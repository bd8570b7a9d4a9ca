"""The table source: one's own images, listed with their labels in a CSV, TSV, JSONL or Parquet file."""

import csv
import io
import json
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property, partial
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
ONE_ROW = f"; put all labels of a picture in one row, separated by {SEPARATOR!r}"
OTHER_SECRETS = (
    ", but for user, password, query and fragment, which no dataset stores; give each picture its own path"
)
HOW_TO_QUOTE = "close a cell that begins with '\"' by another one, and double those within it"
Columns = dict[str, list[Any]]


class TableSource:
    """Reads a table with one image per row.

    The columns are ``image`` (a path below *image_root*, or a URL), ``labels`` (a list, or text separated by
    ``|``) and, optionally, ``unknown`` (the labels whose presence nobody annotated, like ``labels``) and
    ``split``. A cell, or an item of a list, holds text or a whole number, or is empty, null or NaN; anything
    else is refused. A cell of a CSV or TSV file lies on one line.

    Args:
        table: URL of the table; its suffix tells the format.
        image_root: URL of the folder that paths in the column ``image`` are relative to.
        validation_share: The fraction of images that go to ``val``, by a hash of their key, among those for
            which the table names no split.
        split_seed: The seed of that hash.
        label_order: URL of a file that lists all labels in column order, as a JSON list or one per line;
            default: the labels that occur, in alphabetical order.

    Raises:
        InputError: The folder *image_root* does not exist.
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
        self.where = storage.redact_url(table)  # which ends with the suffix, without a query
        self.image_root = image_root
        self.validation_share = validation_share
        self.split_seed = split_seed
        self.label_order = label_order

    def inputs(self) -> Mapping[str, str]:
        """Return the digests of the table and of the order of labels, if one is given."""
        order = {"label_order": self._order.digest} if self._order else {}
        return {"table": digest(self._bytes), **order}

    def options(self) -> Mapping[str, Any]:
        """Return how images are divided into splits if the table names none."""
        return {"source": "table", "validation_share": self.validation_share, "split_seed": self.split_seed}

    def labels(self) -> Sequence[str]:
        """Return all labels, in the given order or in alphabetical order.

        Raises:
            InputError: A label occurs that the given order lacks.
        """
        occur = {name for column in ("labels", "unknown") for names in self._names(column) for name in names}
        if self._order is None:
            return tuple(sorted(occur))
        if missing := sorted(occur - set(self._order)):
            raise InputError(
                f"{self.where}: {missing[0]!r} is not among the {len(self._order)} labels of "
                f"{storage.redact_url(self.label_order or '')}"
                + (f", nor are {len(missing) - 1} more" if missing[1:] else "")
            )
        return self._order.names

    def images(self) -> Iterator[LabelledImage]:
        """Yield the image of every row, in the table's order.

        Raises:
            InputError: A row is invalid, or an image is listed twice.
        """
        images = self._columns["image"]
        splits = self._columns.get("split", [None] * len(images))
        spelling = {name: name for name in SPLITS}
        seen: dict[str, int] = {}
        locations: dict[str, int] = {}
        rows = zip(images, self._names("labels"), self._names("unknown"), splits, strict=True)
        for row, (cell, labels, unknown, split) in enumerate(rows, start=1):
            image = self._text(cell, row, "image")
            if not image.strip():
                raise InputError(f"{self.where}, row {row}: the column 'image' is empty")
            source = _source(image, self.image_root)
            if problem := _unescaped_in_url(image, self.image_root):
                raise InputError(f"{self.where}, row {row}: image {image.partition('?')[0]!r}: {problem}")
            key = key_of(source)
            if key in seen:
                advice = ONE_ROW if image == str(images[seen[key] - 1]) else OTHER_SECRETS
                raise InputError(
                    f"{self.where}, row {row}: image {source!r} is in row {seen[key]} already{advice}"
                )
            seen[key] = row
            uri = _location(image, self.image_root)
            if (first := locations.setdefault(self._normalise(uri, row), row)) != row:
                other = _source(str(images[first - 1]), self.image_root)
                raise InputError(
                    f"{self.where}, row {row}: image {source!r} is the same as row {first}'s {other!r}; "
                    "name each picture once"
                )
            if both := set(labels) & set(unknown):
                raise InputError(
                    f"{self.where}, row {row}: {min(both)!r} is both a label and unknown; leave one out"
                )
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
        """Return each row's label names in a column; none if the table lacks the column."""
        cells = self._columns.get(column, [None] * len(self._columns["image"]))
        return [self._label_names(cell, row, column) for row, cell in enumerate(cells, start=1)]

    def _label_names(self, cell: Any, row: int, column: str) -> tuple[str, ...]:
        items = cell if isinstance(cell, list) else self._text(cell, row, column).split(SEPARATOR)
        if isinstance(cell, str) and cell.strip()[:1] == "[" and cell.strip()[-1:] == "]":
            raise InputError(
                f"{self.where}, row {row}, column {column!r}: {cell!r} is a list written as text; "
                f"separate labels by {SEPARATOR!r}, or write lists as .parquet or .jsonl"
            )
        names = (self._text(item, row, column).strip() for item in items)
        return tuple(dict.fromkeys(name for name in names if name))

    def _split(self, cell: Any, row: int) -> str:
        """Return the split that a cell names, or "" if it is empty."""
        name = self._text(cell, row, "split").strip()
        if name.casefold() in NO_SPLIT:
            raise InputError(
                f"{self.where}, row {row}: split {name!r}; leave the cell empty if the row has no split"
            )
        if key_of(name) != name:
            raise InputError(
                f"{self.where}, row {row}: split {name!r}; "
                f"name it with at most {MAX_KEY_LENGTH} letters, digits, '_' and '-'"
            )
        return name

    def _normalise(self, uri: str, row: int) -> str:
        """Return one spelling for all spellings of a file's location; links are not resolved."""
        try:
            return os.path.normpath(storage.local_path(uri).absolute()) if storage.is_local(uri) else uri
        except InputError as error:
            raise InputError(f"{self.where}, row {row}: {error}") from error

    def _text(self, cell: Any, row: int, column: str) -> str:
        try:
            return _text_of(cell)
        except ValueError as error:
            raise InputError(
                f"{self.where}, row {row}, column {column!r}: {error}; correct the table"
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
        return LabelVocabulary.from_names((line.strip() for line in lines if line.strip()), url)


def _text_of(cell: Any) -> str:
    """Return a cell's text, or "" if it is null, NaN or empty.

    Raises:
        ValueError: The cell is neither text nor a whole number. The message does not show the cell, because
            it may be a whole image.
    """
    if cell is None or (isinstance(cell, float) and math.isnan(cell)):
        return ""
    if isinstance(cell, bool) or not isinstance(cell, str | int):
        raise ValueError(f"a {type(cell).__name__} found, text or a whole number expected")
    text = str(cell)
    text.encode()  # raises a ValueError for half a character, such as JSON's "\ud800"
    return text


def _location(image: str, root: str) -> str:
    """Return an image's URL, which is below the root unless the table names a URL or an absolute path."""
    return image if _is_absolute(image) else storage.join(root, image)


def _source(image: str, root: str) -> str:
    """Return the part of an image's location that a dataset may store: neither secrets nor the root."""
    if not _is_absolute(image) and storage.is_local(root):
        return image
    redacted = storage.redact_url(_location(image, root))
    if _is_absolute(image):
        return redacted
    return redacted.removeprefix(storage.join(storage.redact_url(root), ""))


def _unescaped_in_url(image: str, root: str) -> str | None:
    """Describe what must be escaped in a name below a web address, or return None.

    On a disk, in a bucket or in an archive, no character of a name has a special meaning.
    """
    path = image.partition("?")[0]
    if _is_absolute(image) or not storage.is_address(storage.join(root, path)):
        return None
    if "#" in path or re.search(r"%(?![0-9A-Fa-f]{2})", path):
        return "below a web address it is part of the address; write '#' as '%23' and '%' as '%25' in it"
    return None


def _is_absolute(image: str) -> bool:
    return "://" in image or image.startswith("/")


def _parse(data: bytes, url: str) -> Columns:
    """Parse the used columns of a table into a list of cells each."""
    suffix = url.rpartition(".")[2].lower()
    if suffix == "parquet":
        return _parse_parquet(data, url)
    if suffix not in ("csv", "tsv", "jsonl", "ndjson"):
        raise InputError(f"{url}: a table ends in .csv, .tsv, .jsonl or .parquet, not in .{suffix}")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{url}: not UTF-8 text ({error}); save it as UTF-8") from error
    if suffix in ("csv", "tsv"):
        return _parse_csv(text, "," if suffix == "csv" else "\t", url)
    return _parse_jsonl(text, url)


def _parse_parquet(data: bytes, url: str) -> Columns:
    table = storage.parse_parquet(data, url, columns=list(USED))
    _refuse_names(storage.parquet_names(data, url), url)
    return table.to_pydict()


def _parse_csv(text: str, delimiter: str, url: str) -> Columns:
    rows = _csv_rows(text, delimiter, url)
    _, names = next(rows, (1, []))
    _refuse_names(names, url)
    used = [(column, names.index(column)) for column in USED if column in names]
    columns: Columns = {column: [] for column, _ in used}
    for row, (line, cells) in enumerate(rows, start=1):
        if len(cells) != len(names):
            raise InputError(
                f"{url}, row {row}, line {line}: {len(cells)} cells found, {len(names)} expected as in the "
                "first line; put a cell that holds the separator in quotation marks"
            )
        for column, position in used:
            columns[column].append(cells[position])
    return columns


def _csv_rows(text: str, delimiter: str, url: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the number of each line that is not empty, and its cells.

    Raises:
        InputError: A cell spans several lines, as an unclosed quotation mark makes it do, or a line is
            malformed.
    """
    csv.field_size_limit(max(csv.field_size_limit(), len(text)))  # cells of unused columns may be long
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    line = 0
    try:
        for line, cells in enumerate(reader, start=1):
            if reader.line_num != line:
                raise _spanning_cell(url, line)
            if cells:
                yield line, cells
    except csv.Error as error:
        line += 1
        if reader.line_num > line:
            raise _spanning_cell(url, line) from error
        raise InputError(
            f"{url}, line {line}: not a readable .{url.rpartition('.')[2]} row ({error}); {HOW_TO_QUOTE}"
        ) from error


def _spanning_cell(url: str, line: int) -> InputError:
    return InputError(
        f"{url}, line {line}: a cell that begins with '\"' does not end on this line; close its quotation "
        "mark, or write a table with line breaks in its cells as .jsonl or .parquet"
    )


def _parse_jsonl(text: str, url: str) -> Columns:
    """Parse one JSON object per line; Arrow's reader would turn names that look like dates into dates."""
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
            raise InputError(
                f"{where}: a {type(row).__name__} found, an object with the columns image and labels expected"
            )
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
    """Raise an InputError if a column is missing, given twice, or named almost like one that is used."""
    _refuse_twice(names, where)
    if missing := [name for name in COLUMNS if name not in names]:
        raise InputError(
            f"{where}: no column {missing[0]!r}; found {', '.join(map(repr, names)) or 'none'}, "
            "expected image, labels (all of a picture's in one cell) and, optionally, unknown and split"
        )
    _refuse_near_misses(names, where)


def _refuse_twice(names: Sequence[str], where: str) -> None:
    """Raise an InputError if a used column is given twice, of which a dict would keep the last."""
    for name in USED:
        if names.count(name) > 1:
            raise InputError(
                f"{where}: the column {name!r} is given {names.count(name)} times, once was expected; "
                "keep the one that counts"
            )


def _refuse_near_misses(names: Sequence[str], where: str) -> None:
    """Raise an InputError if a column is named almost like one that is used, and would be ignored."""
    for name in USED:
        if name not in names and (near := [other for other in names if _stem(other) == _stem(name)]):
            raise InputError(
                f"{where}: the column {near[0]!r} would be ignored; call it {name!r}, "
                "or something else if it is another column"
            )


def _stem(column: str) -> str:
    return column.strip().casefold().removesuffix("s")
