"""Training on Ray: the driver that starts the workers, and what each worker does."""

import logging
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from tempfile import mkdtemp
from typing import TYPE_CHECKING, Any

from jobs.options import Train
from jobs.training_inputs import open_inputs
from jobs.training_log import epoch_line, resumed_line, step_lines
from lglm_core import storage
from lglm_core.rooms import Room, RunManifest

if TYPE_CHECKING:
    from lglm_core.model.recogniser import Recogniser
    from lglm_core.training.loop import EpochEnd, EpochProgress
    from lglm_core.training.run import TrainingRun

logger = logging.getLogger("lglm.train")


def train_on_ray(options: Train, room: Room[RunManifest], model: "Recogniser") -> "list[EpochEnd]":
    """Train on Ray workers, load the trained weights into *model*, and return the epochs.

    The name of Ray Train's run holds the fingerprint of the provenance, so that the same training resumes and
    another one never does.
    """
    from jobs.cluster import gpus, lines_from_workers, ray_cluster
    from lglm_core.training.run import CHECKPOINT_FILE, load_trained

    with ray_cluster(options.ray_address), lines_from_workers(logger.info) as lines:
        room.begin()
        from ray.train import CheckpointConfig, RunConfig, ScalingConfig
        from ray.train.torch import TorchTrainer

        absolute = options.absolute()
        trainer = TorchTrainer(
            _worker,
            train_loop_config={
                "options": absolute.model_dump(),
                "dataset": room.provenance.inputs["dataset"],
                "lines": lines,
            },
            scaling_config=ScalingConfig(
                num_workers=options.num_workers, use_gpu=gpus() >= options.num_workers
            ),
            run_config=RunConfig(
                name=f"run-{room.provenance.fingerprint[:16]}",
                **_ray_storage(storage.join(absolute.out, "checkpoints")),
                checkpoint_config=CheckpointConfig(num_to_keep=2),
            ),
        )
        with trainer.fit().checkpoint.as_directory() as folder:
            return load_trained(model, Path(folder, CHECKPOINT_FILE))


def _ray_storage(url: str) -> dict[str, Any]:
    """Return where Ray Train puts checkpoints; a bucket is written through our own storage."""
    if storage.is_local(url):
        return {"storage_path": str(storage.local_path(url))}
    from lglm_core.storage.arrow_filesystem import storage_filesystem

    scheme, _, path = url.partition("//")
    return {"storage_path": path, "storage_filesystem": storage_filesystem(f"{scheme}//")}


def _worker(config: dict[str, Any]) -> None:
    """Run one Ray Train worker: build the same model as all others, train on its slice of every batch."""
    import ray.train

    options = Train(**config["options"])
    first = ray.train.get_context().get_world_rank() == 0
    log: Callable[[str], None] = config["lines"].put
    training = _start_or_resume(options, config["dataset"], log if first else None)

    def report_within(within: "EpochProgress") -> None:
        name = f"epoch-{within.state.epoch + 1:04d}-step-{within.steps:08d}"
        _report(training, {"epoch": within.state.epoch, "steps": within.steps}, name, first)

    for end in training.epochs(
        step_lines(training, log) if first else None,
        checkpoint_steps=options.checkpoint_steps,
        on_checkpoint=report_within,
    ):
        if first:
            log(epoch_line(end, training.recipe.epochs))
        _report(training, asdict(end), f"epoch-{end.epoch + 1:04d}", first)


def _start_or_resume(options: Train, dataset: str, log: Callable[[str], None] | None) -> "TrainingRun":
    """Return this worker's training, from its last checkpoint or from the backbone's starting weights.

    Args:
        options: The options of the job.
        dataset: The dataset's fingerprint.
        log: Gets a line where training resumes.
    """
    import ray.train
    import torch
    from ray.train.torch import get_device, prepare_model

    from lglm_core.training.run import CHECKPOINT_FILE, TrainingRun

    context, checkpoint = ray.train.get_context(), ray.train.get_checkpoint()
    inputs = open_inputs(options, dataset)
    model = inputs.build_model()
    if checkpoint is None:
        model.backbone.load_weights(inputs.recipe.weights)
    training = TrainingRun(
        inputs.dataset,
        model,
        inputs.recipe,
        device=get_device(),
        rank=context.get_world_rank(),
        world_size=context.get_world_size(),
        threads=max(1, torch.get_num_threads()),
        parallel=prepare_model,
    )
    if checkpoint is not None:
        with checkpoint.as_directory() as folder:
            training.resume(Path(folder, CHECKPOINT_FILE))
        if log:
            log(resumed_line(training))
    return training


def _report(training: "TrainingRun", metrics: dict[str, Any], name: str, first: bool) -> None:
    """Report this worker's progress to Ray Train; the first worker attaches a checkpoint called *name*."""
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
