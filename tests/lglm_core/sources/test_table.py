import hashlib
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lglm_core import storage
from lglm_core.dataset.plan import make_plan
from lglm_core.errors import InputError
from lglm_core.labels.vocabulary import LabelVocabulary
from lglm_core.sources.source import LabelledImage, key_of
from lglm_core.sources.table import TableSource

ROWS = [
    {"image": "a.jpg", "labels": ["dog", "cat"], "split": "train"},
    {"image": "sub/b.jpg", "labels": [], "split": "val"},
    {"image": "c.jpg", "labels": ["stop sign"], "split": "train"},
]
Write = Callable[[str, list[dict[str, object]]], TableSource]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(format: str, rows: list[dict[str, object]]) -> TableSource:
        path = tmp_path / f"labels.{format}"
        if format == "parquet":
            pq.write_table(pa.Table.from_pylist(rows), path)
        elif format == "jsonl":
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        else:
            header = list(rows[0])
            lines = [
                [row[c] if isinstance(row[c], str) else "|".join(map(str, row[c])) for c in header]
                for row in rows
            ]
            path.write_text(
                "".join(",".join(f'"{cell}"' for cell in line) + "\n" for line in [header, *lines])
            )
        return TableSource(str(path), str(tmp_path))

    return write


def order(tmp_path: Path, name: str, text: str) -> TableSource:
    (tmp_path / name).write_text(text)
    (tmp_path / "labels.csv").write_text("image,labels,unknown\na.jpg,dog|cat,\nb.jpg,,sheep\n")
    return TableSource(f"{tmp_path}/labels.csv", str(tmp_path), label_order=f"{tmp_path}/{name}")


FORMATS = pytest.mark.parametrize("format", ["csv", "jsonl", "parquet"])


def csv(tmp_path: Path, text: str) -> TableSource:
    (tmp_path / "labels.csv").write_text(text)
    return TableSource(f"{tmp_path}/labels.csv", str(tmp_path))


@FORMATS
def test_every_format_gives_the_same_images(write: Write, format: str, tmp_path: Path):
    b = "sub-b-jpg-" + hashlib.sha256(b"sub/b.jpg").hexdigest()[:8]
    a, c = (f"{x}-jpg-" + hashlib.sha256(f"{x}.jpg".encode()).hexdigest()[:8] for x in "ac")
    assert list(write(format, ROWS).images()) == [
        LabelledImage(a, "train", f"{tmp_path}/a.jpg", "a.jpg", ("dog", "cat")),
        LabelledImage(b, "val", f"{tmp_path}/sub/b.jpg", "sub/b.jpg", ()),
        LabelledImage(c, "train", f"{tmp_path}/c.jpg", "c.jpg", ("stop sign",)),
    ]


@FORMATS
def test_labels_are_in_alphabetical_order(write: Write, format: str):
    assert write(format, ROWS).labels() == ("cat", "dog", "stop sign")


@pytest.mark.parametrize("format", ["jsonl", "parquet"])
def test_labels_may_be_separated_by_bars_in_every_format(write: Write, format: str):
    rows = [{"image": "a.jpg", "labels": "dog | cat||dog"}]
    assert next(iter(write(format, rows).images())).labels == ("dog", "cat")


@FORMATS
@pytest.mark.parametrize(
    "names", [["7", "10"], ["2019-01-01", "2020-01-01"], ["true", "false"], ["NA", "null"]]
)
def test_names_that_look_like_something_else_stay_names(write: Write, format: str, names: list[str]):
    source = write(format, [{"image": "a.jpg", "labels": names}, {"image": "b.jpg", "labels": names[:1]}])
    assert source.labels() == tuple(sorted(names))


@FORMATS
@pytest.mark.parametrize("images", [["007", "7"], ["2019-01-01", "2020-01-01"]])
def test_paths_that_look_like_something_else_stay_paths(write: Write, format: str, images: list[str]):
    source = write(format, [{"image": image, "labels": ["a", "b"]} for image in images])
    assert [image.source for image in source.images()] == images


