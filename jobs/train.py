"""Train a model on a dataset and save it.

    lglm train --dataset DATASET --label-embeddings LABELS --out RUN
    lglm train --dataset DATASET --label-embeddings LABELS --out RUN --weights mobilenet_v2.pth \\
        --backbone mobilenet_v2 --image-size 224 --freeze-backbone --num-workers 2
    lglm train --dataset DATASET --out RUN --head plain --head-option pooling=average --recipe modern
"""

import logging
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from tempfile import mkdtemp
from typing import TYPE_CHECKING, Any

from jobs import command_line
from jobs.command_line import Outcome
from jobs.options import Train
from jobs.tag import CARD_USAGE
from lglm_core import rooms, storage
from lglm_core.errors import InputError

if TYPE_CHECKING:
    from lglm_core.dataset.reader import Dataset
    from lglm_core.labels.embeddings import LabelEmbeddings
    from lglm_core.model.recogniser import Recogniser
    from lglm_core.training.loop import EpochEnd, EpochProgress, Step
    from lglm_core.training.recipe import FullRecipe
    from lglm_core.training.run import TrainingRun

CACHE_GB = 100.0
SECONDS_BETWEEN_STEP_LINES = 15.0
logger = logging.getLogger("lglm.train")


def run(options: Train) -> Outcome:
    """Train, here or on Ray, unless the same run is complete; then save the model."""
    dataset = rooms.require(options.dataset, "dataset")
    recipe = rooms.Provenance(
        "run",
        {
            "dataset": dataset.fingerprint,
            **_label_embeddings_fingerprint(options),
            "weights": _weights_digest(options.weights),
        },
        _options_that_matter(options),
    )
    manifest = rooms.find(options.out, recipe)
    status = "already complete" if manifest else "done"
    manifest = manifest or _train(options, recipe)
    metrics = manifest.details["last_epoch"]
    measured = "" if metrics["val_map"] is None else f", validation mAP {metrics['val_map']:.1f}"
    summary = (
        f"{options.out}: run, {status}: {manifest.counts['epochs']} epochs, "
        f"loss {metrics['loss']:.3f}{measured}\n"
        f"  model: {storage.join(options.out, 'model')}"
    )
    return Outcome(status, options.out, summary, counts=manifest.counts, metrics=metrics)


def _label_embeddings_fingerprint(options: Train) -> dict[str, str]:
    """The vectors' fingerprint, where the head reads them."""
    if options.label_embeddings is None or not options.head_config.needs_vectors:
        return {}
    return {"label_embeddings": rooms.require(options.label_embeddings, "label-embeddings").fingerprint}


def _options_that_matter(options: Train) -> dict[str, Any]:
    """All values of recipe and head, also those that presets and defaults gave."""
    values = options.filled_in().model_dump(exclude={"weights", "head_option", "recipe"})
    head = {f"{options.head}.{name}": value for name, value in options.head_config.model_dump().items()}
    return {**values, **head, "hold_out": sorted(options.hold_out)}


def _train(options: Train, recipe: rooms.Provenance) -> rooms.Manifest:
    from jobs.cluster import refuse_more_workers_than_cpus
    from lglm_core.training.run import build_model, label_knowledge

    refuse_more_workers_than_cpus(options.num_workers, options.ray_address)
    workers = max(1, options.num_workers)
    if options.batch_size < 2 * workers * options.accumulate:
        raise InputError(
            f"--batch-size {options.batch_size}: each of the {workers} workers needs two pictures at least "
            f"in each of its {options.accumulate} parts of a batch, for their statistics"
        )
    dataset, embeddings, settings = _open_inputs(options, recipe.inputs["dataset"])
    _say_if_nothing_is_measured(dataset)
    dataset.check_files_without_samples()  # the samples themselves are checked as they are read
    model = build_model(settings, label_knowledge(settings, dataset, embeddings))
    model.backbone.load_weights(settings.weights)  # refused here, before any worker starts
    if options.num_workers:
        history = _train_on_ray(options, recipe, model)
    else:
        rooms.begin(options.out, recipe)
        history = _train_here(options, dataset, model, settings)
    return _save(options, recipe, model, history, dataset, embeddings, settings)


