"""Builds every head by its name; a new head needs its own file, its configuration, and one line here."""

from collections.abc import Callable
from typing import Any

from torch import nn

from lglm_core.errors import InputError
from lglm_core.model.add_gcn import AddGcn
from lglm_core.model.config import HeadConfig
from lglm_core.model.head import Head, ImageSide, LabelKnowledge
from lglm_core.model.lglm import lglm_sides
from lglm_core.model.linear import LinearScores
from lglm_core.model.ss_grl import SsGrl
from lglm_core.model.vacit import Vacit

Sides = tuple[ImageSide, nn.Module | None]


def _plain(width: int, knowledge: LabelKnowledge, config: Any, conditioned: bool = False) -> Sides:
    dropout = getattr(config, "feature_dropout", 0.0)
    return LinearScores(
        width, knowledge.labels, pooling=config.pooling, conditioned=conditioned, feature_dropout=dropout
    ), None


def _probe(width: int, knowledge: LabelKnowledge, config: Any) -> Sides:
    return _plain(width, knowledge, config, conditioned=True)


def _add_gcn(width: int, knowledge: LabelKnowledge, config: Any) -> Sides:
    return AddGcn(width, knowledge, config), None


def _ss_grl(width: int, knowledge: LabelKnowledge, config: Any) -> Sides:
    return SsGrl(width, knowledge, config), None


def _vacit(width: int, knowledge: LabelKnowledge, config: Any) -> Sides:
    return Vacit(width, knowledge, config), None


BUILDERS: dict[str, Callable[[int, LabelKnowledge, Any], Sides]] = {
    "lglm": lglm_sides,
    "plain": _plain,
    "probe": _probe,
    "ridge": _plain,
    "ml-gcn": lglm_sides,
    "a-gcn": lglm_sides,
    "add-gcn": _add_gcn,
    "ss-grl": _ss_grl,
    "vacit": _vacit,
    "folded": _plain,
}


def build_head(name: str, config: HeadConfig, feature_width: int, knowledge: LabelKnowledge) -> Head:
    """Build a head with its initial weights, drawn from torch's generator.

    Args:
        name: One of :data:`lglm_core.model.config.HEADS`.
        config: The head's options, of its own class.
        feature_width: D, the channels of the backbone's feature map.
        knowledge: The labels' vectors and counts, where the head needs them.

    Raises:
        InputError: the head needs label vectors or label counts, and they are missing.
    """
    for missing, what, source in (
        (config.needs_vectors and knowledge.vectors is None, "label vectors", "`label_embeddings`"),
        (config.needs_counts and knowledge.counts is None, "label counts", "a training split"),
    ):
        if missing:
            raise InputError(f"the head {name} needs {what}; name {source}")
    image_side, label_side = BUILDERS[name](feature_width, knowledge, config)
    return Head(name, config, image_side, label_side)