@pytest.mark.parametrize("format", ["jsonl", "parquet"])
def test_numbers_as_labels_are_their_digits(write: Write, format: str):
    assert write(format, [{"image": "a.jpg", "labels": [7, 10]}]).labels() == ("10", "7")


@FORMATS
def test_a_lone_number_is_one_label(write: Write, format: str):
    rows = [{"image": f"{n}.jpg", "labels": str(n) if format == "csv" else n} for n in (7, 10)]
    assert write(format, rows).labels() == ("10", "7")


@pytest.mark.parametrize("format", ["jsonl", "parquet"])
def test_an_empty_or_null_item_is_no_label(write: Write, format: str):
    rows = [{"image": "a.jpg", "labels": ["cat", None, ""]}, {"image": "b.jpg", "labels": ["dog"]}]
    source = write(format, [*rows, {"image": "c.jpg", "labels": None}])
    assert [image.labels for image in source.images()] == [("cat",), ("dog",), ()]
    assert source.labels() == ("cat", "dog")


@pytest.mark.parametrize("format", ["jsonl", "parquet"])
def test_nan_is_no_label(write: Write, format: str):
    rows = [{"image": f"{n}.jpg", "labels": cell} for n, cell in enumerate([math.nan, [math.nan], []])]
    for row in rows:
        assert [image.labels for image in write(format, [row]).images()] == [()]


NO_TEXT = [True, 1.5, b"cat", {"x": 1}]


@pytest.mark.parametrize("column", ["labels", "unknown", "split"])
@pytest.mark.parametrize(
    ("format", "cell"),
    [
        (format, cell)
        for format in ("jsonl", "parquet")
        for cell in NO_TEXT
        if not (format == "jsonl" and isinstance(cell, bytes))  # JSON has no bytes
    ],
)
def test_a_cell_that_is_no_name_is_refused_with_row_and_column(
    write: Write, format: str, column: str, cell: Any
):
    message = f"row 2, column '{column}': a {type(cell).__name__} found, text or a whole number expected"
    for wrapped in (cell, [cell]) if column != "split" else (cell,):
        row = {"image": "b.jpg", "labels": None} | {column: wrapped}
        with pytest.raises(InputError, match=message):
            list(write(format, [row | {"image": "a.jpg", column: None}, row]).images())


@pytest.mark.parametrize("format", ["jsonl", "parquet"])
@pytest.mark.parametrize("column", ["labels", "unknown"])
def test_a_list_within_a_list_is_refused(write: Write, format: str, column: str):
    with pytest.raises(InputError, match=f"row 1, column '{column}': a list found"):
        list(write(format, [{"image": "a.jpg", "labels": []} | {column: [["x", "y"]]}]).images())


def test_the_bytes_of_a_picture_are_refused_unshown(write: Write):
    cell = {"bytes": b"secret", "path": None}  # as in image datasets in Parquet
    with pytest.raises(InputError, match="row 1, column 'image': a dict found") as caught:
        list(write("parquet", [{"image": cell, "labels": ["cat"]}]).images())
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("column", ["image", "labels", "unknown", "split"])
def test_half_a_character_is_refused_with_row_and_column(tmp_path: Path, column: str):
    row = {"image": "a.jpg", "labels": ["cat"]} | {column: "\ud800x"}
    (tmp_path / "labels.jsonl").write_text(json.dumps(row))
    with pytest.raises(
        InputError, match=rf"row 1, column '{column}': 'utf-8' codec can't encode .* surrogates"
    ):
        list(TableSource(f"{tmp_path}/labels.jsonl", str(tmp_path)).images())


@pytest.mark.parametrize("format", ["jsonl", "parquet"])
def test_a_picture_may_be_named_by_a_number(write: Write, format: str):
    rows = [{"image": number, "labels": ["cat"]} for number in (0, 7)]
    assert [image.source for image in write(format, rows).images()] == ["0", "7"]


@FORMATS
def test_a_path_of_blanks_is_refused_with_its_row(write: Write, format: str):
    with pytest.raises(InputError, match="row 1: the column 'image' is empty"):
        list(write(format, [{"image": "  ", "labels": ["cat"]}]).images())


