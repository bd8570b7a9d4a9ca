"""Adding labels to a trained model by their word vectors, without further training."""

import torch
from torch import Tensor

from lglm_core.errors import InputError
from lglm_core.model.graph import LearnedGraph
from lglm_core.model.head import LabelKnowledge
from lglm_core.model.heads import build_head
from lglm_core.model.lglm import LabelSide
from lglm_core.model.recogniser import Recogniser


def check_extensible(model: Recogniser) -> None:
    """Check that labels can be added to a model.

    Raises:
        InputError: the model does not compute a label's scores from the label's vector.
    """
    side = model.head.label_side
    if isinstance(side, LabelSide) and isinstance(side.graph, LearnedGraph):
        return
    reason = "its label graph is counted from labelled pictures" if side else "it reads no label vectors"
    raise InputError(
        f"the head {model.head.name} cannot take labels by name: {reason}; heads that can: a-gcn, lglm"
    )


@torch.no_grad()
def extend(model: Recogniser, vectors: Tensor) -> Recogniser:
    """Return a model with more labels, behind the existing ones, whose logits do not change.

    The label side computes weights from the new labels' vectors (see :class:`LabelSide`). Where every label
    has a bias, a new label gets the mean of the trained labels' biases, as if it were as common as they are.

    Args:
        model: The trained model.
        vectors: float32 [added, d], from the same source as the trained labels' vectors.

    Raises:
        InputError: the head cannot take labels by name, or the label graph is not finite for these vectors.
    """
    check_extensible(model)
    side = model.head.label_side
    assert isinstance(side, LabelSide)
    labels = len(side.vectors) + len(vectors)
    all_vectors = torch.cat([side.vectors, vectors.to(side.vectors)])
    knowledge = LabelKnowledge(labels, all_vectors, trained=side.trained)
    head = build_head(model.head.name, model.head.config, model.backbone.width, knowledge)
    state = dict(model.head.state_dict()) | {"label_side.vectors": all_vectors}
    bias = state.get("image_side.bias")
    if bias is not None and len(bias) > 1:
        state["image_side.bias"] = torch.cat([bias, bias[: side.trained].mean().expand(len(vectors))])
    head.load_state_dict(state)
    weights = head.label_weights()
    if weights is not None and not weights.weights.isfinite().all():
        raise InputError(
            "an added label's row of the label graph is not finite: the text's normalisation takes roots of "
            "sums that may be negative; train with `head_option` normalisation=absolute to add labels"
        )
    return Recogniser(model.backbone, head).eval()
