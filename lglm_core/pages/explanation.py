"""The page of an explanation: pictures with overlaid maps, of one model or of several side by side."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lglm_core.pages.overlay import legend_colours
from lglm_core.pages.rendering import render


@dataclass(frozen=True)
class LabelView:
    """One model's result for a label on a picture.

    ``logit`` is the sum of ``bias``, ``positive`` and ``negative``, where the last two are the sums of the
    positive and of the negative contributions. ``probability`` and ``threshold`` are in [0, 1].
    ``attribution`` and ``activation`` are overlays as JPEGs.
    """

    probability: float
    threshold: float
    logit: float
    bias: float
    positive: float
    negative: float
    attribution: bytes
    activation: bytes


@dataclass(frozen=True)
class LabelMaps:
    """The results of all models for a label on a picture; ``views`` are in the order of the models.

    The limits are the values of the strongest colours in all views: of the attribution in logits per
    hundredth of the picture's area, of the activation map in its own unit.
    """

    label: str
    views: tuple[LabelView, ...]
    attribution_limit: float
    activation_limit: float


@dataclass(frozen=True)
class ExplainedPicture:
    """A picture and the labels that are explained on it; ``note`` says why these were chosen."""

    name: str
    jpeg: bytes
    note: str
    labels: tuple[LabelMaps, ...]


@dataclass(frozen=True)
class ExplainedModel:
    """An explained model; ``name`` heads its column.

    ``adds_up`` says whether its activation maps add up to the logit, as they do under average pooling.
    """

    name: str
    adds_up: bool
    facts: Mapping[str, str]


def decimals_for(limit: float) -> int:
    """Return the number of decimals that shows two significant digits of a scale's end, and at least 2."""
    return max(2, min(6, 1 - math.floor(math.log10(limit)))) if limit > 0 else 2


def explanation_page(models: Sequence[ExplainedModel], pictures: Sequence[ExplainedPicture]) -> str:
    """Return the explanation as one self-contained HTML file."""
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