@pytest.mark.parametrize("format", ["jsonl", "parquet"])
def test_splits_may_be_numbers_including_zero(write: Write, format: str):
    rows = [{"image": f"{n}.jpg", "labels": ["cat"], "split": n % 2} for n in range(20)]
    assert [image.split for image in write(format, rows).images()] == ["0", "1"] * 10


@pytest.mark.parametrize("format", ["jsonl", "parquet"])
@pytest.mark.parametrize("cell", [None, math.nan, "", "  "])
def test_a_missing_split_is_decided_by_the_hash(write: Write, format: str, cell: Any):
    rows = [{"image": f"{n}.jpg", "labels": ["cat"]} for n in range(50)]
    without = [image.split for image in write(format, rows).images()]
    assert [
        image.split for image in write(format, [row | {"split": cell} for row in rows]).images()
    ] == without


def named_twice(path: Path, names: list[str]) -> TableSource:
    """Write a table of one row whose columns have these names."""
    if path.suffix == ".parquet":
        pq.write_table(pa.table([[name] for name in names], names=names), path)
    elif path.suffix == ".csv":
        path.write_text(",".join(names) + "\n" + ",".join(names) + "\n")
    else:
        path.write_text("{" + ", ".join(f'"{name}": "{name}"' for name in names) + "}")
    return TableSource(str(path), str(path.parent))


@FORMATS
@pytest.mark.parametrize("column", ["image", "labels", "unknown", "split"])
def test_a_column_given_twice_is_refused(tmp_path: Path, format: str, column: str):
    source = named_twice(tmp_path / f"t.{format}", ["image", "labels", "unknown", "split", column])
    with pytest.raises(InputError, match=rf"t\.{format}.*: the column '{column}' is given 2 times"):
        list(source.images())


@FORMATS
def test_another_column_may_be_given_twice(tmp_path: Path, format: str):
    (image,) = named_twice(tmp_path / f"t.{format}", ["image", "who", "labels", "who"]).images()
    assert (image.source, image.labels) == ("image", ("labels",))


def test_tabs_separate_the_columns_of_a_tsv(tmp_path: Path):
    (tmp_path / "labels.tsv").write_text("image\tlabels\na, b.jpg\tcat|dog, wet\n")
    (image,) = TableSource(f"{tmp_path}/labels.tsv", str(tmp_path)).images()
    assert (image.source, image.labels) == ("a, b.jpg", ("cat", "dog, wet"))


@pytest.mark.parametrize(("suffix", "by"), [("csv", ","), ("tsv", "\t")])
@pytest.mark.parametrize("quoted", ['"big dog', '"big\ndog"', '"big\r"'])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_a_cell_that_spans_lines_is_refused_by_the_line_where_it_begins(
    tmp_path: Path, suffix: str, by: str, quoted: str, newline: str
):
    """Whether its quotation mark is not closed, or encloses a line break."""
    rows = [f"{number}.jpg{by}{quoted if number == 3 else 'cat'}" for number in range(1, 9)]
    table = tmp_path / f"t.{suffix}"
    lines = [f"image{by}labels", *rows, f'9.jpg{by}"dog"', ""]
    table.write_bytes(newline.join(lines).encode())
    refusal = (
        rf"t\.{suffix}, line 4: a cell that begins with '\"' does not end on this line; close its quotation "
        r"mark, or write a table with line breaks in its cells as \.jsonl or \.parquet"
    )
    with pytest.raises(InputError, match=refusal):
        list(TableSource(str(table), str(tmp_path)).images())


def test_a_mark_that_is_not_closed_on_the_last_line_is_refused_by_that_line(tmp_path: Path):
    with pytest.raises(InputError, match=r"labels\.csv, line 3: not a readable \.csv row \(unexpected end"):
        list(csv(tmp_path, 'image,labels\na.jpg,cat\nb.jpg,"dog').images())


