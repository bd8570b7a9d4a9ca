"""The folded head, compared with the public code's loop over labels and with the backbone."""

import torch
from torch import Tensor

from lglm_core.model.backbone import Backbone
from lglm_core.model.config import LglmConfig
from lglm_core.model.fold import fold
from lglm_core.model.head import Head, LabelKnowledge, pool
from lglm_core.model.heads import build_head
from lglm_core.model.lglm import LabelSide
from tests.benchmarks.fusion import score_in_a_loop
from tests.benchmarks.registry import Measured, benchmark
from tests.benchmarks.timing import in_turns


@benchmark("ms", target=100)
@torch.inference_mode()
def folded_head(images: int = 16, labels: int = 80, width: int = 2048, m: int = 1024) -> Measured:
    """The folded head against the public code's loop over images and labels, both from pooled features.

    The loop gets the label embeddings, so the time of the graph is not included.
    """
    head, side = _head(labels, width, m)
    features, embeddings = torch.rand(images, width), side.layers(side.graph(side.vectors), side.vectors)
    folded = fold(head)

    def loop() -> Tensor:
        return score_in_a_loop(head.image_side, side.fusion, features, embeddings)

    torch.testing.assert_close(folded(features), loop(), rtol=1e-3, atol=1e-4)
    ours, theirs = in_turns(lambda: folded(features), loop)
    return Measured(1e3 * ours, 1e3 * theirs, f"{images} pictures, C = {labels}, D = {width}, m = {m}")


@benchmark("ms", target=100)
@torch.inference_mode()
def folded_head_and_backbone(
    backbone: str = "resnet101", image_size: int = 448, images: int = 2, labels: int = 80
) -> Measured:
    """Pooling and folded head against the backbone, of whose time they take at most 1%."""
    torch.manual_seed(0)
    cnn = Backbone(backbone).eval().to(memory_format=torch.channels_last)
    folded = fold(_head(labels, cnn.width, 1024)[0])
    pictures = torch.randn(images, 3, image_size, image_size)
    maps = cnn(pictures)
    ours, theirs = in_turns(lambda: folded(pool(maps, "max")), lambda: cnn(pictures), rounds=3)
    return Measured(
        1e3 * ours, 1e3 * theirs, f"{backbone}, {images} pictures at {image_size}, fp32, channels-last"
    )


def _head(labels: int, width: int, m: int) -> tuple[Head, LabelSide]:
    """Return the paper's head with random weights, in eval mode, and its label side."""
    torch.manual_seed(0)
    config = LglmConfig(m=m, conditioning="text")
    head = build_head("lglm", config, width, LabelKnowledge(labels, torch.randn(labels, 300))).eval()
    assert isinstance(head.label_side, LabelSide)
    return head, head.label_side
