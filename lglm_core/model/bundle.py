"""The model room: everything that a trained model needs to be used, in files that execute no code."""

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from lglm_core import storage
from lglm_core.errors import DamageError, InputError
from lglm_core.images.transforms import Preprocessing
from lglm_core.labels.embeddings import FILE as EMBEDDINGS_FILE
from lglm_core.labels.embeddings import LabelEmbeddings
from lglm_core.labels.vocabulary import LabelVocabulary
from lglm_core.model.backbone import Backbone
from lglm_core.model.card import NOTEBOOK_USAGE, model_card
from lglm_core.model.config import head_config
from lglm_core.model.head import LabelKnowledge
from lglm_core.model.heads import build_head
from lglm_core.model.recogniser import Recogniser
from lglm_core.rooms import EpochRecord, ModelManifest, Room, digest, read_json, require, to_json

DEFAULT_THRESHOLD = 0.5


@dataclass(frozen=True)
class Bundle:
    """A trained model with its labels, their vectors, the thresholds and the preprocessing.

    ``embeddings`` is None where the head reads no label vectors. ``untrained`` names the labels that were
    added after training. ``thresholds`` holds, per label in column order, the probability from which a
    picture is tagged with the label. ``facts`` are the rows of the model card.
    """

    model: Recogniser
    labels: LabelVocabulary
    embeddings: LabelEmbeddings | None
    untrained: tuple[str, ...]
    thresholds: tuple[float, ...]
    preprocessing: Preprocessing
    facts: Mapping[str, Any]
    fingerprint: str


def save_bundle(
    room: Room[ModelManifest],
    model: Recogniser,
    labels: LabelVocabulary,
    *,
    embeddings: LabelEmbeddings | None,
    preprocessing: Preprocessing,
    facts: Mapping[str, Any],
    thresholds: Sequence[float] | None = None,
    untrained: Sequence[str] = (),
    history: Sequence[EpochRecord] = (),
    metrics: Mapping[str, Any] | None = None,
    extra_files: Mapping[str, bytes] | None = None,
    usage: str = NOTEBOOK_USAGE,
) -> ModelManifest:
    """Write a model room; its manifest is written last.

    Args:
        room: The room, which holds nothing else; its provenance is what the model is made from.
        model: The trained model.
        labels: The labels of its columns.
        embeddings: The label embeddings of *labels*; None where the head reads none.
        preprocessing: How pictures were prepared in training.
        facts: Rows of the model card, by name.
        thresholds: One per label in column order; default one half each.
        untrained: The labels that were added after training; they are the last columns.
        history: One record per epoch.
        metrics: The metrics of an evaluation, for the model card.
        extra_files: Contents of further files in the room, by name.
        usage: Lines for the model card that show how the model in the current folder is used.
    """
    config = _config(model, labels, embeddings, untrained, preprocessing, facts)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    weights = save_tensors(tensors)
    room.write("model.safetensors", weights)
    room.write("config.json", to_json(config))
    labels.save(room.path("labels.json"))
    if embeddings:
        embeddings.save(room.path(EMBEDDINGS_FILE))
    values = [DEFAULT_THRESHOLD] * len(labels) if thresholds is None else thresholds
    by_label = dict(zip(labels, map(float, values), strict=True))
    room.write("thresholds.json", to_json(by_label))
    extra = extra_files or {}
    for name, data in extra.items():
        room.write(name, data)
    card = model_card(
        facts, labels, embeddings, untrained=untrained, metrics=metrics, head=model.head.name, usage=usage
    )
    room.write("README.md", card.encode())
    return room.commit(_manifest(room, model, labels, config, weights, untrained, history, extra))


def _config(
    model: Recogniser,
    labels: LabelVocabulary,
    embeddings: LabelEmbeddings | None,
    untrained: Sequence[str],
    preprocessing: Preprocessing,
    facts: Mapping[str, Any],
) -> dict[str, Any]:
    """Return the content of ``config.json``."""
    return {
        "head": model.head.name,
        "head_config": model.head.config.model_dump(),
        "backbone": model.backbone.name,
        "feature_width": model.backbone.width,
        "labels_digest": labels.digest,
        "label_embeddings_digest": embeddings.digest if embeddings else None,
        "untrained_labels": list(untrained),
        "preprocessing": {"resize": "squash", **asdict(preprocessing)},
        "facts": dict(facts),
    }