def test_lines_are_counted_over_empty_ones(tmp_path: Path):
    text = 'image,labels\n\n\na.jpg,cat\n\nb.jpg,"big\ndog"\n'
    with pytest.raises(InputError, match=r"labels\.csv, line 6: a cell that begins"):
        list(csv(tmp_path, text).images())
    images = list(csv(tmp_path, text.replace("big\n", "big ")).images())
    assert [image.labels for image in images] == [("cat",), ("big dog",)]


@pytest.mark.parametrize("format", ["jsonl", "parquet"])
def test_cells_of_other_formats_may_span_lines(write: Write, format: str):
    rows = [
        {"image": f"{n}.jpg", "labels": ["big\ndog"], "caption": f"open\n{n + 1}.jpg,cat"} for n in range(3)
    ]
    images = list(write(format, rows).images())
    assert [image.source for image in images] == ["0.jpg", "1.jpg", "2.jpg"]
    assert {image.labels for image in images} == {("big\ndog",)}


@pytest.mark.parametrize(("cell", "found"), [("", "none"), ("cat", "'cat' alone")])
def test_too_few_labels_are_refused_with_the_table_s_name(tmp_path: Path, cell: str, found: str):
    why = f"a multi-label model needs at least 2 labels; found {found}"
    with pytest.raises(InputError, match=rf"labels\.csv: {why}"):
        make_plan(csv(tmp_path, f"image,labels\na.jpg,{cell}\n"), 3)


@pytest.mark.parametrize("others", ["a screen", '24"'])
def test_a_quotation_mark_in_another_column_costs_no_row(tmp_path: Path, others: str):
    """CSV takes all text from ``"big screen`` to the next such mark for one cell."""
    titles = ['"big screen' if number in (5, 20) else others for number in range(40)]
    text = "image,labels,title\n" + "".join(f"p{n}.jpg,cat|dog,{title}\n" for n, title in enumerate(titles))
    with pytest.raises(InputError, match=r"labels\.csv, line 7: a cell that begins with '\"' does not end"):
        list(csv(tmp_path, text).images())
    assert len(list(csv(tmp_path, text.replace('"big', "big")).images())) == 40


@pytest.mark.parametrize(
    "rows",
    [
        'caption,image,labels\n"open,a.jpg,cat\nsize 5",b.jpg,dog\n',
        'image,labels,caption\na.jpg,cat,"open\nb.PNG,dog,size 5"\n',
        'image,labels,note,note\na.jpg,cat,"open\nb.jpg,dog,size 5",\n',
        ',image,labels,\n,a.jpg,cat,"open\n,b.jpg,dog,size 5"\n',
        'image,labels,caption\na.jpg,cat,"a caption\n of two lines"\n',
    ],
)
def test_a_cell_of_any_column_that_spans_lines_is_refused(tmp_path: Path, rows: str):
    """Whether or not its lines look like rows."""
    with pytest.raises(InputError, match=r"labels\.csv, line 2: a cell that begins with '\"' does not end"):
        list(csv(tmp_path, rows).images())


def test_a_header_that_cannot_be_read_is_named(tmp_path: Path):
    with pytest.raises(InputError, match=r"labels\.csv, line 1: not a readable \.csv row"):
        list(csv(tmp_path, '"image"x,labels\na.jpg,cat\n').images())
    with pytest.raises(InputError, match=r"labels\.csv, line 1: a cell that begins"):
        list(csv(tmp_path, '"image\n",labels\na.jpg,cat\n').images())


def test_quoted_captions_are_captions_however_long_the_table_is(tmp_path: Path):
    rows = 20_000  # 1.5 MB: readers that take a table in pieces cut them anywhere
    text = "".join(
        f'p{n}.jpg,cat|dog,"a caption {n}: red, green, and ""blue"" of length"\n' for n in range(rows)
    )
    images = list(csv(tmp_path, f"image,labels,caption\n{text}").images())
    assert [image.source for image in images] == [f"p{n}.jpg" for n in range(rows)]
    assert {image.labels for image in images} == {("cat", "dog")}


def test_a_cell_of_another_column_may_be_long(tmp_path: Path):
    (image,) = csv(tmp_path, f"image,labels,thumbnail\na.jpg,cat,{'A' * 200_000}\n").images()
    assert image.source == "a.jpg"


