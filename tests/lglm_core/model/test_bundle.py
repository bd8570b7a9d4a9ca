import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from lglm_core.data.transforms import Preprocessing
from lglm_core.errors import DamageError, InputError
from lglm_core.label_embeddings import LabelEmbeddings
from lglm_core.labels import LabelVocabulary
from lglm_core.model.bundle import load_bundle
from lglm_core.model.recogniser import Recogniser


@pytest.fixture
def room(model_room: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(model_room, tmp_path / "model"))


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_loaded_model_gives_the_same_logits(model_room: Path, trained_model: Recogniser):
    images = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = trained_model(images)
        loaded = load_bundle(str(model_room)).model(images)
    torch.testing.assert_close(loaded.logits, expected.logits, rtol=0, atol=0)
    torch.testing.assert_close(loaded.graph, expected.graph, rtol=0, atol=0)


def test_labels_vectors_thresholds_and_size_come_along(model_room: Path, shape_embeddings: LabelEmbeddings):
    bundle = load_bundle(str(model_room))
    assert bundle.labels == shape_embeddings.labels
    np.testing.assert_array_equal(bundle.embeddings.vectors, shape_embeddings.vectors)
    assert bundle.thresholds == (0.5, 0.5, 0.5)
    assert bundle.preprocessing == Preprocessing(32)


def test_the_room_holds_no_pickle(model_room: Path):
    assert {path.suffix for path in model_room.iterdir()} == {".safetensors", ".json", ".parquet", ".md"}
    assert not [path.name for path in model_room.iterdir() if path.read_bytes()[:2] in (b"\x80\x02", b"PK")]


def test_thresholds_are_read_by_label(room: Path):
    """The file may list them in any order."""
    edit(room / "thresholds.json", striped=0.7, bright=0.1)
    assert load_bundle(str(room)).thresholds == (0.1, 0.5, 0.7)


def test_a_label_without_threshold_is_refused_by_name(room: Path):
    (room / "thresholds.json").write_text('{"bright": 0.5, "red": 0.5}')
    with pytest.raises(InputError, match=r"thresholds\.json: no threshold for 'striped'"):
        load_bundle(str(room))


def test_edited_labels_are_refused_by_name(room: Path):
    LabelVocabulary(["red", "bright", "striped"]).save(f"{room}/labels.json")
    with pytest.raises(InputError, match=r"labels\.json: not the one this model was trained with"):
        load_bundle(str(room))


def test_swapped_label_embeddings_are_refused_by_name(room: Path, shape_embeddings: LabelEmbeddings):
    e = shape_embeddings
    LabelEmbeddings(e.labels, e.vectors[::-1], e.words, e.missing, e.source).save(
        f"{room}/label_embeddings.parquet"
    )
    with pytest.raises(
        InputError, match=r"label_embeddings\.parquet: not the one this model was trained with"
    ):
        load_bundle(str(room))


def test_a_flipped_bit_in_the_weights_is_refused_by_name(room: Path):
    weights = bytearray((room / "model.safetensors").read_bytes())
    weights[-5] ^= 1
    (room / "model.safetensors").write_bytes(weights)
    with pytest.raises(DamageError, match=r"model\.safetensors: not the file that was written"):
        load_bundle(str(room))


def test_truncated_weights_are_refused_by_name(room: Path):
    weights = (room / "model.safetensors").read_bytes()
    (room / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    with pytest.raises(DamageError, match=r"model\.safetensors"):
        load_bundle(str(room))


def test_a_config_of_another_head_is_refused_by_name(room: Path):
    config = json.loads((room / "config.json").read_text())
    edit(room / "config.json", head_config=config["head_config"] | {"m": 24})
    with pytest.raises(InputError, match=r"model\.safetensors: not the weights that config\.json describes"):
        load_bundle(str(room))


@pytest.mark.parametrize(
    "name", ["config.json", "labels.json", "label_embeddings.parquet", "model.safetensors"]
)
def test_a_missing_file_is_refused_by_name(room: Path, name: str):
    (room / name).unlink()
    with pytest.raises(InputError, match=name):
        load_bundle(str(room))


def test_a_folder_without_manifest_is_no_model(room: Path):
    (room / "manifest.json").unlink()
    with pytest.raises(InputError, match=r"no complete model room there.*lglm train writes one"):
        load_bundle(str(room))


def test_another_preprocessing_is_read_as_it_was_written(room: Path):
    edit(room / "config.json", preprocessing={"image_size": 64, "mean": [0.5] * 3, "std": [0.25] * 3})
    assert load_bundle(str(room)).preprocessing == Preprocessing(64, (0.5,) * 3, (0.25,) * 3)
