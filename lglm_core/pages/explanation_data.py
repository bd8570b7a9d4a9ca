"""Explaining pictures: which labels, and their maps as arrays, as overlays, and as part of a page."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from lglm_core.images.codec import to_rgb
from lglm_core.inference.attribution import Explainer, Explanation, LabelMap
from lglm_core.pages.explanation import ExplainedModel, ExplainedPicture, LabelMaps, LabelView
from lglm_core.pages.overlay import overlay, png
from lglm_core.pages.pictures import thumbnail
from lglm_core.sources.source import key_of

PNG_SIDE = 800  # pixels, at most
PAGE_SIDE = 480
HIGHEST = 3
KINDS = ("attribution", "activation")

Models = Mapping[str, Explainer]
"""One model or several, by the names that their arrays and files go by."""


@dataclass(frozen=True)
class ExplainedImage:
    """One picture, explained.

    ``arrays`` go by ``picture/label/model/`` and what they are: ``attribution`` and ``activation`` float32
    [h, w], ``bias`` and ``logit`` float64 []. ``overlays`` are PNG files, by paths that are safe.
    ``probabilities`` go by label, then by model.
    """

    picture: ExplainedPicture
    arrays: Mapping[str, np.ndarray]
    overlays: Mapping[str, bytes]
    probabilities: Mapping[str, Mapping[str, float]]


def explain(models: Models, name: str, image: bytes, labels: Sequence[str] = ()) -> ExplainedImage:
    """Explain one picture.

    Args:
        name: The picture's, and no other's.
        image: The encoded picture.
        labels: Those to explain, which all models know; default: what the first model tags the picture
            with, else its three highest, among the labels that all of them know.
    """
    views = {model: explainer.explain(image) for model, explainer in models.items()}
    note = "The labels asked for."
    if not labels:
        labels, note = _choose(models, next(iter(views.values())))
    of_models = {model: explainer.maps(views[model], labels) for model, explainer in models.items()}
    picture = to_rgb(image)
    picture.thumbnail((PNG_SIDE, PNG_SIDE), Image.Resampling.LANCZOS)
    arrays: dict[str, np.ndarray] = {}
    overlays: dict[str, bytes] = {}
    shown = []
    for row, label in enumerate(labels):
        maps = {model: found[row] for model, found in of_models.items()}
        limits = {kind: max(_limit(each, kind) for each in maps.values()) for kind in KINDS}
        views_of_label = []
        for model, found in maps.items():
            images = {kind: overlay(picture, _drawn(found, kind), limits[kind]) for kind in KINDS}
            views_of_label.append(_label_view(found, images))
            for kind, drawn in images.items():
                overlays[f"{key_of(name)}/{key_of(label)}/{model}-{kind}.png"] = png(drawn)
            for what in (*KINDS, "bias", "logit"):
                arrays[f"{name}/{label}/{model}/{what}"] = np.asarray(getattr(found, what))
        shown.append(LabelMaps(label, tuple(views_of_label), limits["attribution"], limits["activation"]))
    return ExplainedImage(
        ExplainedPicture(name, thumbnail(picture, PAGE_SIDE), note, tuple(shown)),
        arrays,
        overlays,
        {
            label: {model: found[row].probability for model, found in of_models.items()}
            for row, label in enumerate(labels)
        },
    )


def describe(models: Models, fingerprints: Mapping[str, str]) -> list[ExplainedModel]:
    """Say what is explained; models of one head and backbone are told apart by their fingerprints."""
    names = {model: f"{each.head_name} on {each.backbone_name}" for model, each in models.items()}
    alike = len(set(names.values())) < len(names)
    described = []
    for model, each in models.items():
        size = each.preprocessing.image_size
        described.append(
            ExplainedModel(
                name=f"{names[model]} ({fingerprints[model][:8]})" if alike else names[model],
                adds_up=each.pooling == "average",
                facts={
                    "Head": each.head_name,
                    "Backbone": each.backbone_name,
                    "Pooling": each.pooling,
                    "Picture as read": f"squashed to {size} × {size} pixels",
                    "Labels": str(len(each.labels)),
                    "Model fingerprint": fingerprints[model][:16],
                },
            )
        )
    return described


def _choose(models: Models, view: Explanation) -> tuple[list[str], str]:
    first, *others = models.values()
    probabilities = view.probabilities
    shared = [label for label in first.labels if all(label in other.labels for other in others)]
    shared.sort(key=lambda label: -probabilities[first.labels.column(label)])
    columns = [first.labels.column(label) for label in shared]
    tags = [
        label
        for label, column in zip(shared, columns, strict=True)
        if probabilities[column] >= first.thresholds[column]
    ]
    whose = "" if not others else " by the first model"
    if tags:
        return tags, f"All labels given to it{whose}."
    return shared[:HIGHEST], f"No label was given to it{whose}; these are the most probable ones."


def _drawn(found: LabelMap, kind: str) -> np.ndarray:
    """What is drawn: an attribution per hundredth of the picture, so that grids of any size compare."""
    return found.attribution * (found.attribution.size / 100) if kind == "attribution" else found.activation


def _limit(found: LabelMap, kind: str) -> float:
    return float(np.abs(_drawn(found, kind)).max())


def _label_view(found: LabelMap, images: Mapping[str, Image.Image]) -> LabelView:
    return LabelView(
        probability=found.probability,
        threshold=found.threshold,
        logit=found.logit,
        bias=found.bias,
        raised=float(found.attribution[found.attribution > 0].sum()),
        lowered=float(found.attribution[found.attribution < 0].sum()),
        attribution=thumbnail(images["attribution"], PAGE_SIDE),
        activation=thumbnail(images["activation"], PAGE_SIDE),
    )