def _manifest(
    room: Room[ModelManifest],
    model: Recogniser,
    labels: LabelVocabulary,
    config: Mapping[str, Any],
    weights: bytes,
    untrained: Sequence[str],
    history: Sequence[EpochRecord],
    extra_files: Mapping[str, bytes],
) -> ModelManifest:
    return ModelManifest(
        fingerprint=digest([digest(weights), config, labels.digest]),
        **room.provenance.fields,
        counts={
            "labels": len(labels),
            "untrained_labels": len(untrained),
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
        },
        head=model.head.name,
        weights=digest(weights),
        labels=labels.digest,
        names=tuple(labels),
        history=tuple(history),
        files={name: digest(data) for name, data in extra_files.items()} or None,
    )


def load_bundle(url: str | os.PathLike[str]) -> Bundle:
    """Load the model room at a folder or an address.

    Raises:
        InputError: there is no complete model room, or one of its files does not belong to the others.
        DamageError: the weights are not the ones that were written.
    """
    url = os.fspath(url)
    manifest = require(url, ModelManifest)
    config = _read_config(storage.join(url, "config.json"))
    labels = LabelVocabulary.load(storage.join(url, "labels.json"))
    _check_digest(storage.join(url, "labels.json"), labels.digest, config["labels_digest"])
    embeddings = None
    if config["label_embeddings_digest"]:
        embeddings_url = storage.join(url, EMBEDDINGS_FILE)
        embeddings = LabelEmbeddings.load(embeddings_url)
        _check_digest(embeddings_url, embeddings.digest, config["label_embeddings_digest"])
    return Bundle(
        model=_load_model(url, config, labels, embeddings, manifest),
        labels=labels,
        embeddings=embeddings,
        untrained=tuple(config["untrained_labels"]),
        thresholds=_read_thresholds(storage.join(url, "thresholds.json"), labels),
        preprocessing=_preprocessing(config["preprocessing"]),
        facts=config["facts"],
        fingerprint=manifest.fingerprint,
    )


def _read_thresholds(url: str, labels: LabelVocabulary) -> tuple[float, ...]:
    """Read one threshold per label, and check it: people may edit this file."""
    thresholds = read_json(url)
    for label in labels:
        value = thresholds.get(label) if isinstance(thresholds, dict) else None
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise InputError(f"{url}: {label!r} has {value!r}; a number from 0 to 1 was expected")
    return tuple(float(thresholds[label]) for label in labels)


def _check_digest(url: str, found: str, expected: str) -> None:
    if found != expected:
        raise InputError(f"{url}: not the one this model was trained with (its digest differs)")


def _load_model(
    url: str,
    config: Mapping[str, Any],
    labels: LabelVocabulary,
    embeddings: LabelEmbeddings | None,
    manifest: ModelManifest,
) -> Recogniser:
    weights_url = storage.join(url, "model.safetensors")
    weights = storage.read_bytes(weights_url)
    if digest(weights) != manifest.weights:
        raise DamageError(
            f"{weights_url}: not the file that was written (its sha256 differs from the manifest)"
        )
    try:
        backbone = Backbone(config["backbone"])
        options = head_config(config["head"], config["head_config"])
        knowledge = LabelKnowledge(
            len(labels),
            None if embeddings is None else torch.from_numpy(embeddings.vectors.copy()),
            # Only a placeholder: the weights hold the counted graph.
            torch.eye(len(labels), dtype=torch.int64) if options.needs_counts else None,
            trained=len(labels) - len(config["untrained_labels"]),
        )
        head = build_head(config["head"], options, backbone.width, knowledge)
    except InputError as error:
        raise InputError(f"{storage.join(url, 'config.json')}: {error}") from error
    model = Recogniser(backbone, head)
    try:
        model.load_state_dict(load_tensors(weights))
    except (SafetensorError, RuntimeError) as error:
        raise InputError(f"{weights_url}: not the weights that config.json describes ({error})") from error
    return model.eval()


def _preprocessing(record: Mapping[str, Any]) -> Preprocessing:
    return Preprocessing(int(record["image_size"]), tuple(record["mean"]), tuple(record["std"]))


def _read_config(url: str) -> dict[str, Any]:
    config = read_json(url)
    names = (
        "head",
        "head_config",
        "backbone",
        "labels_digest",
        "label_embeddings_digest",
        "untrained_labels",
        "preprocessing",
        "facts",
    )
    missing = [name for name in names if not isinstance(config, dict) or name not in config]
    if missing:
        raise InputError(
            f"{url}: not the description of a model: it has no {missing[0]!r}; a model written by "
            "version 0.2 or earlier has to be trained again"
        )
    return dict(config)