def test_other_columns_of_a_parquet_table_are_not_read(tmp_path: Path):
    """Their cells may even hold what Python cannot represent."""
    dates = pa.array([10**7, 10**7], pa.date32())
    with pytest.raises(OverflowError):
        dates.to_pylist()
    table = pa.table(
        {"image": ["a.jpg", "b.jpg"], "labels": [["cat"], ["dog"]], "labels.t": dates, "t": dates}
    )
    pq.write_table(table, tmp_path / "t.parquet")
    images = TableSource(f"{tmp_path}/t.parquet", str(tmp_path)).images()
    assert [image.labels for image in images] == [("cat",), ("dog",)]


@pytest.mark.parametrize(("name", "refused"), [("a #1.jpg", True), ("50%.jpg", True), ("50%25.jpg", False)])
def test_below_a_web_address_names_must_be_escaped(tmp_path: Path, name: str, refused: bool):
    (tmp_path / "t.csv").write_text(f"image,labels\n{name},cat\n")
    for root in ("http://h/photos", "http://h/photos.zip"):
        source = TableSource(f"{tmp_path}/t.csv", str(tmp_path))
        source.image_root = root  # set after the check that it exists
        if refused and root == "http://h/photos":
            with pytest.raises(InputError, match=r"row 1: image '.*': below a web address .* '%' as '%25'"):
                list(source.images())
        else:
            (image,) = source.images()
            assert image.uri == f"{root}/{name}"


def test_an_unsupported_address_is_refused_with_its_row(tmp_path: Path):
    with pytest.raises(InputError, match=r"row 2: ftp://h/b\.jpg: ftp:// is not a place"):
        list(csv(tmp_path, "image,labels\na.jpg,cat\nftp://h/b.jpg,dog\n").images())


def test_other_columns_are_ignored(tmp_path: Path):
    source = csv(tmp_path, "who,labels,image\nme,cat|dog,a.jpg\n")
    assert [(image.source, image.labels) for image in source.images()] == [("a.jpg", ("cat", "dog"))]


@pytest.mark.parametrize(("header", "missing"), [("picture,labels", "image"), ("image,tags", "labels")])
def test_a_missing_column_is_named(tmp_path: Path, header: str, missing: str):
    found = ", ".join(map(repr, header.split(",")))
    with pytest.raises(InputError, match=rf"labels\.csv: no column '{missing}'; found {found}, expected"):
        csv(tmp_path, f"{header}\na.jpg,cat\n").labels()


@FORMATS
def test_a_picture_named_twice_is_refused_with_both_rows(write: Write, format: str):
    with pytest.raises(InputError, match=rf"labels\.{format}, row 4: image 'a\.jpg' is in row 1 already"):
        list(write(format, [*ROWS, ROWS[0]]).images())


def test_an_empty_path_is_refused_with_its_row(tmp_path: Path):
    with pytest.raises(InputError, match="row 2: the column 'image' is empty"):
        list(csv(tmp_path, "image,labels\na.jpg,cat\n,dog\n").images())


def test_a_split_that_cannot_be_a_folder_is_refused_with_its_row(tmp_path: Path):
    with pytest.raises(InputError, match=r"row 1: split '\.\./x'"):
        list(csv(tmp_path, "image,labels,split\na.jpg,cat,../x\n").images())


def test_an_empty_split_is_decided_by_the_hash(tmp_path: Path):
    with_column = csv(tmp_path, "image,labels,split\n" + "".join(f"{n}.jpg,cat,\n" for n in range(50)))
    splits = [image.split for image in with_column.images()]
    without = csv(tmp_path, "image,labels\n" + "".join(f"{n}.jpg,cat\n" for n in range(50)))
    assert splits == [image.split for image in without.images()] and set(splits) == {"train", "val"}


