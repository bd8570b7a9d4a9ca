import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from lglm_core import rooms
from lglm_core.errors import DamageError, InputError
from lglm_core.images.transforms import Preprocessing
from lglm_core.labels.embeddings import LabelEmbeddings
from lglm_core.labels.vocabulary import LabelVocabulary
from lglm_core.model.backbone import Backbone
from lglm_core.model.bundle import load_bundle, save_bundle
from lglm_core.model.config import HEADS
from lglm_core.model.head import LabelKnowledge
from lglm_core.model.recogniser import Recogniser
from tests.lglm_core.model.small_heads import VARIANTS, small_head

pytestmark = pytest.mark.weighty

PROVENANCE = rooms.Provenance(rooms.ModelManifest, {"dataset": "d" * 64}, {"seed": 0})


@pytest.fixture
def room(model_room: Path, tmp_path: Path) -> Path:
    """A copy of the model room that a test may damage."""
    return Path(shutil.copytree(model_room, tmp_path / "model"))


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_loaded_model_gives_the_same_logits_and_the_same_graph(model_room: Path, trained_model: Recogniser):
    images = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    loaded = load_bundle(str(model_room)).model
    with torch.no_grad():
        assert torch.equal(loaded(images).logits, trained_model(images).logits)
        ours, theirs = loaded.head.label_weights(), trained_model.head.label_weights()
    assert ours is not None and theirs is not None
    assert torch.equal(ours.graph, theirs.graph)


def save_small(
    variant: str, url: Path, embeddings: LabelEmbeddings, randomise: Callable[..., None]
) -> Recogniser:
    """Save a variant of a head on a network of timm, with weights as if trained."""
    config = HEADS[VARIANTS[variant][0]]
    vectors = torch.from_numpy(embeddings.vectors.copy()) if config.needs_vectors else None
    counts = torch.tensor([[9, 1, 7], [1, 3, 0], [7, 0, 8]]) if config.needs_counts else None
    torch.manual_seed(0)
    backbone = Backbone("timm/test_resnet")
    head = small_head(variant, backbone.width, LabelKnowledge(3, vectors, counts))
    randomise(head)
    model = Recogniser(backbone, head).eval()
    save_bundle(
        rooms.Room(str(url), PROVENANCE),
        model,
        embeddings.labels,
        embeddings=embeddings if config.needs_vectors else None,
        preprocessing=backbone.preprocessing(32),
        facts={},
    )
    return model


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_head_is_loaded_as_it_was_saved(
    variant: str, tmp_path: Path, shape_embeddings: LabelEmbeddings, randomise: Callable[..., None]
):
    saved = save_small(variant, tmp_path / "model", shape_embeddings, randomise)
    loaded = load_bundle(f"{tmp_path}/model").model
    images = torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = saved(images).logits
        assert expected.std(dim=0).min() > 1e-4
        assert torch.equal(loaded(images).logits, expected)
    assert (loaded.head.name, loaded.head.config) == (saved.head.name, saved.head.config)
    assert not loaded.training


def test_the_counted_graph_is_saved_with_the_weights(
    tmp_path: Path, shape_embeddings: LabelEmbeddings, randomise: Callable[..., None]
):
    saved = save_small("ml-gcn", tmp_path / "model", shape_embeddings, randomise).head.label_weights()
    loaded = load_bundle(f"{tmp_path}/model").model.head.label_weights()
    assert saved is not None and loaded is not None
    assert saved.graph[0, 2] > 0 and torch.equal(loaded.graph, saved.graph)


def test_the_room_of_a_head_without_label_vectors_holds_none(
    tmp_path: Path, shape_embeddings: LabelEmbeddings, randomise: Callable[..., None]
):
    save_small("plain", tmp_path / "model", shape_embeddings, randomise)
    assert not (tmp_path / "model/label_embeddings.parquet").exists()
    assert load_bundle(f"{tmp_path}/model").embeddings is None


def test_the_networks_own_mean_and_deviation_are_saved(
    tmp_path: Path, shape_embeddings: LabelEmbeddings, randomise: Callable[..., None]
):
    save_small("plain", tmp_path / "model", shape_embeddings, randomise)
    expected = Preprocessing(32, (0.5,) * 3, (0.5,) * 3)
    assert load_bundle(f"{tmp_path}/model").preprocessing == expected


def test_labels_vectors_thresholds_and_size_are_saved(model_room: Path, shape_embeddings: LabelEmbeddings):
    bundle = load_bundle(str(model_room))
    assert bundle.labels == shape_embeddings.labels
    assert bundle.embeddings is not None
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
    with pytest.raises(InputError, match=r"thresholds\.json: 'striped' has None; a number from 0 to 1"):
        load_bundle(str(room))


@pytest.mark.parametrize("value", ["0,5", None, [0.5], True, float("nan")])
def test_a_threshold_that_is_no_number_is_refused_by_name(room: Path, value: object):
    edit(room / "thresholds.json", red=value)
    with pytest.raises(
        InputError, match=r"thresholds\.json: 'red' has .*; a number from 0 to 1 was expected"
    ):
        load_bundle(str(room))


def test_edited_labels_are_refused_by_name(room: Path):
    LabelVocabulary(["red", "bright", "striped"]).save(f"{room}/labels.json")
    with pytest.raises(InputError, match=r"labels\.json: not the one this model was trained with"):
        load_bundle(str(room))


def test_swapped_label_embeddings_are_refused_by_name(room: Path, shape_embeddings: LabelEmbeddings):
    e = shape_embeddings
    LabelEmbeddings(e.labels, e.vectors[::-1], e.words, e.missing, e.origin, e.source).save(
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
    ("changes", "reason"),
    [
        ({"head": "lgml"}, "head 'lgml' is unknown"),
        ({"head": "plain"}, "the head plain has no option"),
        ({"head_config": {"m": 13, "group": 2}}, "g = 2 does not divide m = 13"),
    ],
)
def test_an_invalid_head_is_refused_by_file_and_reason(room: Path, changes: dict[str, object], reason: str):
    edit(room / "config.json", **changes)
    with pytest.raises(InputError, match=f"config\\.json: .*{reason}"):
        load_bundle(str(room))


@pytest.mark.parametrize("name", ["head", "head_config", "backbone", "preprocessing", "untrained_labels"])
def test_a_config_without_a_field_is_refused_by_name(room: Path, name: str):
    config = json.loads((room / "config.json").read_text())
    del config[name]
    (room / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=rf"config\.json: not the description .* has no '{name}'"):
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
    with pytest.raises(InputError, match=r"no complete model room there \(no manifest\.json\)$"):
        load_bundle(str(room))


def test_another_preprocessing_is_read_as_it_was_written(room: Path):
    edit(room / "config.json", preprocessing={"image_size": 64, "mean": [0.5] * 3, "std": [0.25] * 3})
    assert load_bundle(str(room)).preprocessing == Preprocessing(64, (0.5,) * 3, (0.25,) * 3)


def test_the_model_card_is_saved_beside_the_weights(model_room: Path):
    card = (model_room / "README.md").read_text()
    assert "| epochs | 3 |" in card
    assert 'tagger = Tagger.load(".")' in card
