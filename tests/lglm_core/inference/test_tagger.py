import io
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from lglm_core.images.transforms import Preprocessing
from lglm_core.inference.tagger import Tagger
from lglm_core.labels.embeddings import LabelEmbeddings
from lglm_core.labels.vocabulary import LabelVocabulary
from lglm_core.model.backbone import Backbone
from lglm_core.model.bundle import Bundle, load_bundle
from lglm_core.model.config import HEADS
from lglm_core.model.head import LabelKnowledge
from lglm_core.model.recogniser import Recogniser
from tests.lglm_core.model.small_heads import VARIANTS, small_head

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def tagger(model_room: Path) -> Tagger:
    return Tagger.load(str(model_room), threads=1)


@pytest.fixture(scope="module")
def pictures(encode: Callable[..., bytes]) -> list[bytes]:
    """Lossless pictures of the model's size, so that nothing is resized."""
    rng = np.random.default_rng(0)
    return [encode(Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8))) for _ in range(5)]


def normalised(
    pictures: list[bytes],
    mean: Sequence[float] = (0.485, 0.456, 0.406),
    std: Sequence[float] = (0.229, 0.224, 0.225),
) -> torch.Tensor:
    pixels = np.stack([np.asarray(Image.open(io.BytesIO(data)), dtype=np.float32) for data in pictures]) / 255
    standardised = (pixels - np.float32(mean)) / np.float32(std)
    return torch.from_numpy(standardised).permute(0, 3, 1, 2)


def test_scores_equal_those_of_the_unfolded_model(
    tagger: Tagger, trained_model: Recogniser, pictures: list[bytes]
):
    with torch.no_grad():
        expected = trained_model(normalised(pictures)).logits.sigmoid().numpy()
    assert expected.std(axis=0).max() > 0.01
    np.testing.assert_allclose(tagger.predict(pictures).scores, expected, rtol=0, atol=5e-5)


def test_features_are_the_maxima_of_the_backbones_map(
    tagger: Tagger, trained_model: Recogniser, pictures: list[bytes]
):
    with torch.no_grad():
        maps = trained_model.backbone(normalised(pictures))
    expected = F.adaptive_max_pool2d(maps, 1).flatten(1).numpy()
    np.testing.assert_allclose(tagger.predict(pictures).features, expected, rtol=1e-4, atol=1e-4)


@pytest.fixture(scope="module")
def squeezenet() -> Backbone:
    """A backbone whose map has four cells for 48 pixels, so that poolings differ."""
    torch.manual_seed(0)
    return Backbone("squeezenet1_1")


def bundle_of(
    variant: str, backbone: Backbone, embeddings: LabelEmbeddings, randomise: Callable[..., None]
) -> Bundle:
    """Return a model as if trained, with a threshold of one half for every label."""
    vectors = torch.from_numpy(embeddings.vectors) / 30  # smaller, so that no score is 0 or 1 in float32
    counts = torch.tensor([[9, 1, 7], [1, 3, 0], [7, 0, 8]])
    head = small_head(variant, backbone.width, LabelKnowledge(3, vectors, counts))
    randomise(head)
    model = Recogniser(backbone, head).eval()
    return Bundle(model, embeddings.labels, None, (), (0.5,) * 3, Preprocessing(48), {}, "f")


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_head_scores_pictures_as_its_whole_model_does(
    variant: str,
    squeezenet: Backbone,
    shape_embeddings: LabelEmbeddings,
    randomise: Callable[..., None],
    encode: Callable[..., bytes],
):
    """This includes heads that do not fold, and all poolings."""
    bundle = bundle_of(variant, squeezenet, shape_embeddings, randomise)
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (3, 48, 48, 3), dtype=np.uint8)
    pictures = [encode(Image.fromarray(picture)) for picture in pixels]
    with torch.no_grad():
        expected = bundle.model(normalised(pictures)).logits.sigmoid().numpy()
    assert expected.std(axis=0).max() > 1e-3
    tagger = Tagger(bundle, CPU, threads=1)
    assert (tagger.folded is None) != HEADS[VARIANTS[variant][0]].foldable
    np.testing.assert_allclose(tagger.predict(pictures).scores, expected, rtol=0, atol=1e-5)