def _open_inputs(options: Train, fingerprint: str) -> "tuple[Dataset, LabelEmbeddings | None, FullRecipe]":
    """Open what every worker needs, the dataset as its fingerprint was; refuse embeddings of another."""
    from lglm_core.dataset.reader import Dataset
    from lglm_core.labels.embeddings import FILE, LabelEmbeddings

    whole = Dataset.open(options.dataset, fingerprint=fingerprint)
    if options.cache:
        from lglm_core.loading.cache import with_cache

        whole = with_cache(whole, options.cache, int((options.cache_gb or CACHE_GB) * 1e9))
    held = {*options.hold_out} & {*whole.labels}
    if len(whole.labels) - len(held) < 2:
        raise InputError(
            f"--hold-out names {len(held)} of the {len(whole.labels)} labels of {options.dataset}; "
            "training needs at least 2 others: hold out fewer"
        )
    dataset = whole.without(options.hold_out)
    recipe = options.filled_in()
    if options.label_embeddings is None or not options.head_config.needs_vectors:
        return dataset, None, recipe
    url = storage.join(options.label_embeddings, FILE)
    embeddings = LabelEmbeddings.load(url)
    embeddings.check_labels(whole.labels, url, options.dataset)
    made_from = rooms.require(options.label_embeddings, "label-embeddings").inputs
    if embeddings.learned_from_pictures and made_from.get("dataset") != dataset.manifest.fingerprint:
        raise InputError(
            f"{options.label_embeddings}: co-occurrence vectors of another dataset than {options.dataset}; "
            "run lglm label-embeddings for this one"
        )
    _refuse_to_hold_out(options, embeddings)
    return dataset, embeddings.only(dataset.labels), recipe


def _say_if_nothing_is_measured(dataset: "Dataset") -> None:
    """Tell, before the hours that it takes, that no epoch will have an mAP."""
    if not dataset.has_split("val"):
        others = ", ".join(filter(dataset.has_split, sorted(dataset.manifest.details["splits"])))
        logger.warning(f"{dataset.url}: no split 'val' (it has {others}): nothing is measured while training")


def _refuse_to_hold_out(options: Train, embeddings: "LabelEmbeddings") -> None:
    """Refuse held-out labels that the vectors tell of, or that lglm extend could not add."""
    url = options.label_embeddings
    if options.hold_out and embeddings.source == "vectors":
        raise InputError(
            f"{url}: ready-made vectors, by which lglm extend cannot add held-out labels; to hold some out, "
            "run lglm label-embeddings with --glove"
        )
    for name in options.hold_out:
        if (label := embeddings.learned_from(name)) and embeddings.source == "ppmi":
            raise InputError(
                f"{url}: these vectors know which pictures show {name!r}; to hold labels out, run "
                "lglm label-embeddings with --glove"
            )
        if label:
            raise InputError(
                f"{url}: the vector of {label!r} comes from co-occurrence and knows which pictures show "
                f"{name!r}; to hold {name!r} out, give {label!r} words by --alias, or take --oov zero"
            )


def _train_here(
    options: Train, dataset: "Dataset", model: "Recogniser", settings: "FullRecipe"
) -> "list[EpochEnd]":
    """Train in this process, without Ray; goes on from its last checkpoint."""
    import torch

    from lglm_core.training.run import CHECKPOINT_FILE, TrainingRun

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    training = TrainingRun(dataset, model, settings, device=device, threads=torch.get_num_threads())
    url = storage.join(options.out, "checkpoints", CHECKPOINT_FILE)
    if storage.is_file(url):
        with storage.local_copy(url) as file:
            training.resume(file)
        logger.info(_resumed_line(training))

    def save() -> None:
        with storage.write_whole(url) as staged:
            training.save(staged)

    for end in training.epochs(
        _step_lines(training, logger.info),
        checkpoint_steps=options.checkpoint_steps,
        on_checkpoint=lambda within: save(),
    ):
        logger.info(_epoch_line(end, settings.epochs))
        save()
    model.load_state_dict(training.trained.state_dict())
    return training.history


