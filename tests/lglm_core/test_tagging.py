from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from lglm_core.model.recogniser import Recogniser
from lglm_core.tagging import Tagger


@pytest.fixture(scope="module")
def tagger(model_room: Path) -> Tagger:
    return Tagger.load(str(model_room), threads=1)


@pytest.fixture(scope="module")
def pictures(encode: Callable[..., bytes]) -> list[bytes]:
    """Of 32 pixels, so that nothing is resized, and without loss."""
    rng = np.random.default_rng(0)
    return [encode(Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8))) for _ in range(5)]


def normalised(pictures: list[bytes]) -> torch.Tensor:
    import io

    pixels = np.stack([np.asarray(Image.open(io.BytesIO(data)), dtype=np.float32) for data in pictures]) / 255
    standardised = (pixels - np.float32([0.485, 0.456, 0.406])) / np.float32([0.229, 0.224, 0.225])
    return torch.from_numpy(standardised).permute(0, 3, 1, 2)


def test_scores_are_those_of_the_unfolded_model(tagger: Tagger, trained_model: Recogniser, pictures: list[bytes]):
    with torch.no_grad():
        expected = trained_model(normalised(pictures)).logits.sigmoid().numpy()
    assert expected.std(axis=0).max() > 0.01
    np.testing.assert_allclose(tagger.recognise(pictures).scores, expected, rtol=0, atol=1e-5)


def test_features_are_those_of_the_backbone(tagger: Tagger, trained_model: Recogniser, pictures: list[bytes]):
    with torch.no_grad():
        expected = F.adaptive_max_pool2d(trained_model.backbone.feature_map(normalised(pictures)), 1).flatten(
            1
        )
    np.testing.assert_allclose(tagger.recognise(pictures).features, expected.numpy(), rtol=1e-4, atol=1e-4)


def test_an_unreadable_picture_among_good_ones_is_reported_at_its_position(
    tagger: Tagger, pictures: list[bytes]
):
    recognition = tagger.recognise([pictures[0], b"", pictures[1], b"a letter", pictures[2][:60]])
    assert recognition.read == (0, 2)
    assert {position: error.reason for position, error in recognition.errors.items()} == {
        1: "empty",
        3: "not_an_image",
        4: "corrupt",
    }


def test_unreadable_neighbours_change_no_score(tagger: Tagger, pictures: list[bytes]):
    recognition = tagger.recognise([b"", pictures[0], b"", pictures[1]])
    np.testing.assert_allclose(recognition.scores, tagger.recognise(pictures[:2]).scores, rtol=0, atol=1e-6)


@pytest.mark.parametrize("images", [[], [b"", b"x"]])
def test_where_nothing_can_be_read_the_tables_are_empty_but_wide(tagger: Tagger, images: list[bytes]):
    recognition = tagger.recognise(images)
    assert (recognition.features.shape, recognition.scores.shape) == ((0, 576), (0, 3))
    assert len(recognition.errors) == len(images)


def test_other_sizes_and_modes_are_squashed_to_the_square(tagger: Tagger, encode: Callable[..., bytes]):
    wide = encode(Image.new("L", (300, 7), 90), "JPEG")
    square = encode(Image.new("RGB", (32, 32), (90, 90, 90)))
    scores = tagger.recognise([wide, square]).scores
    np.testing.assert_allclose(scores[0], scores[1], atol=1e-4)


def test_tags_are_thresholded_per_label_and_sorted_by_score(tagger: Tagger):
    own = Tagger(
        tagger.backbone, tagger.head, tagger.labels, (0.5, 0.2, 0.9), tagger.preprocessing, threads=1
    )
    scores = np.array([[0.6, 0.7, 0.8], [0.5, 0.1, 0.95], [0.1, 0.1, 0.1]], np.float32)
    assert own.tags(scores) == [[1, 0], [2, 0], []]


def test_a_score_at_its_threshold_counts(tagger: Tagger):
    own = Tagger(
        tagger.backbone, tagger.head, tagger.labels, (0.3, 0.3, 0.3), tagger.preprocessing, threads=1
    )
    assert own.tags(np.full((1, 3), 0.3, np.float32)) == [[0, 1, 2]]