def test_new_rows_move_no_old_picture_to_the_other_side(tmp_path: Path):
    def splits(numbers: range) -> dict[str, str]:
        text = "image,labels\n" + "".join(f"{n}.jpg,cat\n" for n in numbers)
        return {image.source: image.split for image in csv(tmp_path, text).images()}

    old, new = splits(range(100)), splits(range(299, -1, -1))
    assert len(set(old.values())) == 2
    assert old == {name: new[name] for name in old}


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("labels.csv", b"image,labels\n\na,b,c\n", ", row 1, line 3: 3 cells found, 2 expected"),
        ("labels.csv", b"image,labels\na\n", ", row 1, line 2: 1 cells found, 2 expected"),
        ("labels.csv", b'image,labels\na,b\nc,"d\n', ", line 3: not a readable .csv row .unexpected end"),
        ("labels.parquet", b"PAR1 no", ": not a readable Parquet file"),
    ],
)
def test_a_broken_table_is_refused_by_name(tmp_path: Path, name: str, content: bytes, why: str):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=f"{name}{why}"):
        TableSource(f"{tmp_path}/{name}", str(tmp_path)).labels()


@pytest.mark.parametrize("encoding", ["utf-16", "latin-1"])
def test_a_table_in_another_encoding_is_refused_as_that(tmp_path: Path, encoding: str):
    (tmp_path / "labels.csv").write_bytes("image,labels\na.jpg,café\n".encode(encoding))
    with pytest.raises(InputError, match=r"labels\.csv: not UTF-8 text \(.*\); save it as UTF-8"):
        TableSource(f"{tmp_path}/labels.csv", str(tmp_path)).labels()


@pytest.mark.parametrize("column", ["Split", " split", "splits", "Unknown", "unknowns"])
def test_a_column_with_almost_a_used_name_is_refused(tmp_path: Path, column: str):
    with pytest.raises(InputError, match=f"{column!r} would be ignored; call it '(split|unknown)'"):
        csv(tmp_path, f"image,labels,{column}\na.jpg,cat,\n").labels()


@FORMATS
@pytest.mark.parametrize("cell", ["['cat', 'dog']", " [] ", "['cat' 'dog']", "[0 1]"])
def test_a_list_written_as_text_is_no_label(write: Write, format: str, cell: str):
    source = write(format, [{"image": "a.jpg", "labels": cell}])
    with pytest.raises(InputError, match=r"row 1, column 'labels': .* is a list written as text"):
        source.labels()


@pytest.mark.parametrize(("split", "meant"), [("Train", "train"), ("VAL", "val"), ("Fold1", "fold1")])
def test_a_split_in_another_spelling_is_refused(tmp_path: Path, split: str, meant: str):
    table = csv(tmp_path, f"image,labels,split\na.jpg,cat,{meant}\nb.jpg,dog,{split}\n")
    with pytest.raises(InputError, match=f"row 2: split '{split}'; write '{meant}'"):
        list(table.images())


@pytest.mark.parametrize("split", ["nan", "NaN", "None", "NULL"])
def test_a_word_for_nothing_is_no_split(tmp_path: Path, split: str):
    with pytest.raises(InputError, match=f"row 1: split '{split}'; leave the cell empty"):
        list(csv(tmp_path, f"image,labels,split\na.jpg,cat,{split}\n").images())


@pytest.mark.parametrize("other", ["./a b.jpg", "x/../a b.jpg", "{root}/a b.jpg", "file://{root}/a%20b.jpg"])
def test_one_picture_under_two_names_is_refused_with_both(tmp_path: Path, other: str):
    table = csv(tmp_path, f"image,labels\na b.jpg,cat\n{other.format(root=tmp_path)},dog\n")
    with pytest.raises(
        InputError, match=r"row 2: image .* is the same as row 1's 'a b\.jpg'; name each picture once"
    ):
        list(table.images())


@pytest.mark.parametrize("line", ["not json", '{"image": "b"', "[1, 2]", '"b"'])
def test_a_broken_line_is_refused_with_its_number(tmp_path: Path, line: str):
    (tmp_path / "labels.jsonl").write_text('{"image": "a", "labels": ["x", "y"]}\n\n' + line + "\n")
    with pytest.raises(InputError, match=r"labels\.jsonl, line 3: "):
        TableSource(f"{tmp_path}/labels.jsonl", str(tmp_path)).labels()


