"""The model room: everything a trained model needs to be used, and nothing that needs trust."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from lglm_core.data import storage
from lglm_core.data.transforms import Preprocessing
from lglm_core.errors import DamageError, InputError
from lglm_core.label_embeddings import FILE as EMBEDDINGS_FILE
from lglm_core.label_embeddings import LabelEmbeddings
from lglm_core.labels import LabelVocabulary
from lglm_core.model.backbone import Backbone
from lglm_core.model.card import model_card
from lglm_core.model.lglm import Lglm, LglmConfig
from lglm_core.rooms import Manifest, Recipe, commit, digest, read_json, require, to_json

DEFAULT_THRESHOLD = 0.5


@dataclass(frozen=True)
class Bundle:
    """A trained model with what it means: labels, their vectors, thresholds and preprocessing.

    ``thresholds`` holds, per label in column order, the probability from which it is said to be there.
    """

    model: Lglm
    labels: LabelVocabulary
    embeddings: LabelEmbeddings
    thresholds: tuple[float, ...]
    preprocessing: Preprocessing
    fingerprint: str


def save_bundle(
    url: str,
    model: Lglm,
    config: LglmConfig,
    embeddings: LabelEmbeddings,
    recipe: Recipe,
    *,
    preprocessing: Preprocessing,
    facts: Mapping[str, Any],
    history: Sequence[Mapping[str, Any]] = (),
) -> Manifest:
    """Write a model room; its manifest comes last.

    Args:
        url: Where; a folder of its own.
        recipe: What it was trained from.
        preprocessing: What the model was trained on.
        facts: What the model card tells, by name.
        history: One record per epoch, for those who look at the model later.
    """
    labels = embeddings.labels
    description = {
        "head": "lglm",
        "head_config": asdict(config),
        "backbone": model.backbone.name,
        "feature_width": model.backbone.width,
        "labels_digest": labels.digest,
        "label_embeddings_digest": embeddings.digest,
        "preprocessing": {"resize": "squash", **asdict(preprocessing)},
    }
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    weights = save_tensors(tensors)
    storage.write_bytes(storage.join(url, "model.safetensors"), weights)
    storage.write_bytes(storage.join(url, "config.json"), to_json(description))
    labels.save(storage.join(url, "labels.json"))
    embeddings.save(storage.join(url, EMBEDDINGS_FILE))
    thresholds = dict.fromkeys(labels, DEFAULT_THRESHOLD)
    storage.write_bytes(storage.join(url, "thresholds.json"), to_json(thresholds))
    storage.write_bytes(storage.join(url, "README.md"), model_card(facts, labels, embeddings).encode())
    return commit(
        url,
        Manifest(
            kind="model",
            fingerprint=digest([digest(weights), description, labels.digest]),
            inputs=recipe.inputs,
            options=recipe.options,
            counts={"labels": len(labels), "parameters": sum(tensor.numel() for tensor in tensors.values())},
            details={"weights": digest(weights), "labels": labels.digest, "history": list(history)},
        ),
    )


def load_bundle(url: str) -> Bundle:
    """Open a model room; refuse, by name, one whose parts do not belong together."""
    manifest = require(url, "model")
    config = _read_config(storage.join(url, "config.json"))
    labels = LabelVocabulary.load(storage.join(url, "labels.json"))
    embeddings = LabelEmbeddings.load(storage.join(url, EMBEDDINGS_FILE))
    for what, found, expected in (
        ("labels.json", labels.digest, config["labels_digest"]),
        (EMBEDDINGS_FILE, embeddings.digest, config["label_embeddings_digest"]),
    ):
        if found != expected:
            raise InputError(
                f"{storage.join(url, what)}: not the one this model was trained with (its digest differs)"
            )
    thresholds = read_json(storage.join(url, "thresholds.json"))
    missing = [label for label in labels if label not in thresholds]
    if missing:
        raise InputError(f"{storage.join(url, 'thresholds.json')}: no threshold for {missing[0]!r}")
    return Bundle(
        model=_load_model(url, config, embeddings, manifest),
        labels=labels,
        embeddings=embeddings,
        thresholds=tuple(float(thresholds[label]) for label in labels),
        preprocessing=_preprocessing(config["preprocessing"]),
        fingerprint=manifest.fingerprint,
    )


def _load_model(url: str, config: Mapping[str, Any], embeddings: LabelEmbeddings, manifest: Manifest) -> Lglm:
    weights_url = storage.join(url, "model.safetensors")
    weights = storage.read_bytes(weights_url)
    if digest(weights) != manifest.details["weights"]:
        raise DamageError(
            f"{weights_url}: not the file that was written (its sha256 differs from the manifest)"
        )
    head = config["head_config"]
    head["graph_widths"] = tuple(head["graph_widths"])
    model = Lglm(
        Backbone(config["backbone"]), torch.from_numpy(embeddings.vectors.copy()), LglmConfig(**head)
    )
    try:
        model.load_state_dict(load_tensors(weights))
    except (SafetensorError, RuntimeError) as error:
        raise InputError(f"{weights_url}: not the weights that config.json describes ({error})") from error
    return model.eval()


def _preprocessing(record: Mapping[str, Any]) -> Preprocessing:
    return Preprocessing(int(record["image_size"]), tuple(record["mean"]), tuple(record["std"]))


def _read_config(url: str) -> dict[str, Any]:
    config = read_json(url)
    names = ("head_config", "backbone", "labels_digest", "label_embeddings_digest", "preprocessing")
    missing = [name for name in names if not isinstance(config, dict) or name not in config]
    if missing:
        raise InputError(f"{url}: not the description of a model: it has no {missing[0]!r}")
    return dict(config)
