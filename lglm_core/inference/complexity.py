"""What a model costs: its parameters, and the multiply-accumulates of one picture, of Table 2 of the paper.

Everything happens on torch's meta device, where tensors have shapes and no numbers: no weights, no data, and
no time.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from lglm_core.model.backbone import Backbone, refuse_too_small
from lglm_core.model.config import HeadConfig, LglmConfig
from lglm_core.model.head import Head, LabelKnowledge
from lglm_core.model.heads import build_head

PART_NAMES = {
    "label_side.graph": "label graph",
    "label_side.layers": "graph layers",
    "label_side.fusion.projection": "label projection",
    "label_side.fusion.norm": "label normalisation",
    "label_side.fusion.score": "score",
    "label_side.residual": "residual weights",
    "image_side.projection": "image projection",
    "image_side.bias": "biases",
    "image_side.linear": "linear layer",
}
DRESS = re.compile(r"^aten\._?(native_)?|_legit_no_training|_with_indices|_$")  # of torch's names
MOVES = {
    "to_copy",
    "unsafe_view",
    "arange",
    "cat",
    "clone",
    "copy",
    "detach",
    "empty",
    "eye",
    "fill_diagonal",
}
MOVES |= {"full", "lift_fresh", "new_zeros", "ones", "repeat", "stack", "zeros"}


@dataclass(frozen=True)
class Setting:
    """What the models that are compared have in common."""

    backbone: str = "resnet101"
    image_size: int = 448
    labels: int = 80
    vector_width: int = 300


PAPER_SETTING = Setting()


@dataclass(frozen=True)
class PaperFigures:
    """A row of the paper's Table 2, in millions of parameters and 10⁹ "FLOPs"."""

    parameters: float
    flops: float


PAPER_FIGURES = {
    "ml-gcn": PaperFigures(42.50, 31.37),
    "a-gcn": PaperFigures(42.57, 31.37),
    "lglm": PaperFigures(44.04, 31.37),
}


def paper_figures(setting: Setting, name: str, config: HeadConfig) -> PaperFigures | None:
    """Return what the paper lists for a head, if it lists that head in that setting."""
    without_mfc = isinstance(config, LglmConfig) and config.fusion != "mfc"
    return None if without_mfc or setting != PAPER_SETTING else PAPER_FIGURES.get(name)


@dataclass(frozen=True)
class Operations:
    """Multiply-accumulates of convolutions and matrix products, and what else ran, by torch's names."""

    macs: int
    not_counted: frozenset[str]


@dataclass(frozen=True)
class Complexity:
    """What one model costs.

    ``parts`` are the parameters of the head's parts, by name. ``macs_label_side`` are needed once for a
    model, the others once per picture. What is left after folding is None for a head that does not fold.
    """

    backbone: int
    parts: Mapping[str, int]
    macs_backbone: int
    macs_image_side: int
    macs_label_side: int
    folded: int | None
    macs_folded: int | None
    not_counted: frozenset[str]

    @property
    def parameters(self) -> int:
        """All of them, as they are trained."""
        return self.backbone + sum(self.parts.values())

    @property
    def macs(self) -> int:
        """Those of one picture, with the label side run for it."""
        return self.macs_backbone + self.macs_image_side + self.macs_label_side


@torch.inference_mode()
def complexities(setting: Setting, heads: Sequence[tuple[str, HeadConfig]]) -> list[Complexity]:
    """Count what a backbone with each of *heads* costs.

    Raises:
        InputError: no such backbone, or pictures too small for it.
    """
    with torch.device("meta"):
        backbone = Backbone(setting.backbone)
        refuse_too_small(backbone, setting.image_size)
        backbone.eval()
        picture = torch.zeros(1, 3, setting.image_size, setting.image_size)
        feature_map, reading = count_operations(backbone, picture)
        knowledge = LabelKnowledge(
            setting.labels,
            torch.zeros(setting.labels, setting.vector_width),
            torch.zeros(setting.labels, setting.labels, dtype=torch.int64),
        )
        return [
            _complexity(backbone, reading, feature_map, build_head(name, config, backbone.width, knowledge))
            for name, config in heads
        ]


def _complexity(backbone: Backbone, reading: Operations, feature_map: Tensor, head: Head) -> Complexity:
    head.eval()
    weights, label_side = None, Operations(0, frozenset())
    if head.label_side is not None:
        side, label_side = count_operations(head.label_side)
        weights = side.weights
    prediction, image_side = count_operations(head.image_side, feature_map, weights)
    own, layer = parameters(backbone), backbone.width * prediction.logits.shape[1]
    foldable = head.config.foldable
    return Complexity(
        backbone=own,
        parts=parts(head),
        macs_backbone=reading.macs,
        macs_image_side=image_side.macs,
        macs_label_side=label_side.macs,
        folded=own + layer + prediction.logits.shape[1] if foldable else None,
        macs_folded=reading.macs + layer if foldable else None,
        not_counted=reading.not_counted | image_side.not_counted | label_side.not_counted,
    )


def parameters(module: nn.Module) -> int:
    """Count a module's parameters; statistics, label vectors and counted graphs are none."""
    return sum(parameter.numel() for parameter in module.parameters())


def parts(head: Head) -> dict[str, int]:
    """Count the parameters of a head by its parts."""
    found: Counter[str] = Counter()
    for name, parameter in head.named_parameters():
        known = next((part for part in PART_NAMES if f"{name}.".startswith(f"{part}.")), None)
        found[PART_NAMES[known] if known else name.split(".")[1].replace("_", " ")] += parameter.numel()
    order = list(PART_NAMES.values())
    return dict(sorted(found.items(), key=lambda part: order.index(part[0]) if part[0] in order else -1))


def count_operations(module: nn.Module, *arguments: Any) -> tuple[Any, Operations]:
    """Run *module* and return its result, and what it took."""
    counter = FlopCounterMode(display=False, custom_mapping=_MATRIX_TIMES_VECTOR)
    seen = _Seen()
    with seen, counter:  # the counter first: it takes apart what torch has put together
        result = module(*arguments)
    counted = {str(operation) for operation in counter.flop_registry}
    names = (DRESS.sub("", operation) for operation in seen.operations - counted)
    return result, Operations(
        counter.get_total_flops() // 2,
        frozenset(names) - MOVES,
    )


def _matrix_times_vector(matrix: Sequence[int], *_: Any, **__: Any) -> int:
    return 2 * matrix[0] * matrix[1]


# torch's counter leaves it out; SS-GRL's attention is one.
_MATRIX_TIMES_VECTOR = {torch.ops.aten.mv: _matrix_times_vector}


class _Seen(TorchDispatchMode):
    """Notes which operations run, views apart."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Note one, and run it."""
        if not func.is_view:
            self.operations.add(str(func.overloadpacket))
        return func(*args, **(kwargs or {}))