@pytest.mark.parametrize("name", ["labels.jsonl", "labels.csv"])
def test_an_empty_table_is_refused(tmp_path: Path, name: str):
    (tmp_path / name).touch()
    with pytest.raises(InputError, match=rf"{name}: no column 'image'; found none"):
        TableSource(f"{tmp_path}/{name}", str(tmp_path)).labels()


def test_a_line_whose_labels_would_be_ignored_is_refused(tmp_path: Path):
    """Two exports that were put together look like this."""
    (tmp_path / "t.jsonl").write_text(
        '{"image": "a", "labels": ["x", "y"]}\n{"image": "b", "label": ["x"]}\n'
    )
    with pytest.raises(InputError, match=r"t\.jsonl, line 2: the column 'label' would be ignored; call it"):
        TableSource(f"{tmp_path}/t.jsonl", str(tmp_path)).labels()


def test_a_line_may_leave_out_its_labels(tmp_path: Path):
    (tmp_path / "labels.jsonl").write_text('{"image": "a", "labels": ["x", "y"]}\n{"image": "b"}\n')
    images = TableSource(f"{tmp_path}/labels.jsonl", str(tmp_path)).images()
    assert [image.labels for image in images] == [("x", "y"), ()]


def test_another_suffix_is_refused(tmp_path: Path):
    (tmp_path / "labels.xlsx").touch()
    with pytest.raises(
        InputError, match=r"a table ends in \.csv, \.tsv, \.jsonl or \.parquet, not in \.xlsx"
    ):
        TableSource(f"{tmp_path}/labels.xlsx", str(tmp_path)).labels()


def test_a_missing_picture_folder_is_refused(tmp_path: Path):
    with pytest.raises(InputError, match="none: no such folder"):
        TableSource(f"{tmp_path}/labels.csv", f"{tmp_path}/none")


def test_the_input_is_the_digest_of_the_table(tmp_path: Path):
    text = "image,labels\na.jpg,cat|dog\n"
    assert csv(tmp_path, text).inputs() == {"table": hashlib.sha256(text.encode()).hexdigest()}


@FORMATS
def test_labels_that_nobody_annotated_are_unknown(write: Write, format: str):
    rows = [{**row, "unknown": ["sheep"] if row["image"] == "c.jpg" else []} for row in ROWS]
    source = write(format, rows)
    assert [image.unknown for image in source.images()] == [(), (), ("sheep",)]
    assert source.labels() == ("cat", "dog", "sheep", "stop sign")


def test_a_label_cannot_be_present_and_unknown(write: Write):
    rows = [{**row, "unknown": ["cat"]} for row in ROWS]
    with pytest.raises(InputError, match="row 1: 'cat' is both a label and unknown"):
        list(write("jsonl", rows).images())


def test_a_picture_s_key_and_source_do_not_depend_on_how_the_root_is_written(tmp_path: Path):
    (tmp_path / "a root").mkdir()
    (tmp_path / "t.csv").write_text("image,labels\nmy pic#1.jpg,a\nz%20.jpg,b\n")
    roots = (str(tmp_path / "a root"), (tmp_path / "a root").as_uri())
    plain, quoted = (list(TableSource(str(tmp_path / "t.csv"), root).images()) for root in roots)
    assert [(image.key, image.source) for image in plain] == [(image.key, image.source) for image in quoted]
    assert [storage.local_path(image.uri) for image in quoted] == [Path(image.uri) for image in plain]


def test_a_picture_may_have_an_address_of_its_own(tmp_path: Path):
    source = csv(tmp_path, "image,labels\ns3://photos/a.jpg,x\n/disk/b.jpg,y\nc.jpg,\n")
    assert [image.uri for image in source.images()] == [
        "s3://photos/a.jpg",
        "/disk/b.jpg",
        f"{tmp_path}/c.jpg",
    ]


SIGNED = "http://me:hunter2@host/a/x.jpg?X-Amz-Signature={}"


