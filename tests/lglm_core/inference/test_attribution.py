import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils._python_dispatch import TorchDispatchMode

from lglm_core.images.codec import UnreadableImage
from lglm_core.inference.attribution import Explainer, activation, attribution, pooled_contributions
from lglm_core.inference.tagger import Tagger
from lglm_core.model.bundle import Bundle
from lglm_core.model.fold import fold
from lglm_core.model.head import pool
from tests.lglm_core.inference.explained import SIDE, load_for_maps
from tests.lglm_core.model.small_heads import FOLDABLE, draw_knowledge, small_head

POOLINGS = ("max", "average")


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def credited_by_hand(feature_map: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Under max pooling, credit each channel's weight × value to its first largest cell, cell by cell."""
    batch, channels, height, width = feature_map.shape
    credited = np.zeros((batch, len(weight), height, width))
    for b in range(batch):
        for d in range(channels):
            cell = np.unravel_index(np.argmax(feature_map[b, d]), (height, width))
            for label in range(len(weight)):
                credited[b, label][cell] += weight[label, d] * feature_map[b, d][cell]
    return credited


def test_an_activation_map_is_the_weighted_sum_of_the_channels_at_every_cell():
    feature_map, weight = draw(2, 5, 3, 4), draw(3, 5, seed=1)
    maps = activation(feature_map, weight)
    assert maps.shape == (2, 3, 3, 4)
    by_cell = [[weight.numpy() @ feature_map.numpy()[:, :, y, x].T for x in range(4)] for y in range(3)]
    np.testing.assert_allclose(maps, np.array(by_cell).transpose(3, 2, 0, 1), rtol=1e-5, atol=1e-6)


def test_under_average_pooling_the_mean_of_the_activation_map_plus_the_bias_is_the_logit():
    feature_map, weight, bias = draw(2, 5, 3, 4), draw(3, 5, seed=1), draw(3, seed=2)
    logits = feature_map.numpy().mean(axis=(2, 3)) @ weight.numpy().T + bias.numpy()
    np.testing.assert_allclose(activation(feature_map, weight).mean((2, 3)) + bias, logits, atol=1e-5)
    np.testing.assert_allclose(
        attribution(feature_map, weight, "average"), activation(feature_map, weight) / 12, atol=1e-6
    )


def test_under_max_pooling_each_channel_is_credited_to_the_cell_of_its_maximum():
    feature_map, weight = draw(2, 7, 3, 4), draw(3, 7, seed=1)
    expected = credited_by_hand(feature_map.numpy(), weight.numpy())
    np.testing.assert_allclose(attribution(feature_map, weight, "max"), expected, rtol=1e-5, atol=1e-6)


def test_under_max_pooling_neither_mean_nor_maximum_of_the_activation_map_is_the_logit():
    feature_map, weight = draw(1, 7, 3, 4), draw(3, 7, seed=1)
    logits = feature_map.amax((2, 3)) @ weight.T
    maps = activation(feature_map, weight)
    assert ((maps.amax((2, 3)) - logits).abs() > 0.1).all()
    assert ((maps.mean((2, 3)) - logits).abs() > 0.1).all()


def test_only_the_first_of_equal_maxima_is_credited():
    feature_map = torch.tensor([[[[1.0, 3.0], [3.0, 3.0]], [[2.0, 2.0], [2.0, 2.0]]]])
    found = attribution(feature_map, torch.tensor([[1.0, 10.0]]), "max")
    assert found.tolist() == [[[[20.0, 3.0], [0.0, 0.0]]]]


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("shape", [(2, 5, 3, 4), (1, 4, 1, 1), (1, 4, 1, 6)])
def test_contributions_sum_up_to_the_pooled_feature(pooling: str, shape: tuple[int, ...]):
    feature_map = draw(*shape)
    torch.testing.assert_close(
        pooled_contributions(feature_map, pooling).sum((2, 3)), pool(feature_map, pooling)
    )


@pytest.mark.parametrize("variant", FOLDABLE)
def test_attribution_and_bias_are_the_logits_of_every_head_that_folds(
    variant: str, randomise: Callable[..., None]
):
    head = small_head(variant, 20, draw_knowledge(6, 8)).eval()
    randomise(head)
    feature_map = draw(3, 20, 4, 5).relu()
    with torch.no_grad():
        logits, folded = head(feature_map).logits, fold(head)
    assert logits.std() > 0.01
    found = attribution(feature_map, folded.weight, head.image_side.pooling)
    torch.testing.assert_close(found.sum((2, 3)) + folded.bias, logits, rtol=1e-5, atol=1e-5)


class LargestTensor(TorchDispatchMode):
    """Records the size of the largest tensor that any operation returns."""

    elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor):
            self.elements = max(self.elements, result.numel())
        return result


