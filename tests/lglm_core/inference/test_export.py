import copy
import io
import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from PIL import Image
from torch import Tensor

from lglm_core.errors import InputError, RunError
from lglm_core.images.transforms import Preprocessing
from lglm_core.inference import export
from lglm_core.inference.export import folded_model, to_onnx
from lglm_core.inference.tagger import Tagger
from lglm_core.labels.vocabulary import LabelVocabulary
from lglm_core.model.backbone import Backbone
from lglm_core.model.bundle import Bundle
from lglm_core.model.config import HEADS
from lglm_core.model.extend import extend
from lglm_core.model.heads import BUILDERS
from lglm_core.model.recogniser import Recogniser
from tests.lglm_core.model.small_heads import FOLDABLE, draw_knowledge, small_head

pytestmark = pytest.mark.weighty

LABELS = LabelVocabulary(["person", "птица 鳥", 'a "quoted" one'])
THRESHOLDS = (0.1, 0.5, 0.25)
SIZE = 64

Randomise = Callable[..., None]


@cache
def seeded(backbone: str) -> Backbone:
    """Return a backbone to be copied, as building one takes longer than most of these tests."""
    torch.manual_seed(0)
    return Backbone(backbone)


def recogniser(backbone: str, randomise: Randomise, variant: str = "lglm") -> Recogniser:
    """Return a model as if trained; one batch sets the statistics, so that activations stay in range."""
    network = copy.deepcopy(seeded(backbone))
    model = Recogniser(network, small_head(variant, network.width, draw_knowledge(3, 8)))
    for module in network.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.momentum = 1.0
    with torch.no_grad():
        model.backbone(network.preprocessing(SIZE).normalise(pictures(8, seed=1)))
    randomise(model.head)
    with torch.no_grad():
        for name, parameter in model.head.named_parameters():
            if "score" in name:
                parameter *= 0.3  # logits of a few units, as of a trained model
    return model.eval()


def pictures(count: int, seed: int = 0) -> Tensor:
    """Return random uint8 pictures; the first is half black and half white."""
    rng = torch.Generator().manual_seed(seed)
    random = torch.randint(0, 256, (count, 3, SIZE, SIZE), dtype=torch.uint8, generator=rng)
    random[0, :, : SIZE // 2], random[0, :, SIZE // 2 :] = 0, 255
    return random


def as_onnx(model: Recogniser) -> dict[str, bytes]:
    return to_onnx(folded_model(model), model.backbone.preprocessing(SIZE), LABELS, THRESHOLDS)


def session(graph: bytes | str) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


@pytest.fixture(scope="module")
def resnet18(randomise: Randomise) -> Recogniser:
    return recogniser("resnet18", randomise)


@pytest.fixture(scope="module")
def graph(resnet18: Recogniser) -> bytes:
    (data,) = as_onnx(resnet18).values()
    return data


# --- Folded ---


@pytest.mark.parametrize("variant", FOLDABLE)
def test_a_folded_model_gives_the_logits_of_the_model(randomise: Randomise, variant: str):
    model = recogniser("shufflenet_v2_x0_5", randomise, variant)
    images = model.backbone.preprocessing(SIZE).normalise(pictures(5))
    with torch.no_grad():
        ours, theirs = folded_model(model)(images).logits, model(images).logits
    assert theirs.std(dim=0).min() > 0.01
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5 * theirs.abs().max().item())


@pytest.mark.parametrize("name", [name for name in BUILDERS if HEADS[name].foldable and name != "folded"])
def test_a_folded_model_tags_as_the_model_does(randomise: Randomise, name: str):
    """So it also pools as the head did."""
    model = recogniser("shufflenet_v2_x0_5", randomise, name)
    png = io.BytesIO()
    Image.fromarray(pictures(1)[0].permute(1, 2, 0).numpy()).save(png, "PNG")
    preprocessing = model.backbone.preprocessing(SIZE)
    with torch.no_grad():
        expected = model(preprocessing.normalise(pictures(1))).logits.sigmoid().numpy()
    for one in (model, folded_model(model)):
        bundle = Bundle(one, LABELS, None, (), THRESHOLDS, preprocessing, {}, "f")
        scores = Tagger(bundle, torch.device("cpu"), threads=1).predict([png.getvalue()]).scores
        np.testing.assert_allclose(scores, expected, rtol=0, atol=1e-5)


def test_folding_twice_changes_nothing(resnet18: Recogniser):
    once = folded_model(resnet18)
    twice = folded_model(once)
    assert once.head.config == twice.head.config
    for name, tensor in once.state_dict().items():
        torch.testing.assert_close(twice.state_dict()[name], tensor, rtol=0, atol=0)


def test_labels_added_by_name_fold_too(randomise: Randomise):
    model = recogniser("shufflenet_v2_x0_5", randomise)
    longer = extend(model, torch.randn(2, 8, generator=torch.Generator().manual_seed(3)))
    images = model.backbone.preprocessing(SIZE).normalise(pictures(4))
    with torch.no_grad():
        ours, theirs = folded_model(longer)(images).logits, longer(images).logits
    assert ours.shape == (4, 5)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5 * theirs.abs().max().item())


