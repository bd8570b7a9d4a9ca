"""Labels added to a trained model by their names alone."""

import torch
from torch import Tensor

from lglm_core.errors import InputError
from lglm_core.model.graph import LearnedGraph
from lglm_core.model.head import LabelKnowledge
from lglm_core.model.heads import build_head
from lglm_core.model.lglm import LabelSide
from lglm_core.model.recogniser import Recogniser


def check_extensible(model: Recogniser) -> None:
    """Refuse a model whose scores of a label do not come from the label's vector."""
    side = model.head.label_side
    if isinstance(side, LabelSide) and isinstance(side.graph, LearnedGraph):
        return
    why = "its label graph is counted from labelled pictures" if side else "it reads no label vectors"
    raise InputError(f"the head {model.head.name} cannot take labels by name: {why}; lglm and a-gcn can")


@torch.no_grad()
def extend(model: Recogniser, vectors: Tensor) -> Recogniser:
    """Return the model with more labels, behind those it has, whose logits stay as they are.

    The label side runs on the new labels' vectors (see :class:`LabelSide`). A bias of its own, where labels
    have one, is the mean of the trained labels', as if the new label were as common.

    Args:
        vectors: float32 [added, d], from where the trained labels' came.

    Raises:
        InputError: the head takes no labels by name, or the graph is not finite for these.
    """
    check_extensible(model)
    side = model.head.label_side
    assert isinstance(side, LabelSide)
    labels = len(side.vectors) + len(vectors)
    together = torch.cat([side.vectors, vectors.to(side.vectors)])
    knowledge = LabelKnowledge(labels, together, trained=side.trained)
    head = build_head(model.head.name, model.head.config, model.backbone.width, knowledge)
    state = dict(model.head.state_dict()) | {"label_side.vectors": together}
    bias = state.get("image_side.bias")
    if bias is not None and len(bias) > 1:
        state["image_side.bias"] = torch.cat([bias, bias[: side.trained].mean().expand(len(vectors))])
    head.load_state_dict(state)
    weights = head.label_weights()
    if weights is not None and not weights.weights.isfinite().all():
        raise InputError(
            "an added label's row of the label graph is not finite: the text's normalisation takes roots of "
            "sums that may be negative; train with --head-option normalisation=absolute to add labels"
        )
    return Recogniser(model.backbone, head).eval()
