"""Explains pictures: chooses labels, and gathers their maps as arrays, as overlays and for the page."""

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

PNG_SIDE = 800  # pixels, the longest side
PAGE_SIDE = 480
DEFAULT_LABELS = 3
KINDS = ("attribution", "activation")

Models = Mapping[str, Explainer]
"""The models by the names that are used for their arrays and files."""


@dataclass(frozen=True)
class ExplainedImage:
    """The explanation of one picture.

    The names of ``arrays`` are ``picture/label/model/kind``, where the kind is ``attribution`` or
    ``activation`` (float32 [h, w]), ``bias`` or ``logit`` (float64 []). ``overlays`` are PNG files by
    relative paths, which are safe whatever the names of pictures and labels. ``probabilities`` are by label,
    then by model.
    """

    picture: ExplainedPicture
    arrays: Mapping[str, np.ndarray]
    overlays: Mapping[str, bytes]
    probabilities: Mapping[str, Mapping[str, float]]


def explain(models: Models, name: str, image: bytes, labels: Sequence[str] = ()) -> ExplainedImage:
    """Explain one picture with all models.

    Args:
        models: The models by name.
        name: The picture's name, which no other picture has.
        image: The encoded picture.
        labels: The labels to explain, which all models know. By default, of the labels that all models know,
            those that the first model tags the picture with, or else its three most probable ones.

    Raises:
        UnreadableImage: the bytes are no image that can be decoded.
    """
    explanations = {model: explainer.explain(image) for model, explainer in models.items()}
    note = "The labels asked for."
    if not labels:
        labels, note = _choose_labels(models, next(iter(explanations.values())))
    maps_by_model = {
        model: explainer.maps(explanations[model], labels) for model, explainer in models.items()
    }
    picture = to_rgb(image)
    picture.thumbnail((PNG_SIDE, PNG_SIDE), Image.Resampling.LANCZOS)
    arrays: dict[str, np.ndarray] = {}
    overlays: dict[str, bytes] = {}
    label_maps = []
    for row, label in enumerate(labels):
        maps = {model: of_model[row] for model, of_model in maps_by_model.items()}
        limits = {kind: max(_limit(label_map, kind) for label_map in maps.values()) for kind in KINDS}
        views = []
        for model, label_map in maps.items():
            images = {kind: overlay(picture, _map_values(label_map, kind), limits[kind]) for kind in KINDS}
            views.append(_label_view(label_map, images))
            for kind, overlay_image in images.items():
                overlays[f"{key_of(name)}/{key_of(label)}/{model}-{kind}.png"] = png(overlay_image)
            for field in (*KINDS, "bias", "logit"):
                arrays[f"{name}/{label}/{model}/{field}"] = np.asarray(getattr(label_map, field))
        label_maps.append(LabelMaps(label, tuple(views), limits["attribution"], limits["activation"]))
    return ExplainedImage(
        ExplainedPicture(name, thumbnail(picture, PAGE_SIDE), note, tuple(label_maps)),
        arrays,
        overlays,
        {
            label: {model: of_model[row].probability for model, of_model in maps_by_model.items()}
            for row, label in enumerate(labels)
        },
    )


def describe(models: Models, fingerprints: Mapping[str, str]) -> list[ExplainedModel]:
    """Return the names and facts of models for the page.

    Where models have the same head and backbone, their names include the fingerprints.

    Args:
        models: The models by name.
        fingerprints: The models' fingerprints by the same names.
    """
    names = {
        model: f"{explainer.head_name} on {explainer.backbone_name}" for model, explainer in models.items()
    }
    ambiguous = len(set(names.values())) < len(names)
    described = []
    for model, explainer in models.items():
        size = explainer.preprocessing.image_size
        described.append(
            ExplainedModel(
                name=f"{names[model]} ({fingerprints[model][:8]})" if ambiguous else names[model],
                adds_up=explainer.pooling == "average",
                facts={
                    "Head": explainer.head_name,
                    "Backbone": explainer.backbone_name,
                    "Pooling": explainer.pooling,
                    "Picture as read": f"squashed to {size} × {size} pixels",
                    "Labels": str(len(explainer.labels)),
                    "Model fingerprint": fingerprints[model][:16],
                },
            )
        )
    return described


def _choose_labels(models: Models, explanation: Explanation) -> tuple[list[str], str]:
    """Choose labels by the first model's explanation; return them, and a note that says why."""
    first, *others = models.values()
    probabilities = explanation.probabilities
    shared = [label for label in first.labels if all(label in other.labels for other in others)]
    shared.sort(key=lambda label: -probabilities[first.labels.column(label)])
    columns = [first.labels.column(label) for label in shared]
    tags = [
        label
        for label, column in zip(shared, columns, strict=True)
        if probabilities[column] >= first.thresholds[column]
    ]
    by_whom = "" if not others else " by the first model"
    if tags:
        return tags, f"All labels given to it{by_whom}."
    return shared[:DEFAULT_LABELS], f"No label was given to it{by_whom}; these are the most probable ones."


def _map_values(label_map: LabelMap, kind: str) -> np.ndarray:
    """Return the values to draw, [h, w].

    An attribution is scaled to a hundredth of the picture's area, so that grids of any size are comparable.
    """
    if kind == "attribution":
        return label_map.attribution * (label_map.attribution.size / 100)
    return label_map.activation


def _limit(label_map: LabelMap, kind: str) -> float:
    return float(np.abs(_map_values(label_map, kind)).max())


def _label_view(label_map: LabelMap, images: Mapping[str, Image.Image]) -> LabelView:
    attribution = label_map.attribution
    return LabelView(
        probability=label_map.probability,
        threshold=label_map.threshold,
        logit=label_map.logit,
        bias=label_map.bias,
        positive=float(attribution[attribution > 0].sum()),
        negative=float(attribution[attribution < 0].sum()),
        attribution=thumbnail(images["attribution"], PAGE_SIDE),
        activation=thumbnail(images["activation"], PAGE_SIDE),
    )
