"""The page of an explanation: pictures with maps laid over them, of one model or of two side by side."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lglm_core.pages.overlay import legend_colours
from lglm_core.pages.rendering import render


@dataclass(frozen=True)
class LabelView:
    """A label on a picture, as one model sees it.

    ``logit`` = ``bias`` + ``raised`` + ``lowered``, the positive and the negative contributions;
    ``probability`` and ``threshold`` are in [0, 1]. ``attribution`` and ``activation`` are JPEGs.
    """

    probability: float
    threshold: float
    logit: float
    bias: float
    raised: float
    lowered: float
    attribution: bytes
    activation: bytes


@dataclass(frozen=True)
class LabelMaps:
    """A label on a picture; ``views`` are in the order of the models.

    The limits are what the strongest colours of all views stand for: of the attribution the logit per
    hundredth of the picture, of the activation map its value.
    """

    label: str
    views: tuple[LabelView, ...]
    attribution_limit: float
    activation_limit: float


@dataclass(frozen=True)
class ExplainedPicture:
    """A picture and the labels explained on it; ``note`` says why these."""

    name: str
    jpeg: bytes
    note: str
    labels: tuple[LabelMaps, ...]


@dataclass(frozen=True)
class ExplainedModel:
    """``name`` is the column's heading; ``adds_up`` tells whether its activation maps do, being means."""

    name: str
    adds_up: bool
    facts: Mapping[str, str]


def decimals_for(limit: float) -> int:
    """Return how many decimals show two digits of a scale's end, and at least the hundredths."""
    return max(2, min(6, 1 - math.floor(math.log10(limit)))) if limit > 0 else 2


def explanation_page(models: Sequence[ExplainedModel], pictures: Sequence[ExplainedPicture]) -> str:
    """Return the explanation as one HTML file that needs nothing beside it."""
    return render(
        "explanation.html.j2",
        title=" beside ".join(model.name for model in models),
        script="",
        script_digest="",
        models=models,
        pictures=pictures,
        with_activation=not all(model.adds_up for model in models),
        decimals_for=decimals_for,
        gradient=f"linear-gradient(90deg, {', '.join(legend_colours())})",
    )
