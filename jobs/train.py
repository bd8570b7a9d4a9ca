"""Train a model on a dataset and save it.

    lglm train --dataset DATASET --label-embeddings LABELS --out RUN
    lglm train --dataset DATASET --label-embeddings LABELS --out RUN --weights mobilenet_v2.pth \\
        --backbone mobilenet_v2 --image-size 224 --freeze-backbone --num-workers 2
    lglm train --dataset DATASET --out RUN --head plain --head-option pooling=average --recipe modern
"""

import logging
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from jobs import command_line
from jobs.command_line import Outcome
from jobs.make_room import make_room
from jobs.models import CARD_USAGE
from jobs.options import Train
from jobs.training_inputs import TrainingInputs, embeddings_room, open_inputs, warn_without_validation
from jobs.training_log import epoch_line, resumed_line, step_lines
from lglm_core import storage
from lglm_core.errors import InputError
from lglm_core.rooms import (
    DatasetManifest,
    EpochRecord,
    LabelEmbeddingsManifest,
    ModelManifest,
    Provenance,
    Room,
    RunManifest,
    require,
)

if TYPE_CHECKING:
    from lglm_core.model.recogniser import Recogniser
    from lglm_core.training.loop import EpochEnd

logger = logging.getLogger("lglm.train")


def run(options: Train) -> Outcome:
    """Train, in this process or on Ray, unless the same run is complete; then save the model."""
    dataset = require(options.dataset, DatasetManifest)
    inputs = {
        "dataset": dataset.fingerprint,
        **_label_embeddings_fingerprint(options),
        "weights": _weights_digest(options.weights),
    }
    room = Room(options.out, Provenance(RunManifest, inputs, _options_that_matter(options)))
    return make_room(
        room,
        lambda: _train(options, room),
        lambda manifest, status: _summary(room, manifest, status),
        lambda manifest: manifest.last_epoch,
    )


def _summary(room: Room[RunManifest], manifest: RunManifest, status: str) -> str:
    loss, val_map = manifest.last_epoch["loss"], manifest.last_epoch["val_map"]
    measured = "" if val_map is None else f", validation mAP {val_map:.1f}"
    return (
        f"{room.url}: run, {status}: {manifest.counts['epochs']} epochs, loss {loss:.3f}{measured}\n"
        f"  model: {room.path('model')}"
    )


def _label_embeddings_fingerprint(options: Train) -> dict[str, str]:
    """Return the fingerprint of the label embeddings, where the head reads them."""
    url = embeddings_room(options)
    return {"label_embeddings": require(url, LabelEmbeddingsManifest).fingerprint} if url else {}


def _weights_digest(weights: str) -> str:
    return weights if weights in ("imagenet", "none") else storage.sha256(weights)


def _options_that_matter(options: Train) -> dict[str, Any]:
    """Return all values of recipe and head, also those that presets and defaults gave."""
    values = options.filled_in().model_dump(exclude={"weights", "head_option", "recipe"})
    head = {f"{options.head}.{name}": value for name, value in options.head_config.model_dump().items()}
    return {**values, **head, "hold_out": sorted(options.hold_out)}


def _train(options: Train, room: Room[RunManifest]) -> RunManifest:
    """Check everything that can be refused, train, and save."""
    from jobs.cluster import refuse_more_workers_than_cpus

    refuse_more_workers_than_cpus(options.num_workers, options.ray_address)
    _refuse_small_batches(options)
    inputs = open_inputs(options, room.provenance.inputs["dataset"])
    warn_without_validation(inputs.dataset)
    inputs.dataset.check_files_without_samples()  # the samples themselves are checked as they are read
    model = inputs.build_model()
    model.backbone.load_weights(inputs.recipe.weights)  # refused here, before any worker starts
    if options.num_workers:
        from jobs.train_on_ray import train_on_ray

        history = train_on_ray(options, room, model)
    else:
        room.begin()
        history = _train_here(options, inputs, model)
    return _save(options, room, inputs, model, history)