@pytest.mark.parametrize("name", [name for name in BUILDERS if not HEADS[name].foldable])
def test_a_head_that_does_not_fold_is_refused(randomise: Randomise, name: str):
    with pytest.raises(InputError, match=f"the head {name} does not fold"):
        folded_model(recogniser("shufflenet_v2_x0_5", randomise, name))


# --- ONNX ---


def assert_agrees(model: Recogniser, run: Callable[[np.ndarray], Any]) -> None:
    """Assert that *run* gives the unfolded model's logits and features."""
    for count in (1, 2, 7):
        with torch.no_grad():
            maps = model.backbone(model.backbone.preprocessing(SIZE).normalise(pictures(count)))
            expected = model.head(maps).logits.numpy()
        logits, features = run(pictures(count).numpy())
        assert logits.dtype == features.dtype == np.float32
        assert np.abs(expected).max() > 0.1
        np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-4)
        np.testing.assert_allclose(features, maps.amax((2, 3)).numpy(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("mobilenet_v2", marks=pytest.mark.slow),
        "timm/resnet10t",
        pytest.param("timm/efficientnet_lite0", marks=pytest.mark.slow),
    ],
)
def test_onnx_gives_the_logits_of_the_model(randomise: Randomise, name: str):
    model = recogniser(name, randomise)
    (data,) = as_onnx(model).values()
    assert_agrees(model, lambda images: session(data).run(["logits", "features"], {"images": images}))


def test_the_graph_declares_its_inputs_and_outputs(resnet18: Recogniser, graph: bytes):
    running = session(graph)
    assert_agrees(resnet18, lambda images: running.run(["logits", "features"], {"images": images}))
    assert [(v.name, v.type, v.shape) for v in (*running.get_inputs(), *running.get_outputs())] == [
        ("images", "tensor(uint8)", ["N", 3, SIZE, SIZE]),
        ("logits", "tensor(float)", ["N", 3]),
        ("features", "tensor(float)", ["N", 512]),
    ]
    onnx.checker.check_model(onnx.load_from_string(graph), full_check=True)


def test_the_graph_normalises_by_itself(randomise: Randomise):
    """The normalisation is the model's, here another than ImageNet's."""
    model = folded_model(recogniser("squeezenet1_1", randomise))
    preprocessing = Preprocessing(SIZE, (0.5, 0.4, 0.3), (0.25, 0.5, 1.0))
    (data,) = to_onnx(model, preprocessing, LABELS, THRESHOLDS).values()
    pixels = pictures(2).float() / 255
    mean, std = (torch.tensor(values)[:, None, None] for values in (preprocessing.mean, preprocessing.std))
    with torch.no_grad():
        expected = model((pixels - mean) / std).logits.numpy()
    (logits,) = session(data).run(["logits"], {"images": pictures(2).numpy()})
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-4)


def test_labels_thresholds_and_size_are_in_the_metadata(graph: bytes):
    metadata = session(graph).get_modelmeta().custom_metadata_map
    assert json.loads(metadata["labels"]) == list(LABELS)
    assert json.loads(metadata["thresholds"]) == list(THRESHOLDS)
    assert metadata["image_size"] == str(SIZE)


def test_the_same_model_gives_the_same_bytes_without_paths_of_this_machine(
    resnet18: Recogniser, graph: bytes
):
    assert as_onnx(resnet18) == {"model.onnx": graph}
    parsed = onnx.load_from_string(graph)
    assert str(Path(export.__file__).parents[2]).encode() not in graph
    assert not any(node.metadata_props or node.doc_string for node in parsed.graph.node)


def test_large_weights_are_in_a_second_file(
    resnet18: Recogniser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(export, "ONE_FILE_BYTES", 1000)
    files = as_onnx(resnet18)
    assert set(files) == {"model.onnx", "model.onnx.data"}
    assert len(files["model.onnx"]) < 1e6 < len(files["model.onnx.data"])
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    running = session(str(tmp_path / "model.onnx"))
    assert_agrees(resnet18, lambda images: running.run(["logits", "features"], {"images": images}))


def test_the_export_prints_nothing(randomise: Randomise, capfd: pytest.CaptureFixture[str]):
    model = recogniser("squeezenet1_1", randomise)
    capfd.readouterr()
    as_onnx(model)
    assert capfd.readouterr() == ("", "")


class Untraceable(torch.nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images if images.sum() > 0 else -images


def test_a_backbone_that_onnx_cannot_express_is_refused_in_one_line(randomise: Randomise):
    model = folded_model(recogniser("shufflenet_v2_x0_5", randomise))
    model.backbone.cnn = Untraceable()
    with pytest.raises(RunError, match="shufflenet_v2_x0_5 cannot be written as ONNX") as caught:
        to_onnx(model, Preprocessing(SIZE), LABELS, THRESHOLDS)
    assert "\n" not in str(caught.value)
