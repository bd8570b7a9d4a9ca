"""Export a model as a backbone and one linear layer, and as ONNX.

    lglm export --model RUN/model --evaluation EVALUATION --out MODEL

The folder is a model like any other; its ``model.onnx`` needs neither lglm nor torch.
"""

import importlib.util
import logging
import sys
from collections.abc import Sequence
from typing import Any

from jobs import command_line
from jobs.command_line import Outcome
from jobs.make_room import make_room
from jobs.models import CARD_USAGE, require_model
from jobs.options import Export
from lglm_core import storage
from lglm_core.errors import InputError
from lglm_core.rooms import EvaluationManifest, ModelManifest, Provenance, Room, read_json, require

PACKAGES = ("onnx", "onnxscript")
logger = logging.getLogger("lglm.export")


def run(options: Export) -> Outcome:
    """Export the model, unless the same export is complete."""
    model, inputs = require_model(options.model)
    inputs |= _evaluation_input(options, model)
    room = Room(options.out, Provenance(ModelManifest, inputs, {}))

    def summary(manifest: ModelManifest, status: str) -> str:
        left, trained = manifest.counts["parameters"], model.counts["parameters"]
        return (
            f"{options.out}: model, {status}: {manifest.counts['labels']} labels, "
            f"{left / 1e6:.2f} M of {trained / 1e6:.2f} M parameters are left\n"
            f"  onnx: {room.path('model.onnx')}"
        )

    return make_room(room, lambda: _export(options, model, room), summary)


def _evaluation_input(options: Export, model: ModelManifest) -> dict[str, str]:
    """Return the fingerprint of the evaluation, if one is given; refuse an evaluation of another model."""
    if options.evaluation is None:
        return {}
    evaluation = require(options.evaluation, EvaluationManifest)
    if evaluation.inputs["model"] != model.fingerprint:
        raise InputError(
            f"{options.evaluation}: an evaluation of another model than {options.model}; "
            "run lglm evaluate with this one"
        )
    return {"evaluation": evaluation.fingerprint}


def _export(options: Export, trained: ModelManifest, room: Room[ModelManifest]) -> ModelManifest:
    _refuse_without_onnx()
    from lglm_core.inference.export import folded_model, to_onnx
    from lglm_core.model.bundle import load_bundle, save_bundle

    bundle = load_bundle(options.model)
    model = folded_model(bundle.model)
    metrics: dict[str, Any] | None = None
    if options.evaluation is not None:
        metrics = read_json(storage.join(options.evaluation, "metrics.json"))
    logger.info("writing model.onnx")
    files = to_onnx(model, bundle.preprocessing, bundle.labels, bundle.thresholds)
    size, labels = bundle.preprocessing.image_size, len(bundle.labels)
    facts = {
        **bundle.facts,
        "folded from": f"the head {bundle.model.head.name}, model {trained.fingerprint[:12]}",
        "model.onnx": f"`images` uint8 [N, 3, {size}, {size}], squashed, not standardised → `logits` "
        f"[N, {labels}] and `features` [N, {model.backbone.width}]; labels and thresholds in its metadata",
    }
    room.begin()
    return save_bundle(
        room,
        model,
        bundle.labels,
        embeddings=None,
        preprocessing=bundle.preprocessing,
        facts=facts,
        thresholds=bundle.thresholds,
        untrained=bundle.untrained,
        history=trained.history,
        usage=CARD_USAGE,
        metrics=metrics,
        extra_files=files,
    )


def _refuse_without_onnx() -> None:
    missing = [package for package in PACKAGES if importlib.util.find_spec(package) is None]
    if missing:
        raise InputError(
            f"model.onnx is written with {missing[0]}, which is not installed: pip install 'lglm[onnx]'"
        )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job from its command line."""
    return command_line.main("export", Export, run, argv)


if __name__ == "__main__":
    sys.exit(main())
