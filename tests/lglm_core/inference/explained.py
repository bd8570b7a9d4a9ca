"""The trained model of the tests, made fit for explaining larger pictures."""

from dataclasses import replace
from pathlib import Path

import torch

from lglm_core.images.transforms import Preprocessing
from lglm_core.model.bundle import Bundle, load_bundle

SIDE = 96  # pixels; the feature map then has 3 × 3 cells


def load_for_maps(model_room: Path, size: int = SIDE) -> Bundle:
    """Load the model for larger pictures, with their batch statistics, so that activations stay in range."""
    bundle = load_bundle(str(model_room))
    for module in bundle.model.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.momentum = 1.0
    with torch.no_grad():
        bundle.model.train()(
            (torch.rand(16, 3, size, size, generator=torch.Generator().manual_seed(0)) - 0.45) / 0.225
        )
    bundle.model.eval()
    return replace(bundle, preprocessing=Preprocessing(size))
