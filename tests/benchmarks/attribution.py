"""Whether what lglm explain shows adds up to the score."""

import torch

from lglm_core.activation import attribution
from lglm_core.model.backbone import Backbone
from lglm_core.model.config import LglmConfig, Pooling
from lglm_core.model.fold import fold
from lglm_core.model.head import LabelKnowledge
from lglm_core.model.heads import build_head
from tests.benchmarks.registry import Measured, benchmark

LIMIT = 1e-5


@benchmark("error", target=1)
@torch.inference_mode()
def attribution_error(backbone: str = "resnet101", image_size: int = 448, labels: int = 80) -> Measured:
    """How far attribution and bias are from the unfolded model's logit at most, against the limit of 1e-5."""
    torch.manual_seed(0)
    cnn = Backbone(backbone).eval()
    feature_map = cnn(torch.randn(1, 3, image_size, image_size))
    worst = max(_error(feature_map, pooling, labels) for pooling in ("max", "average"))
    return Measured(worst, LIMIT, f"{backbone} at {image_size}, {labels} labels, maximum and average pooling")


def _error(feature_map: torch.Tensor, pooling: Pooling, labels: int) -> float:
    config = LglmConfig(pooling=pooling, conditioning="text")
    knowledge = LabelKnowledge(labels, torch.randn(labels, 300))
    head = build_head("lglm", config, feature_map.shape[1], knowledge).eval()
    logits = head(feature_map).logits
    folded = fold(head).double()
    added = attribution(feature_map.double(), folded.weight, pooling).sum(dim=(2, 3)) + folded.bias
    return float((added - logits).abs().max())