def test_secrets_of_an_address_are_used_for_reading_only(tmp_path: Path):
    first, again = (
        next(csv(tmp_path, f"image,labels\n{SIGNED.format(signature)},cat\n").images())
        for signature in ("abc", "xyz")
    )
    assert (first.uri, first.source) == (SIGNED.format("abc"), "http://host/a/x.jpg")
    assert again.key == first.key == key_of(first.source)  # the same picture, though signed again
    assert again.split == first.split


def test_secrets_of_a_name_on_a_web_server_are_used_for_reading_only(tmp_path: Path):
    (tmp_path / "labels.csv").write_text("image,labels\nx.jpg?X-Amz-Signature=abc,cat\n")
    (image,) = TableSource(f"{tmp_path}/labels.csv", "http://me:hunter2@host/a/").images()
    assert (image.uri, image.source) == (SIGNED.format("abc"), "x.jpg")


def test_marks_of_an_address_are_part_of_a_name_on_disk(tmp_path: Path):
    names = ["a?1.jpg", "a?2.jpg", "b#1.jpg", "b#2.jpg", "/me@host/c.jpg"]
    source = csv(tmp_path, "image,labels\n" + "".join(f"{name},cat\n" for name in names))
    assert [image.source for image in source.images()] == names


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("http://host/get?id=1", "http://host/get?id=2"),
        ("http://host/get#1", "http://host/get"),
        ("http://me:hunter2@host/get", "http://you:hunter3@host/get"),
    ],
)
def test_pictures_that_differ_in_secrets_only_are_refused_without_them(tmp_path: Path, one: str, other: str):
    source = csv(tmp_path, f"image,labels\na.jpg,cat\n{one},cat\n{other},dog\n")
    with pytest.raises(
        InputError, match="row 3: image 'http://host/get' is in row 2 already, but for user"
    ) as caught:
        list(source.images())
    assert not any(secret in str(caught.value) for secret in ("hunter", "id="))


def test_an_address_named_twice_is_refused_without_its_secrets(tmp_path: Path):
    source = csv(tmp_path, "image,labels\n" + f"{SIGNED},cat\n" * 2)
    with pytest.raises(
        InputError, match=r"row 2: image 'http://host/a/x\.jpg' is in row 1 already; put all labels"
    ):
        list(source.images())


@pytest.mark.parametrize(
    ("name", "text"), [("o.json", '["dog", "sheep", "cat", "x"]'), ("o", "dog\nsheep\n\ncat\nx")]
)
def test_labels_are_in_the_order_given(tmp_path: Path, name: str, text: str):
    source = order(tmp_path, name, text)
    assert source.labels() == ("dog", "sheep", "cat", "x")
    assert source.inputs()["label_order"] == LabelVocabulary(source.labels()).digest


@pytest.mark.parametrize(("name", "text"), [("o.json", '["dog", "sheep", "cat"]'), ("o", "dog\nsheep\ncat")])
def test_a_byte_order_mark_before_the_order_is_no_part_of_a_label(tmp_path: Path, name: str, text: str):
    """Editors on Windows write one."""
    assert order(tmp_path, name, f"\ufeff{text}").labels() == ("dog", "sheep", "cat")


@pytest.mark.parametrize(
    ("name", "text"),
    [("t.csv", "image,labels\na.jpg,cat\n"), ("t.jsonl", '\n{"image": "a.jpg", "labels": ["cat"]}')],
)
def test_a_byte_order_mark_before_a_table_is_no_part_of_it(tmp_path: Path, name: str, text: str):
    (tmp_path / name).write_text(f"\ufeff{text}")
    (image,) = TableSource(f"{tmp_path}/{name}", str(tmp_path)).images()
    assert (image.source, image.labels) == ("a.jpg", ("cat",))


def test_a_label_that_the_order_lacks_is_refused_by_name(tmp_path: Path):
    with pytest.raises(InputError, match=r"'sheep' is not among the 2 labels of .*/o$"):
        order(tmp_path, "o", "dog\ncat").labels()
    with pytest.raises(InputError, match=r"'cat' is not among the 2 labels of .*/o, nor are 1 more$"):
        order(tmp_path, "o", "dog\nhorse").labels()
