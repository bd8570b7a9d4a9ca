from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lglm_core.errors import InputError
from lglm_core.label_embeddings import LabelEmbeddings
from lglm_core.labels import LabelVocabulary


@pytest.fixture
def embeddings() -> LabelEmbeddings:
    vectors = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    words = (("cat",), ("stop", "sign"), ())
    return LabelEmbeddings(
        LabelVocabulary(["cat", "stop sign", "yeti"]), vectors, words, ((), (), ("yeti",)), "glove"
    )


def test_saving_and_loading_keeps_everything(embeddings: LabelEmbeddings, tmp_path: Path):
    embeddings.save(f"{tmp_path}/e.parquet")
    loaded = LabelEmbeddings.load(f"{tmp_path}/e.parquet")
    np.testing.assert_array_equal(loaded.vectors, embeddings.vectors)
    assert (loaded.labels, loaded.words, loaded.missing, loaded.source, loaded.digest) == (
        embeddings.labels,
        embeddings.words,
        embeddings.missing,
        embeddings.source,
        embeddings.digest,
    )


def test_the_digest_depends_on_labels_and_vectors(embeddings: LabelEmbeddings):
    renamed = LabelEmbeddings(
        LabelVocabulary("abc"), embeddings.vectors, embeddings.words, embeddings.missing, "glove"
    )
    moved = LabelEmbeddings(
        embeddings.labels, embeddings.vectors + 1, embeddings.words, embeddings.missing, "glove"
    )
    assert len({embeddings.digest, renamed.digest, moved.digest}) == 3


def test_changed_vectors_are_refused(embeddings: LabelEmbeddings, tmp_path: Path):
    path = tmp_path / "e.parquet"
    embeddings.save(str(path))
    table = pq.read_table(path)
    order = table.column("vector").take([1, 0, 2])
    changed = table.set_column(3, "vector", order)
    pq.write_table(changed.replace_schema_metadata(table.schema.metadata), path)
    with pytest.raises(InputError, match=r"e\.parquet: its vectors are not those its digest was made of"):
        LabelEmbeddings.load(str(path))


def test_another_table_is_refused(tmp_path: Path):
    pq.write_table(pa.table({"label": ["a", "b"]}), tmp_path / "e.parquet")
    with pytest.raises(InputError, match="not a table of label embeddings"):
        LabelEmbeddings.load(f"{tmp_path}/e.parquet")


def test_the_same_vocabulary_is_accepted(embeddings: LabelEmbeddings):
    embeddings.check_labels(LabelVocabulary(["cat", "stop sign", "yeti"]), "e", "d")


def test_the_first_label_that_differs_is_named(embeddings: LabelEmbeddings):
    with pytest.raises(InputError, match="'stop sign' stands where 'yeti' does"):
        embeddings.check_labels(LabelVocabulary(["cat", "yeti", "stop sign"]), "e", "d")


def test_a_vocabulary_that_goes_on_is_refused_by_its_length(embeddings: LabelEmbeddings):
    with pytest.raises(InputError, match="3 labels against 4"):
        embeddings.check_labels(LabelVocabulary([*embeddings.labels, "zebra"]), "e", "d")
