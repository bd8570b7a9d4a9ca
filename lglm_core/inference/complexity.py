"""The cost of a model, as in Table 2 of the paper: parameters, and multiply-accumulates of one picture.

Everything runs on torch's meta device, where tensors have shapes and no numbers, so that counting needs no
weights, no data and hardly any time.
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

from lglm_core.model.backbone import Backbone, check_image_size
from lglm_core.model.config import HeadConfig, LglmConfig
from lglm_core.model.head import Head, LabelKnowledge
from lglm_core.model.heads import build_head

COMPONENT_NAMES = {
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
DECORATION = re.compile(r"^aten\._?(native_)?|_legit_no_training|_with_indices|_$")
"""What surrounds the plain names in torch's names of operations."""
NOT_ARITHMETIC = {
    *("to_copy", "unsafe_view", "arange", "cat", "clone", "copy", "detach", "empty", "eye"),
    *("fill_diagonal", "full", "lift_fresh", "new_zeros", "ones", "repeat", "stack", "zeros"),
}
"""Operations that create or copy tensors and compute nothing."""


@dataclass(frozen=True)
class Setting:
    """The setting that all compared models share; the image size is in pixels."""

    backbone: str = "resnet101"
    image_size: int = 448
    labels: int = 80
    vector_width: int = 300


PAPER_SETTING = Setting()


@dataclass(frozen=True)
class PaperFigures:
    """A row of the paper's Table 2: millions of parameters, and what it calls FLOPs in units of 10⁹."""

    parameters: float
    flops: float


PAPER_FIGURES = {
    "ml-gcn": PaperFigures(42.50, 31.37),
    "a-gcn": PaperFigures(42.57, 31.37),
    "lglm": PaperFigures(44.04, 31.37),
}


def paper_figures(setting: Setting, name: str, config: HeadConfig) -> PaperFigures | None:
    """Return the figures that the paper lists for a head; None where it lists none in this setting."""
    without_mfc = isinstance(config, LglmConfig) and config.fusion != "mfc"
    return None if without_mfc or setting != PAPER_SETTING else PAPER_FIGURES.get(name)


@dataclass(frozen=True)
class Operations:
    """Multiply-accumulates of convolutions and matrix products, and the names of all other operations."""

    macs: int
    not_counted: frozenset[str]


@dataclass(frozen=True)
class Complexity:
    """The cost of one model.

    ``backbone`` and ``components`` count parameters, the latter by the head's components. ``macs_label_side``
    are spent once per model, the other multiply-accumulates once per picture. ``folded`` (parameters) and
    ``macs_folded`` are None for a head that does not fold.
    """

    backbone: int
    components: Mapping[str, int]
    macs_backbone: int
    macs_image_side: int
    macs_label_side: int
    folded: int | None
    macs_folded: int | None
    not_counted: frozenset[str]

    @property
    def parameters(self) -> int:
        """The number of parameters in training."""
        return self.backbone + sum(self.components.values())

    @property
    def macs(self) -> int:
        """The multiply-accumulates of one picture, including one run of the label side."""
        return self.macs_backbone + self.macs_image_side + self.macs_label_side


@torch.inference_mode()
def complexities(setting: Setting, heads: Sequence[tuple[str, HeadConfig]]) -> list[Complexity]:
    """Return the cost of the setting's backbone with each of *heads*, in their order.

    Args:
        setting: Backbone, image size, labels and width of the label vectors.
        heads: Names and options of heads.

    Raises:
        InputError: there is no such backbone, or the pictures are too small for it.
    """
    with torch.device("meta"):
        backbone = Backbone(setting.backbone)
        check_image_size(backbone, setting.image_size)
        backbone.eval()
        picture = torch.zeros(1, 3, setting.image_size, setting.image_size)
        feature_map, backbone_operations = count_operations(backbone, picture)
        knowledge = LabelKnowledge(
            setting.labels,
            torch.zeros(setting.labels, setting.vector_width),
            torch.zeros(setting.labels, setting.labels, dtype=torch.int64),
        )
        return [
            _complexity(
                backbone,
                backbone_operations,
                feature_map,
                build_head(name, config, backbone.width, knowledge),
            )
            for name, config in heads
        ]


def _complexity(
    backbone: Backbone, backbone_operations: Operations, feature_map: Tensor, head: Head
) -> Complexity:
    head.eval()
    weights, label_side = None, Operations(0, frozenset())
    if head.label_side is not None:
        side, label_side = count_operations(head.label_side)
        weights = side.weights
    output, image_side = count_operations(head.image_side, feature_map, weights)
    labels = output.logits.shape[1]
    backbone_parameters, layer = count_parameters(backbone), backbone.width * labels
    foldable = head.config.foldable
    return Complexity(
        backbone=backbone_parameters,
        components=count_by_component(head),
        macs_backbone=backbone_operations.macs,
        macs_image_side=image_side.macs,
        macs_label_side=label_side.macs,
        folded=backbone_parameters + layer + labels if foldable else None,
        macs_folded=backbone_operations.macs + layer if foldable else None,
        not_counted=backbone_operations.not_counted | image_side.not_counted | label_side.not_counted,
    )


def count_parameters(module: nn.Module) -> int:
    """Count a module's parameters; statistics, label vectors and counted graphs are not among them."""
    return sum(parameter.numel() for parameter in module.parameters())


def count_by_component(head: Head) -> dict[str, int]:
    """Count the parameters of a head by its components, in the order of :data:`COMPONENT_NAMES`."""
    counts: Counter[str] = Counter()
    for name, parameter in head.named_parameters():
        known = next((prefix for prefix in COMPONENT_NAMES if f"{name}.".startswith(f"{prefix}.")), None)
        component = COMPONENT_NAMES[known] if known else name.split(".")[1].replace("_", " ")
        counts[component] += parameter.numel()
    order = list(COMPONENT_NAMES.values())
    return dict(sorted(counts.items(), key=lambda item: order.index(item[0]) if item[0] in order else -1))


def count_operations(module: nn.Module, *arguments: Any) -> tuple[Any, Operations]:
    """Run *module* on *arguments* and return its result and the operations that ran."""
    counter = FlopCounterMode(display=False, custom_mapping=_MATRIX_TIMES_VECTOR)
    recorder = _OperationRecorder()
    with recorder, counter:  # the inner mode comes first: the counter decomposes compound operations
        result = module(*arguments)
    counted = {str(operation) for operation in counter.flop_registry}
    names = (DECORATION.sub("", operation) for operation in recorder.operations - counted)
    return result, Operations(
        counter.get_total_flops() // 2,
        frozenset(names) - NOT_ARITHMETIC,
    )


def _matrix_times_vector(matrix: Sequence[int], *_: Any, **__: Any) -> int:
    return 2 * matrix[0] * matrix[1]


# torch's counter does not know this product, which SS-GRL's attention uses.
_MATRIX_TIMES_VECTOR = {torch.ops.aten.mv: _matrix_times_vector}


class _OperationRecorder(TorchDispatchMode):
    """Records the names of the operations that run, except views."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Record one operation, and run it."""
        if not func.is_view:
            self.operations.add(str(func.overloadpacket))
        return func(*args, **(kwargs or {}))
