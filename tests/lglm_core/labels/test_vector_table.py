"""Ready-made vectors are matched to labels by name, whatever the order of the rows."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lglm_core import storage
from lglm_core.errors import InputError
from lglm_core.labels.cooccurrence import cooccurrence_embeddings, fill_by_cooccurrence
from lglm_core.labels.embeddings import LabelEmbeddings
from lglm_core.labels.vector_table import ready_made_embeddings
from lglm_core.labels.vocabulary import LabelVocabulary

LABELS = LabelVocabulary(["stop sign", "cat", "7"])
ROWS = {"cat": [1.0, 2.5], "of no label": [9.0, 9.0], "7": [0.0, 0.0], "stop sign": [-3.0, 1e-3]}


def write(path: Path, rows: Any = ROWS) -> str:
    """Write rows in the format of the suffix."""
    pairs = list(rows.items()) if isinstance(rows, dict) else rows
    if path.suffix == ".json":
        path.write_text("{" + ", ".join(f"{json.dumps(name)}: {json.dumps(v)}" for name, v in pairs) + "}")
    elif path.suffix == ".csv":
        lines = ["label,x,y", *(",".join([f'"{name}"', *map(str, vector)]) for name, vector in pairs)]
        path.write_text("\ufeff" + "\r\n".join(lines) + "\r\n")
    else:
        names, vectors = zip(*pairs, strict=True)
        pq.write_table(pa.table({"vector": list(vectors), "else": names, "label": names}), path)
    return str(path)


@pytest.fixture(params=["json", "csv", "parquet"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A file of each format."""
    return tmp_path / f"vectors.{request.param}"


def test_each_label_has_the_vector_of_its_name(path: Path):
    embeddings, others = ready_made_embeddings(LABELS, write(path))
    np.testing.assert_array_equal(embeddings.vectors, np.array([[-3, 1e-3], [1, 2.5], [0, 0]], np.float32))
    assert (embeddings.labels, embeddings.source, others) == (LABELS, "vectors", 1)


def test_the_order_of_the_rows_does_not_matter(path: Path):
    before, _ = ready_made_embeddings(LABELS, write(path))
    after, _ = ready_made_embeddings(LABELS, write(path, list(ROWS.items())[::-1]))
    assert after.digest == before.digest


def test_a_vector_of_zeros_is_reported_as_none(path: Path):
    embeddings, _ = ready_made_embeddings(LABELS, write(path))
    assert embeddings.origin == ("vectors", "vectors", "zero")
    assert (embeddings.words[2], embeddings.missing[2]) == ((), ("7",))


def test_labels_without_a_row_are_refused_with_the_closest_names(path: Path):
    labels = LabelVocabulary(["cat", "stop signs", "zebra"])
    with pytest.raises(InputError, match=r"no vector of 'stop signs' \(closest: stop sign\), 'zebra'; every"):
        ready_made_embeddings(labels, write(path))


def test_a_name_given_twice_is_refused_even_if_no_label_has_it(path: Path):
    rows = [*ROWS.items(), ("of no label", [1.0, 1.0])]
    with pytest.raises(InputError, match=r"'of no label'.*this name is given twice"):
        ready_made_embeddings(LABELS, write(path, rows))


@pytest.mark.parametrize(
    ("vector", "complaint"),
    [
        ([1.0], r"1 numbers found, 2 expected as in .*\('cat'\)"),
        ([1.0, 2.0, 3.0], "3 numbers found, 2 expected"),
        ([1.0, float("nan")], "not finite"),
        ([1e39, 0.0], "not finite"),  # but finite in float64
    ],
)
def test_a_row_of_another_width_or_without_a_value_is_refused_by_name(
    path: Path, vector: list[float], complaint: str
):
    with pytest.raises(InputError, match=rf"vectors\.{path.suffix[1:]}.*\('of no label'\): .*{complaint}"):
        ready_made_embeddings(LABELS, write(path, ROWS | {"of no label": vector}))


