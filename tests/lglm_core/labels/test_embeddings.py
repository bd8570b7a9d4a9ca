from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lglm_core.errors import InputError
from lglm_core.labels.embeddings import LabelEmbeddings
from lglm_core.labels.vocabulary import LabelVocabulary


@pytest.fixture
def embeddings() -> LabelEmbeddings:
    vectors = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    labels = LabelVocabulary(["cat", "stop sign", "yeti"])
    words, missing = (("cat",), ("stop", "sign"), ()), ((), (), ("yeti",))
    return LabelEmbeddings(labels, vectors, words, missing, ("glove", "alias", "zero"), "glove")


def test_saving_and_loading_keeps_everything(embeddings: LabelEmbeddings, tmp_path: Path):
    embeddings.save(f"{tmp_path}/e.parquet")
    loaded = LabelEmbeddings.load(f"{tmp_path}/e.parquet")
    np.testing.assert_array_equal(loaded.vectors, embeddings.vectors)
    assert replace(loaded, vectors=embeddings.vectors) == embeddings
    assert loaded.digest == embeddings.digest


@pytest.mark.parametrize("source", ["glove", "ppmi"])
def test_a_table_of_an_earlier_version_has_the_origin_of_its_source(
    embeddings: LabelEmbeddings, tmp_path: Path, source: str
):
    path = tmp_path / "e.parquet"
    replace(embeddings, source=source).save(str(path))
    table = pq.read_table(path)
    pq.write_table(table.drop_columns(["origin"]), path)
    assert LabelEmbeddings.load(str(path)).origin == (source, source, "zero")


def test_a_subset_of_labels_keeps_their_words_and_origin(embeddings: LabelEmbeddings):
    part = embeddings.only(LabelVocabulary(["yeti", "stop sign"]))
    np.testing.assert_array_equal(part.vectors, embeddings.vectors[[2, 1]])
    assert (part.words, part.missing) == (((), ("stop", "sign")), (("yeti",), ()))
    assert (part.origin, part.source) == (("zero", "alias"), "glove")


def test_vectors_of_words_are_learned_from_no_pictures(embeddings: LabelEmbeddings):
    assert not embeddings.learned_from_pictures
    assert embeddings.learned_from("cat") is None


def test_a_mean_is_learned_from_its_own_label_and_from_the_labels_in_it(embeddings: LabelEmbeddings):
    words, origin = (("cat",), ("stop", "sign"), ("cat",)), ("glove", "alias", "cooccurrence")
    filled = replace(embeddings, words=words, origin=origin)
    assert filled.learned_from_pictures
    assert [filled.learned_from(name) for name in filled.labels] == ["yeti", None, "yeti"]


def test_ppmi_vectors_are_learned_from_all_labels_together(embeddings: LabelEmbeddings):
    counted = replace(embeddings, origin=("ppmi", "ppmi", "zero"), source="ppmi")
    assert counted.learned_from_pictures
    assert counted.learned_from("yeti") == "cat"


def test_the_digest_depends_on_labels_and_vectors(embeddings: LabelEmbeddings):
    renamed = replace(embeddings, labels=LabelVocabulary("abc"))
    moved = replace(embeddings, vectors=embeddings.vectors + 1)
    assert len({embeddings.digest, renamed.digest, moved.digest}) == 3


def test_changed_vectors_are_refused(embeddings: LabelEmbeddings, tmp_path: Path):
    path = tmp_path / "e.parquet"
    embeddings.save(str(path))
    table = pq.read_table(path)
    order = table.column("vector").take([1, 0, 2])
    changed = table.set_column(3, "vector", order)
    pq.write_table(changed.replace_schema_metadata(table.schema.metadata), path)
    with pytest.raises(InputError, match=r"e\.parquet: its vectors do not match its digest"):
        LabelEmbeddings.load(str(path))


def test_another_table_is_refused(tmp_path: Path):
    pq.write_table(pa.table({"label": ["a", "b"]}), tmp_path / "e.parquet")
    why = "not a table of label embeddings; found the columns label, expected label, words"
    with pytest.raises(InputError, match=why):
        LabelEmbeddings.load(f"{tmp_path}/e.parquet")


def test_the_same_vocabulary_is_accepted(embeddings: LabelEmbeddings):
    embeddings.check_labels(LabelVocabulary(["cat", "stop sign", "yeti"]), "e", "d")


def test_the_first_label_that_differs_is_named(embeddings: LabelEmbeddings):
    with pytest.raises(InputError, match="'stop sign' is in the place of 'yeti'; make the label embeddings"):
        embeddings.check_labels(LabelVocabulary(["cat", "yeti", "stop sign"]), "e", "d")


def test_a_longer_vocabulary_is_refused_by_its_length(embeddings: LabelEmbeddings):
    with pytest.raises(InputError, match="3 labels instead of 4"):
        embeddings.check_labels(LabelVocabulary([*embeddings.labels, "zebra"]), "e", "d")