@pytest.mark.parametrize("pooling", POOLINGS)
def test_at_real_sizes_float32_adds_up_and_no_tensor_is_larger_than_the_feature_map(pooling: str):
    feature_map, weight, bias = draw(2, 2048, 14, 14).relu(), 0.03 * draw(80, 2048, seed=1), draw(80, seed=2)
    logits = torch.nn.functional.linear(pool(feature_map, pooling), weight, bias)
    with LargestTensor() as largest:
        found = attribution(feature_map, weight, pooling)
    assert found.dtype == torch.float32
    assert largest.elements <= feature_map.numel()
    assert logits.std() > 0.5
    np.testing.assert_allclose(found.sum((2, 3)) + bias, logits, rtol=0, atol=1e-5)


# --- A model that explains ---


@pytest.fixture(scope="module")
def bundle(model_room: Path) -> Bundle:
    return load_for_maps(model_room)


@pytest.fixture(scope="module")
def explainer(bundle: Bundle) -> Explainer:
    return Explainer(bundle, torch.device("cpu"))


@pytest.fixture(scope="module")
def picture(encode: Callable[..., bytes]) -> bytes:
    """A lossless picture of the model's size, so that nothing is resized."""
    rng = np.random.default_rng(0)
    return encode(Image.fromarray(rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)))


def test_a_trained_model_explains_its_own_logits(explainer: Explainer, bundle: Bundle, picture: bytes):
    pixels = np.asarray(Image.open(io.BytesIO(picture)), dtype=np.float32) / 255
    pixels = (pixels - np.float32([0.485, 0.456, 0.406])) / np.float32([0.229, 0.224, 0.225])
    with torch.no_grad():
        logits = bundle.model(torch.from_numpy(pixels).permute(2, 0, 1)[None]).logits[0].numpy()
    found = explainer.maps(explainer.explain(picture), ["bright", "red", "striped"])
    np.testing.assert_allclose(
        [each.logit for each in found], logits, rtol=0, atol=1e-4
    )  # the memory formats differ
    for each in found:
        assert each.attribution.dtype == each.activation.dtype == np.float32
        assert each.attribution.shape == each.activation.shape == (3, 3)
        assert each.attribution.std() > 0.01
        assert each.attribution.sum(dtype=np.float64) + each.bias == pytest.approx(each.logit, abs=1e-5)
        assert each.probability == pytest.approx(1 / (1 + np.exp(-each.logit)), abs=1e-6)
        assert each.threshold == 0.5


def test_an_explainer_scores_as_the_tagger_does(
    explainer: Explainer, bundle: Bundle, encode: Callable[..., bytes]
):
    wide = encode(Image.fromarray(np.random.default_rng(1).integers(0, 256, (30, 70, 3), dtype=np.uint8)))
    scores = Tagger(bundle, torch.device("cpu"), threads=1).predict([wide]).scores[0]
    np.testing.assert_allclose(explainer.explain(wide).probabilities, scores, rtol=0, atol=1e-6)


def test_a_label_has_the_same_map_alone_and_among_all(explainer: Explainer, picture: bytes):
    explanation = explainer.explain(picture)
    all_maps = explainer.maps(explanation, ["bright", "red", "striped"])
    (alone,) = explainer.maps(explanation, ["striped"])
    np.testing.assert_allclose(alone.attribution, all_maps[2].attribution, atol=1e-6)
    assert (alone.bias, alone.logit) == (all_maps[2].bias, all_maps[2].logit)


def test_bytes_that_are_no_picture_are_refused(explainer: Explainer):
    with pytest.raises(UnreadableImage):
        explainer.explain(b"a letter")