def test_features_are_pooled_as_the_head_pools_them(
    squeezenet: Backbone,
    shape_embeddings: LabelEmbeddings,
    randomise: Callable[..., None],
    encode: Callable[..., bytes],
):
    pixels = np.random.default_rng(0).integers(0, 256, (48, 48, 3), dtype=np.uint8)
    picture = encode(Image.fromarray(pixels))
    bundle = bundle_of("plain average", squeezenet, shape_embeddings, randomise)
    with torch.no_grad():
        maps = squeezenet.eval()(normalised([picture]))
    assert maps.shape[2:] == (2, 2)
    found = Tagger(bundle, CPU, threads=1).predict([picture]).features
    np.testing.assert_allclose(found, maps.mean(dim=(2, 3)).numpy(), rtol=1e-4, atol=1e-4)


def test_pictures_are_prepared_as_the_model_says(model_room: Path, pictures: list[bytes]):
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
    bundle = replace(load_bundle(str(model_room)), preprocessing=Preprocessing(32, mean, std))
    with torch.no_grad():
        expected = bundle.model(normalised(pictures, mean, std)).logits.sigmoid().numpy()
    scores = Tagger(bundle, CPU, threads=1).predict(pictures).scores
    np.testing.assert_allclose(scores, expected, rtol=0, atol=5e-5)


def test_an_unreadable_picture_among_good_ones_is_reported_at_its_position(
    tagger: Tagger, pictures: list[bytes]
):
    predictions = tagger.predict([pictures[0], b"", pictures[1], b"a letter", pictures[2][:60]])
    assert predictions.read == (0, 2)
    assert {position: error.reason for position, error in predictions.errors.items()} == {
        1: "empty",
        3: "not_an_image",
        4: "corrupt",
    }


def test_unreadable_neighbours_change_no_score(tagger: Tagger, pictures: list[bytes]):
    predictions = tagger.predict([b"", pictures[0], b"", pictures[1]])
    np.testing.assert_allclose(predictions.scores, tagger.predict(pictures[:2]).scores, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("images", "found"),
    [
        (b"x", "bytes$"),
        ("photo.jpg", "str$"),
        (Path("photo.jpg"), "Path$"),
        ([b"x", "y"], "str in it$"),
        ([None], "NoneType in it$"),
    ],
)
def test_anything_but_a_list_of_encoded_pictures_is_refused(tagger: Tagger, images: Any, found: str):
    with pytest.raises(
        TypeError, match=rf"a list of encoded pictures was expected, such as \[.*; found .*{found}"
    ):
        tagger.predict(images)


@pytest.mark.parametrize("images", [[], [b"", b"x"]])
def test_without_readable_pictures_the_arrays_are_empty_and_keep_their_widths(
    tagger: Tagger, images: list[bytes]
):
    predictions = tagger.predict(images)
    assert (predictions.features.shape, predictions.scores.shape) == ((0, 576), (0, 3))
    assert len(predictions.errors) == len(images)


def test_other_sizes_and_modes_are_squashed_to_the_square(tagger: Tagger, encode: Callable[..., bytes]):
    wide = encode(Image.new("L", (300, 7), 90), "JPEG")
    square = encode(Image.new("RGB", (32, 32), (90, 90, 90)))
    scores = tagger.predict([wide, square]).scores
    np.testing.assert_allclose(scores[0], scores[1], atol=1e-4)


def with_thresholds(model_room: Path, *thresholds: float) -> Tagger:
    return Tagger(replace(load_bundle(str(model_room)), thresholds=thresholds), CPU, threads=1)


def test_tags_are_thresholded_per_label_and_sorted_by_score(model_room: Path):
    scores = np.array([[0.6, 0.7, 0.8], [0.5, 0.1, 0.95], [0.1, 0.1, 0.1]], np.float32)
    assert with_thresholds(model_room, 0.5, 0.2, 0.9).tags(scores) == [[1, 0], [2, 0], []]


def test_a_score_at_its_threshold_counts(model_room: Path):
    assert with_thresholds(model_room, 0.3, 0.3, 0.3).tags(np.full((1, 3), 0.3, np.float32)) == [[0, 1, 2]]


def test_labels_are_in_column_order(tagger: Tagger, shape_embeddings: LabelEmbeddings):
    assert tagger.labels == shape_embeddings.labels == LabelVocabulary(("bright", "red", "striped"))


def test_a_tagger_shows_head_backbone_labels_size_and_device(tagger: Tagger):
    assert repr(tagger) == "Tagger(lglm on mobilenet_v3_small, 3 labels, 32 × 32, cpu)"
