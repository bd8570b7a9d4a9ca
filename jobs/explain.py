"""Show which regions of pictures the scores of a model come from, or of two models side by side.

lglm explain --model RUN/model --compare OTHER/model --image street.jpg --label car --out EXPLANATION
"""

import difflib
import hashlib
import logging
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from jobs import command_line
from jobs.command_line import Outcome
from jobs.make_room import make_room
from jobs.models import require_model
from jobs.options import Explain
from lglm_core import storage
from lglm_core.errors import InputError
from lglm_core.labels.vocabulary import LabelVocabulary
from lglm_core.model.config import HEADS
from lglm_core.rooms import ExplanationManifest, Provenance, Room, digest, read_json

if TYPE_CHECKING:
    import numpy as np

PAGE = "explain.html"
logger = logging.getLogger("lglm.explain")

Models = Mapping[str, str]
"""The URLs of the models by the options that name them."""


def run(options: Explain) -> Outcome:
    """Explain the pictures, unless the same explanation is complete."""
    models = {"model": options.model, **({"compare": options.compare} if options.compare else {})}
    labels = tuple(dict.fromkeys(options.label))
    inputs: dict[str, str] = {}
    for option, url in models.items():
        _, of_model = require_model(url)
        inputs |= {option: of_model["model"], f"thresholds of {option}": of_model["thresholds"]}
        _refuse_unfoldable(url)
    _refuse_unknown_labels(models, labels)
    images = _read(options.image)
    inputs["images"] = digest(
        [[name, hashlib.sha256(data).hexdigest()] for name, (_, data) in images.items()]
    )
    room = Room(options.out, Provenance(ExplanationManifest, inputs, {"labels": list(labels)}))
    return make_room(
        room,
        lambda: _explain(room, models, images, labels),
        lambda manifest, status: _summary(room, manifest, status),
    )


def _refuse_unfoldable(model: str) -> None:
    url = storage.join(model, "config.json")
    config = read_json(url)
    head = str(config.get("head")) if isinstance(config, dict) else ""
    if head in HEADS and not HEADS[head].foldable:
        foldable = ", ".join(name for name, kind in HEADS.items() if kind.foldable)
        raise InputError(
            f"{model}: the scores of its head {head} are not a sum over positions in the picture; "
            f"heads that can be explained: {foldable}"
        )


def _refuse_unknown_labels(models: Models, labels: Sequence[str]) -> None:
    known = {url: LabelVocabulary.load(storage.join(url, "labels.json")) for url in models.values()}
    for url, names in known.items():
        for label in labels:
            if label not in names:
                close = difflib.get_close_matches(label, names.names, 3) or names[:3]
                raise InputError(f"{url}: no label {label!r}; the closest are {', '.join(close)}")
    if not labels and not set.intersection(*map(set, known.values())):
        raise InputError(f"{' and '.join(known)}: the models have no label in common")


def _read(urls: Sequence[str]) -> dict[str, tuple[str, bytes]]:
    """Return the URL and the bytes of every picture, by a name that no other picture has."""
    images: dict[str, tuple[str, bytes]] = {}
    for url in dict.fromkeys(urls):
        base = url.rstrip("/").rpartition("/")[2]
        base = name = base.encode(errors="surrogateescape").decode(errors="backslashreplace")
        number = 1
        while name in images:
            number += 1
            name = f"{base} ({number})"
        images[name] = url, storage.read_bytes(url)
    return images


def _explain(
    room: Room[ExplanationManifest],
    models: Models,
    images: Mapping[str, tuple[str, bytes]],
    labels: Sequence[str],
) -> ExplanationManifest:
    from safetensors.numpy import save

    from lglm_core.images.codec import UnreadableImage, inspect
    from lglm_core.inference.attribution import Explainer
    from lglm_core.pages.explanation import explanation_page
    from lglm_core.pages.explanation_data import describe, explain

    for url, data in images.values():
        try:
            inspect(data)
        except UnreadableImage as error:
            raise InputError(f"{url}: cannot be read as a picture: {error}") from error
    explainers = {option: Explainer.load(url) for option, url in models.items()}
    room.begin()
    pictures, overlays = [], 0
    rows: list[dict[str, str | float]] = []
    arrays: dict[str, np.ndarray] = {}
    for name, (_, data) in images.items():
        explanation = explain(explainers, name, data, labels)
        for path, png in explanation.overlays.items():
            room.write(f"overlays/{path}", png)
        pictures.append(explanation.picture)
        arrays |= explanation.arrays
        rows += [{"image": name, "label": label, **each} for label, each in explanation.probabilities.items()]
        overlays += len(explanation.overlays)
        logger.info("%s: %s", name, ", ".join(explanation.probabilities))
    described = describe(explainers, room.provenance.inputs)
    room.write("maps.safetensors", save(arrays))
    room.write(PAGE, explanation_page(described, pictures).encode())
    return room.commit(
        ExplanationManifest(
            fingerprint=room.provenance.fingerprint,
            **room.provenance.fields,
            counts={"images": len(images), "overlays": overlays},
            models=tuple(model.name for model in described),
            probabilities=tuple(rows),
        )
    )


def _summary(room: Room[ExplanationManifest], manifest: ExplanationManifest, status: str) -> str:
    rows = manifest.probabilities
    lines = [f"{room.url}: explanation, {status}: {' beside '.join(manifest.models)}"]
    for name in dict.fromkeys(row["image"] for row in rows):
        found = (
            str(row["label"])
            + "".join(f" {100 * float(row[each]):.1f}%" for each in ("model", "compare") if each in row)
            for row in rows
            if row["image"] == name
        )
        lines.append(f"  {name}: {', '.join(found)}")
    return "\n".join([*lines, f"  page: {room.path(PAGE)}"])


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job from its command line."""
    return command_line.main("explain", Explain, run, argv)


if __name__ == "__main__":
    sys.exit(main())
