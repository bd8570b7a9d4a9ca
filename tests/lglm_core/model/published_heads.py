"""ADD-GCN, SS-GRL and VACIT, small enough for tests, and random inputs for them."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lglm_core.model.config import head_config
from lglm_core.model.head import ImageSide, LabelKnowledge
from lglm_core.model.heads import build_head

Array = np.ndarray
SMALL: dict[str, dict[str, Any]] = {
    "add-gcn": {"width": 12},
    "ss-grl": {"d_1": 14, "d_2": 6, "output_width": 11, "state_width": 9},
    "vacit": {},
}
HEADS = tuple(SMALL)
CONDITIONINGS = ("conditioned", "text")
D, C = 10, 5
both_conditionings = pytest.mark.parametrize("conditioning", CONDITIONINGS)
every_head = pytest.mark.parametrize("name", HEADS)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def knowledge(labels: int = C) -> LabelKnowledge:
    """Return random vectors, and the counts of random pictures; the last label has no picture."""
    targets = (torch.rand(50, labels, generator=seeded(1)) < 0.4).long()
    targets[:, -1] = 0
    return LabelKnowledge(labels, 5 * torch.randn(labels, 7, generator=seeded(2)), targets.T @ targets)


def maps(pictures: int, size: tuple[int, int] = (3, 4), width: int = D) -> Tensor:
    """Return random feature maps with values as behind a ReLU, from 0 to about 6."""
    return 2 * torch.randn(pictures, width, *size, generator=seeded(3)).relu()


def image_side_of(
    name: str, known: LabelKnowledge | None = None, feature_width: int = D, **options: Any
) -> Any:
    torch.manual_seed(0)
    config = head_config(name, SMALL[name] | options)
    return build_head(name, config, feature_width, known or knowledge()).image_side


@torch.no_grad()
def as_if_trained(image_side: ImageSide, seed: int = 4) -> Any:
    """Give every weight and running statistic a random value that affects the logits."""
    random = seeded(seed)
    for tensor in image_side.parameters():
        scale = tensor.shape[-1] ** -0.5 if tensor.ndim > 1 else 0.3
        tensor.copy_(scale * torch.randn(tensor.shape, generator=random))
    for module in image_side.modules():
        if isinstance(module, nn.BatchNorm1d):
            module.running_mean.copy_(torch.randn(module.running_mean.shape, generator=random))
            module.running_var.copy_(torch.rand(module.running_var.shape, generator=random) + 0.5)
    return image_side
