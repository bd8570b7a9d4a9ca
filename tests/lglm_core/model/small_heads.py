"""Every head, small enough for tests, and variants of heads that compute something else."""

from typing import Any

import torch

from lglm_core.model.config import HEADS, head_config
from lglm_core.model.head import Head, LabelKnowledge
from lglm_core.model.heads import BUILDERS, build_head

GRAPH: dict[str, Any] = {"d_l": 16, "graph_width": 24}
LGLM: dict[str, Any] = {**GRAPH, "m": 12, "group": 3}

SMALL: dict[str, dict[str, Any]] = {
    "lglm": LGLM,
    "plain": {},
    "probe": {},
    "ridge": {},
    "ml-gcn": {"graph_width": 24},
    "a-gcn": GRAPH,
    "add-gcn": {"width": 16},
    "ss-grl": {"d_1": 16, "d_2": 12, "state_width": 10, "output_width": 14},
    "vacit": {},
    "folded": {},
}

VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: (name, SMALL[name]) for name in BUILDERS if name != "folded"},
    "lglm text": ("lglm", {**LGLM, "conditioning": "text"}),
    "lglm dot": ("lglm", {**LGLM, "fusion": "dot"}),
    "lglm dot text": ("lglm", {**LGLM, "fusion": "dot", "conditioning": "text"}),
    "lglm average": ("lglm", {**LGLM, "pooling": "average"}),
    "lglm leaky": ("lglm", {**LGLM, "activation": "leaky", "layers": 3}),
    "lglm residual": ("lglm", {**LGLM, "residual": True}),
    "lglm public": ("lglm", {**LGLM, "normalisation": "public"}),
    "plain average": ("plain", {"pooling": "average"}),
    "ml-gcn text": ("ml-gcn", {**SMALL["ml-gcn"], "conditioning": "text"}),
    "ml-gcn relu": ("ml-gcn", {**SMALL["ml-gcn"], "activation": "relu"}),
    "a-gcn text": ("a-gcn", {**GRAPH, "conditioning": "text"}),
}
FOLDABLE = [variant for variant, (name, _) in VARIANTS.items() if HEADS[name].foldable]


def draw_knowledge(labels: int, vector_width: int, seed: int = 0) -> LabelKnowledge:
    """Draw random label vectors, and counts in which some labels imply others."""
    rng = torch.Generator().manual_seed(seed)
    present = (torch.rand(60, labels, generator=rng) < torch.linspace(0.2, 0.8, labels)).long()
    return LabelKnowledge(labels, torch.randn(labels, vector_width, generator=rng), present.T @ present)


def small_head(variant: str, feature_width: int, knowledge: LabelKnowledge, **options: Any) -> Head:
    """Build one of :data:`VARIANTS`; the same arguments give the same weights."""
    name, variant_options = VARIANTS[variant]
    torch.manual_seed(0)
    return build_head(name, head_config(name, {**variant_options, **options}), feature_width, knowledge)