def _train_on_ray(options: Train, recipe: rooms.Provenance, model: "Recogniser") -> "list[EpochEnd]":
    """Train on Ray workers, and load what they learned into *model*.

    The run's name carries the recipe, so that the same one resumes and no other ever does.
    """
    from jobs.cluster import gpus, lines_from_workers, ray_cluster
    from lglm_core.training.run import CHECKPOINT_FILE, load_trained

    with ray_cluster(options.ray_address), lines_from_workers(logger.info) as lines:
        rooms.begin(options.out, recipe)
        from ray.train import CheckpointConfig, RunConfig, ScalingConfig
        from ray.train.torch import TorchTrainer

        absolute = options.absolute()
        trainer = TorchTrainer(
            _worker,
            train_loop_config={
                "options": absolute.model_dump(),
                "dataset": recipe.inputs["dataset"],
                "lines": lines,
            },
            scaling_config=ScalingConfig(
                num_workers=options.num_workers, use_gpu=gpus() >= options.num_workers
            ),
            run_config=RunConfig(
                name=f"run-{recipe.fingerprint[:16]}",
                **_ray_storage(storage.join(absolute.out, "checkpoints")),
                checkpoint_config=CheckpointConfig(num_to_keep=2),
            ),
        )
        with trainer.fit().checkpoint.as_directory() as folder:
            return load_trained(model, Path(folder, CHECKPOINT_FILE))


def _ray_storage(url: str) -> dict[str, Any]:
    """Where Ray Train puts checkpoints; in a bucket, through our own storage."""
    if storage.is_local(url):
        return {"storage_path": str(storage.local_path(url))}
    from lglm_core.storage.arrow_filesystem import storage_filesystem

    scheme, _, path = url.partition("//")
    return {"storage_path": path, "storage_filesystem": storage_filesystem(f"{scheme}//")}


def _worker(config: dict[str, Any]) -> None:
    """One Ray Train worker: build the same model as all others, take its share, report where it is."""
    import ray.train
    import torch
    from ray.train.torch import get_device, prepare_model

    from lglm_core.training.run import CHECKPOINT_FILE, TrainingRun, build_model, label_knowledge

    context = ray.train.get_context()
    options = Train(**config["options"])
    dataset, embeddings, settings = _open_inputs(options, config["dataset"])
    model = build_model(settings, label_knowledge(settings, dataset, embeddings))
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is None:
        model.backbone.load_weights(settings.weights)
    training = TrainingRun(
        dataset,
        model,
        settings,
        device=get_device(),
        rank=context.get_world_rank(),
        world_size=context.get_world_size(),
        threads=max(1, torch.get_num_threads()),
        parallel=prepare_model,
    )
    first = context.get_world_rank() == 0
    say: Callable[[str], None] = config["lines"].put
    if checkpoint is not None:
        with checkpoint.as_directory() as folder:
            training.resume(Path(folder, CHECKPOINT_FILE))
        if first:
            say(_resumed_line(training))

    def report_within(within: "EpochProgress") -> None:
        name = f"epoch-{within.state.epoch + 1:04d}-step-{within.steps:08d}"
        _report(training, {"epoch": within.state.epoch, "steps": within.steps}, name, first)

    for end in training.epochs(
        _step_lines(training, say) if first else None,
        checkpoint_steps=options.checkpoint_steps,
        on_checkpoint=report_within,
    ):
        if first:
            say(_epoch_line(end, settings.epochs))
        _report(training, asdict(end), f"epoch-{end.epoch + 1:04d}", first)