def _refuse_small_batches(options: Train) -> None:
    """Refuse batches that leave a forward pass with one picture, which has no batch statistics."""
    workers = max(1, options.num_workers)
    least = 2 * workers * options.accumulate
    if options.batch_size < least:
        raise InputError(
            f"--batch-size {options.batch_size}: a batch on {workers} workers, taken in {options.accumulate} "
            f"passes, needs at least {least} pictures, two for each pass; make batches larger"
        )


def _train_here(options: Train, inputs: TrainingInputs, model: "Recogniser") -> "list[EpochEnd]":
    """Train in this process, without Ray, from the last checkpoint if there is one."""
    import torch

    from lglm_core.training.run import CHECKPOINT_FILE, TrainingRun

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    training = TrainingRun(
        inputs.dataset, model, inputs.recipe, device=device, threads=torch.get_num_threads()
    )
    url = storage.join(options.out, "checkpoints", CHECKPOINT_FILE)
    if storage.is_file(url):
        with storage.local_copy(url) as file:
            training.resume(file)
        logger.info(resumed_line(training))

    def save() -> None:
        with storage.write_whole(url) as staged:
            training.save(staged)

    for end in training.epochs(
        step_lines(training, logger.info),
        checkpoint_steps=options.checkpoint_steps,
        on_checkpoint=lambda within: save(),
    ):
        logger.info(epoch_line(end, inputs.recipe.epochs))
        save()
    model.load_state_dict(training.trained.state_dict())
    return training.history


def _save(
    options: Train,
    room: Room[RunManifest],
    inputs: TrainingInputs,
    model: "Recogniser",
    history: "list[EpochEnd]",
) -> RunManifest:
    """Write the history and the model, and commit the run."""
    import pyarrow as pa

    epochs = pa.Table.from_pylist([asdict(end) for end in history])
    room.write("history.parquet", storage.to_parquet(epochs))
    bundle = _save_model(room, inputs, model, history)
    return room.commit(
        RunManifest(
            fingerprint=bundle.fingerprint,
            **room.provenance.fields,
            counts={"epochs": len(history), "workers": options.num_workers, **bundle.counts},
            last_epoch=asdict(history[-1]),
        )
    )


def _save_model(
    run: Room[RunManifest], inputs: TrainingInputs, model: "Recogniser", history: "list[EpochEnd]"
) -> ModelManifest:
    """Write the model room, with what its card tells about the training."""
    from lglm_core.model.bundle import save_bundle

    dataset, recipe, last = inputs.dataset.manifest, inputs.recipe, history[-1]
    samples = dataset.splits["train"].samples
    facts = {
        "backbone": recipe.backbone,
        "image size": f"{recipe.image_size} × {recipe.image_size}, squashed",
        "trained on": f"{samples} pictures, dataset {dataset.fingerprint[:12]}",
        "recipe": f"{recipe.recipe}: {len(history)} epochs, {recipe.optimizer}, lr {recipe.lr:g}",
        "validation mAP": "not measured" if last.val_map is None else f"{last.val_map:.1f}",
    }
    epochs = [
        EpochRecord(end.epoch + 1, end.loss, end.val_map, seconds=round(end.seconds, 3)) for end in history
    ]
    provenance = Provenance(ModelManifest, run.provenance.inputs, run.provenance.options)
    room = Room(run.path("model"), provenance)
    storage.remove(room.url)  # left by a run that was killed on these last steps
    return save_bundle(
        room,
        model.cpu(),
        inputs.dataset.labels,
        embeddings=inputs.embeddings,
        preprocessing=model.backbone.preprocessing(recipe.image_size),
        facts=facts,
        history=epochs,
        usage=CARD_USAGE,
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job from its command line."""
    return command_line.main("train", Train, run, argv)


if __name__ == "__main__":
    sys.exit(main())