@pytest.mark.parametrize(
    "value", ['"many"', '["x", "y"]', "null", '{"x": 1}', "[]", "[[1, 2]]", "1", f"[{10**400}]"]
)
def test_a_json_value_that_is_no_vector_is_refused_by_name(tmp_path: Path, value: str):
    (tmp_path / "v.json").write_text('{"cat": ' + value + "}")
    with pytest.raises(InputError, match=r"v\.json \('cat'\)"):
        ready_made_embeddings(LABELS, f"{tmp_path}/v.json")


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("v.json", '[["cat", [1, 2]]]', "expected one JSON object"),
        ("v.json", '{"cat": [1, 2]', "not JSON"),
        ("v.csv", "cat,1,2\n", "the first line names the columns, of which 'label' is the first"),
        ("v.csv", "", "the first line names the columns"),
        ("v.csv", "label,x\ncat,many\n", r"line 2 \('cat'\): not all numbers"),
        ("v.csv", "label,x\ncat\n", r"line 2 \('cat'\): a list of numbers was expected"),
        ("v.parquet", "text", "not a readable Parquet file"),
        ("v.npy", "text", r"a \.parquet, \.json or \.csv file, not a \.npy"),
    ],
)
def test_a_file_that_holds_no_vectors_is_refused(tmp_path: Path, name: str, content: str, complaint: str):
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=f"{name}.*{complaint}"):
        ready_made_embeddings(LABELS, f"{tmp_path}/{name}")


@pytest.mark.parametrize(
    ("columns", "complaint"),
    [
        ({"name": ["cat"], "vector": [[1.0]]}, "no column 'label' of text; found name"),
        ({"label": [1], "vector": [[1.0]]}, "no column 'label' of text"),
        ({"label": ["cat"], "vector": [1.0]}, "no column 'vector' of lists"),
    ],
)
def test_a_table_without_its_columns_is_refused(tmp_path: Path, columns: dict[str, list], complaint: str):
    pq.write_table(pa.table(columns), tmp_path / "v.parquet")
    with pytest.raises(InputError, match=complaint):
        ready_made_embeddings(LABELS, f"{tmp_path}/v.parquet")


def test_every_kind_of_list_and_number_is_accepted(tmp_path: Path):
    names = pa.array(list(LABELS), pa.large_string())
    for kind in (pa.list_(pa.float32(), 2), pa.large_list(pa.float64()), pa.list_(pa.int8())):
        vectors = pa.array([[1, 2], [3, 4], [5, 6]], kind)
        pq.write_table(pa.table({"label": names, "vector": vectors}), tmp_path / "v.parquet")
        embeddings, _ = ready_made_embeddings(LABELS, f"{tmp_path}/v.parquet")
        assert embeddings.vectors.tolist() == [[1, 2], [3, 4], [5, 6]]


def test_our_own_table_of_word_vectors_is_accepted(tmp_path: Path):
    origin = ("glove", "alias", "zero")
    vectors = np.array([[1, 2], [3, 4], [0, 0]], np.float32)
    before = LabelEmbeddings(LABELS, vectors, (("a",),) * 3, ((),) * 3, origin, "glove")
    before.save(f"{tmp_path}/e.parquet")
    after, _ = ready_made_embeddings(LabelVocabulary(["cat", "stop sign"]), f"{tmp_path}/e.parquet")
    assert after.vectors.tolist() == [[3, 4], [1, 2]]


def test_our_own_table_of_vectors_learned_from_pictures_is_refused(tmp_path: Path):
    """They depend on held-out labels, and their table would no longer tell so."""
    targets = np.array([[1, 1, 0], [0, 0, 1], [1, 0, 0]])
    words = (("stop",), ("cat",), ())
    named = LabelEmbeddings(
        LABELS, np.eye(3, dtype=np.float32), words, ((),) * 3, ("glove", "zero", "glove"), "glove"
    )
    for embeddings in (cooccurrence_embeddings(LABELS, targets), fill_by_cooccurrence(named, targets)):
        embeddings.save(f"{tmp_path}/e.parquet")
        with pytest.raises(InputError, match="vectors from the co-occurrence of labels in one dataset"):
            ready_made_embeddings(LABELS, f"{tmp_path}/e.parquet")


def test_secrets_of_an_address_are_not_shown_and_do_not_hide_the_suffix(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(storage, "read_bytes", lambda _: b'{"cat": [1], "cat": [2]}')
    with pytest.raises(InputError, match=r"^http://host/v\.json \('cat'\): this name is given twice"):
        ready_made_embeddings(LABELS, "http://me:secret@host/v.json?token=secret")
