"""Training stays finite, and the label graph stays a graph, with every preset, from many seeds.

The training loop is the real one, with 80 labels and GloVe's vectors of COCO's names where they are there. All
widths but those two are cut down, so that 60,000 steps take minutes: neither infinities nor the balance of L_M
and L_A hang on them, which the figures at full width in the README confirm.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lglm_core.data.loader import Batch
from lglm_core.recipe import PRESETS

GLOVE = Path(__file__).parents[3] / "shared/data/glove/glove.6B.300d.slice.txt"
LABELS = 80
NARROW: dict[str, Any] = {"d_l": 128, "graph_width": 64, "m": 64}
FEATURES = 64
PICTURES = 320
BATCH = 32
EVERY_PRESET = pytest.mark.parametrize("preset", PRESETS)
EVERY_FUSION = pytest.mark.parametrize("fusion", ["mfc", "dot"])


@dataclass(frozen=True)
class Pictures:
    """Pooled features [N, D, 1, 1] and labels int8 [N, C]."""

    maps: Tensor
    targets: Tensor

    def batches(self, steps: int, rng: torch.Generator) -> Iterator[Batch]:
        for _ in range(steps):
            rows = torch.randint(len(self.maps), (BATCH,), generator=rng)
            yield Batch(self.maps[rows], self.targets[rows], torch.ones(BATCH), BATCH, rows.numpy())


def draw_pictures(width: int, seed: int) -> Pictures:
    """Labels as rare as COCO's, 2.9 a picture; features as a ReLU and a maximum leave them.

    Positive, skewed, of very different scale from one to the next, some always zero; each label raises some.
    """
    rng = torch.Generator().manual_seed(seed)
    share = torch.rand(LABELS, generator=rng) ** 3
    share = (share * 2.9 / share.sum()).clamp(0.002, 0.6)
    targets = (torch.rand(PICTURES, LABELS, generator=rng) < share).to(torch.int8)
    traces = torch.randn(LABELS, width, generator=rng)
    scale = torch.exp(torch.randn(width, generator=rng))
    features = (targets.float() @ traces + torch.randn(PICTURES, width, generator=rng)).relu() * scale
    features[:, : width // 20] = 0
    return Pictures(features[:, :, None, None], targets)
