"""Functions that take a path as text take a path object as well."""

from pathlib import Path

import numpy as np

from lglm_core import Dataset, LabelEmbeddings, LabelVocabulary, Tagger, load_bundle
from lglm_core.loading.cache import with_cache


def test_a_dataset_is_opened_by_a_path_object(numbered: Dataset, tmp_path: Path):
    dataset = Dataset.open(Path(numbered.url))
    assert dataset == numbered
    cached = with_cache(dataset, tmp_path, 1 << 20).split("train")
    assert cached.read_image(3) == numbered.split("train").read_image(3)
    assert any(tmp_path.iterdir())


def test_a_model_is_opened_by_a_path_object(model_room: Path, shape_embeddings: LabelEmbeddings):
    assert load_bundle(model_room).labels == shape_embeddings.labels
    assert Tagger.load(model_room, threads=1).labels == shape_embeddings.labels


def test_labels_and_their_vectors_are_saved_and_loaded_by_path_objects(
    tmp_path: Path, shape_embeddings: LabelEmbeddings
):
    shape_embeddings.save(tmp_path / "vectors")
    loaded = LabelEmbeddings.load(tmp_path / "vectors")
    np.testing.assert_array_equal(loaded.vectors, shape_embeddings.vectors)
    loaded.labels.save(tmp_path / "labels")
    assert LabelVocabulary.load(tmp_path / "labels") == shape_embeddings.labels
