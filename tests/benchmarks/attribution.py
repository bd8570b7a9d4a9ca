"""How exactly the attribution adds up to the score."""

import io

import numpy as np
import torch
from PIL import Image
from torch import nn

from lglm_core.inference.attribution import Explainer
from lglm_core.labels.vocabulary import LabelVocabulary
from lglm_core.model.backbone import Backbone
from lglm_core.model.bundle import Bundle
from lglm_core.model.config import LglmConfig, Pooling
from lglm_core.model.head import LabelKnowledge
from lglm_core.model.heads import build_head
from lglm_core.model.recogniser import Recogniser
from tests.benchmarks.registry import Measured, benchmark

LIMIT = 1e-5


@benchmark("error", target=1)
@torch.no_grad()
def attribution_error(backbone: str = "resnet101", image_size: int = 448, labels: int = 80) -> Measured:
    """Largest error of attribution plus bias against the unfolded model's logit; the limit is 1e-5."""
    torch.manual_seed(0)
    cnn = Backbone(backbone)
    _set_statistics(cnn, torch.randn(4, 3, image_size, image_size))
    largest, error = np.max(
        [_error(cnn, pooling, image_size, labels) for pooling in ("max", "average")], axis=0
    )
    note = f"{backbone} at {image_size}, {labels} labels, both poolings, logits up to {largest:.2g}"
    return Measured(float(error), LIMIT, note)


def _error(cnn: Backbone, pooling: Pooling, image_size: int, labels: int) -> tuple[float, float]:
    """Return the largest logit of a picture of noise, and the largest error in explaining a logit."""
    knowledge = LabelKnowledge(labels, torch.randn(labels, 300))
    head = build_head("lglm", LglmConfig(pooling=pooling, conditioning="text"), cnn.width, knowledge)
    explainer = Explainer(_bundle(Recogniser(cnn, head), image_size, labels), torch.device("cpu"))
    explanation = explainer.explain(_picture(image_size))
    logits = head.double()(explanation.feature_map).logits[0].numpy()
    maps = explainer.maps(explanation, explainer.labels.names)
    explained = np.array([each.attribution.sum(dtype=np.float64) + each.bias for each in maps])
    return np.abs(logits).max(), np.abs(explained - logits).max()


def _bundle(model: Recogniser, image_size: int, labels: int) -> Bundle:
    return Bundle(
        model=model,
        labels=LabelVocabulary(tuple(f"label {number}" for number in range(labels))),
        embeddings=None,
        untrained=(),
        thresholds=(0.5,) * labels,
        preprocessing=model.backbone.preprocessing(image_size),
        facts={},
        fingerprint="",
    )


def _set_statistics(cnn: Backbone, pictures: torch.Tensor) -> None:
    """Set a random network's batch statistics, without which its features are extremely large."""
    for module in cnn.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    cnn.train()(pictures)


def _picture(size: int) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (size, size, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()