def _report(training: "TrainingRun", metrics: dict[str, Any], name: str, first: bool) -> None:
    """Report where training is; the first worker attaches the checkpoint, of that name."""
    import ray.train

    from lglm_core.training.run import CHECKPOINT_FILE

    if not first:
        ray.train.report(metrics)
        return
    folder = mkdtemp()  # Ray uploads, then deletes it
    try:
        training.save(Path(folder, CHECKPOINT_FILE))
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    ray.train.report(
        metrics,
        checkpoint=ray.train.Checkpoint.from_directory(folder),
        checkpoint_dir_name=name,
        delete_local_checkpoint_after_upload=True,
    )


def _save(
    options: Train,
    recipe: rooms.Provenance,
    model: "Recogniser",
    history: "list[EpochEnd]",
    dataset: "Dataset",
    embeddings: "LabelEmbeddings | None",
    settings: "FullRecipe",
) -> rooms.Manifest:
    """Write history and model, and commit the run."""
    import pyarrow as pa

    from lglm_core.model.bundle import save_bundle

    place = storage.join(options.out, "model")
    storage.remove(place)  # of a run that was killed on these last steps
    storage.write_parquet(
        storage.join(options.out, "history.parquet"), pa.Table.from_pylist([asdict(end) for end in history])
    )
    last = history[-1]
    samples = dataset.manifest.details["splits"]["train"]["samples"]
    facts = {
        "backbone": settings.backbone,
        "image size": f"{settings.image_size} × {settings.image_size}, squashed",
        "trained on": f"{samples} pictures, dataset {dataset.manifest.fingerprint[:12]}",
        "recipe": f"{settings.recipe}: {len(history)} epochs, {settings.optimizer}, lr {settings.lr:g}",
        "validation mAP": "not measured" if last.val_map is None else f"{last.val_map:.1f}",
    }
    bundle = save_bundle(
        place,
        model.cpu(),
        dataset.labels,
        rooms.Provenance("model", recipe.inputs, recipe.options),
        embeddings=embeddings,
        preprocessing=model.backbone.preprocessing(settings.image_size),
        facts=facts,
        history=[
            {
                "epoch": end.epoch + 1,
                "loss": end.loss,
                "val_map": end.val_map,
                "seconds": round(end.seconds, 3),
            }
            for end in history
        ],
        usage=CARD_USAGE,
    )
    return rooms.commit(
        options.out,
        rooms.Manifest(
            kind="run",
            fingerprint=bundle.fingerprint,
            inputs=recipe.inputs,
            options=recipe.options,
            counts={"epochs": len(history), "workers": options.num_workers, **bundle.counts},
            details={"last_epoch": asdict(last)},
        ),
    )


def _weights_digest(weights: str) -> str:
    return weights if weights in ("imagenet", "none") else storage.sha256(weights)


def _epoch_line(end: "EpochEnd", epochs: int) -> str:
    measured = "" if end.val_map is None else f", validation mAP {end.val_map:.1f}"
    return (
        f"epoch {end.epoch + 1}/{epochs}: loss {end.loss:.3f}{measured}, {end.images_per_s:.0f} images/s, "
        f"{end.seconds:.1f} s"
    )


def _resumed_line(training: "TrainingRun") -> str:
    place = f"after {len(training.history)} of {training.recipe.epochs} epochs"
    if within := training.progress:
        place += f" and {within.steps} of {training.training.steps} steps"
    return f"goes on {place}"


def _step_lines(training: "TrainingRun", say: Callable[[str], None]) -> "Callable[[int, Step], None]":
    """Return a callback that says a line now and then within a long epoch."""
    last = time.monotonic()

    def show(epoch: int, step: "Step") -> None:
        nonlocal last
        if time.monotonic() - last >= SECONDS_BETWEEN_STEP_LINES:
            last = time.monotonic()
            loss = step.classification.item()
            say(f"epoch {epoch + 1}: step {step.number + 1}/{training.training.steps}, loss {loss:.3f}")

    return show


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job from its command line."""
    return command_line.main("train", Train, run, argv)


if __name__ == "__main__":
    sys.exit(main())
