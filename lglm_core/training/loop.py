"""The training loop: a generator of epochs that knows no files, loggers or clusters.

A notebook, a plain process and a Ray worker all drive it, and decide what to print, save or report.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

from lglm_core import seeds
from lglm_core.errors import RunError
from lglm_core.loading.loader import Batch, Loader, LoaderState
from lglm_core.metrics import multi_label as metrics
from lglm_core.model import losses
from lglm_core.model.head import HeadOutput, pool
from lglm_core.model.linear import LinearScores
from lglm_core.model.recogniser import Recogniser
from lglm_core.training.recipe import FullRecipe
from lglm_core.training.ridge import RidgeRegression


class Batches(Protocol):
    """The source of a worker's batches: pictures decoded for each epoch, or features kept in memory."""

    def resume(self, state: LoaderState) -> Iterator[Batch]:
        """Yield the rest of an epoch after *state*: each remaining sample once, in the epoch's order."""

    def in_order(self) -> Iterator[Batch]:
        """Yield every sample once, in index order."""


@dataclass(frozen=True)
class Step:
    """One optimiser step: its number within the epoch and this worker's losses, still on the device.

    ``classification`` is L_M, ``penalty`` the head's penalty before it is multiplied by λ.
    """

    number: int
    classification: Tensor
    penalty: Tensor


@dataclass(frozen=True)
class EpochProgress:
    """The state of training within an epoch, which is the same on every worker.

    ``classification_loss`` and ``penalty`` are summed over the ``steps`` that are done; ``lr`` is the
    learning rate at the beginning of the epoch; ``seconds`` is the time spent on training.
    """

    state: LoaderState
    steps: int
    classification_loss: float
    penalty: float
    lr: float
    seconds: float


@dataclass(frozen=True)
class EpochEnd:
    """The results of one epoch, which are the same on every worker.

    ``loss`` is L_M + λ·penalty, ``classification_loss`` is L_M in nats per image, and ``penalty`` is the
    head's penalty (L_A; 0 where there is none), each averaged over the epoch. ``off_diagonal`` is the
    fraction of the label graph's weight that lies off the diagonal, None without a graph. ``val_map`` is in
    percent, None without validation pictures. ``images_per_s`` counts the training of all workers.
    """

    epoch: int
    loss: float
    classification_loss: float
    penalty: float
    off_diagonal: float | None
    lr: float
    val_map: float | None
    seconds: float
    images_per_s: float


@dataclass(frozen=True, kw_only=True)
class Trainer:
    """Everything that one worker's training steps need.

    Args:
        model: The model to train, on *device*.
        path: An :class:`ImagePath`, or the model's image side where batches hold features; wrapped for data
            parallelism where several workers average their gradients.
        prepare: Turns a batch's images into the input of *path*, on the device.
        recipe: How to train.
        optimizer: Updates the model's parameters.
        schedule: Sets the learning rate, once per step.
        device: Where the model is trained.
        world_size: Number of workers.
        penalty_weight: λ of Eq. 9, the weight of the head's penalty.
        average: The averaged model, which is updated after every step; None for no averaging.
        takes_features: Whether batches hold feature maps in place of pictures.
    """

    model: Recogniser
    path: nn.Module
    prepare: Callable[[Tensor], Tensor]
    recipe: FullRecipe
    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler
    device: torch.device
    world_size: int = 1
    penalty_weight: float = 0.0
    average: AveragedModel | None = None
    takes_features: bool = False

    def fit(self, batches: Iterator[Batch], first: int = 0) -> Iterator[Step]:
        """Take one optimiser step per batch, and yield each; the steps are numbered from *first*.

        The label side runs once per step, into however many micro-batches a batch is divided: the gradients
        of its weights are accumulated over the micro-batches and go back through it once. It depends on no
        picture, so every worker runs the same label side, and only the accumulated gradient is averaged over
        workers.

        Each worker's loss is scaled so that the mean of the workers' gradients is the gradient over the
            global
        batch: padding has weight zero, and in an unevenly divided batch each picture counts once.
        """
        for number, batch in enumerate(batches, start=first):
            side = self.model.head.label_weights()
            weights = None if side is None else side.weights.detach().requires_grad_()
            self.optimizer.zero_grad(set_to_none=True)
            classification = torch.zeros((), device=self.device)
            penalty = torch.zeros((), device=self.device)
            micro_batches = _micro_batches(batch, self.recipe.accumulate)
            for position, micro_batch in enumerate(micro_batches):
                with self._gradient_sync(last=position == len(micro_batches) - 1):
                    loss, head_penalty = self._losses(micro_batch, weights)
                    (loss + self.penalty_weight * head_penalty).backward()
                classification += loss.detach()
                penalty += head_penalty.detach()
            if side is not None and weights is not None:
                self._backward_through_label_side(side.weights, weights.grad, side.penalty)
                penalty += side.penalty.detach()
            if self.recipe.clip:
                nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.clip)
            self.optimizer.step()
            self.schedule.step()
            if self.average is not None:
                self.average.update_parameters(self.model)
            yield Step(number, classification, penalty)

    def _losses(self, batch: Batch, label_weights: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return L_M and the image side's penalty, over this worker's slice of the global batch."""
        targets, weights = batch.targets.to(self.device), batch.weights.to(self.device)
        with self.autocast():
            output: HeadOutput = self.path(self.prepare(batch.images), label_weights)
        views = len(output.logits) // len(targets)  # 2 where the head also scores mirror images
        per_image = self.classification_loss(output.logits, targets.repeat(views, 1))
        scaled = weights * self.world_size / batch.total_weight
        loss = (per_image.view(views, -1).mean(dim=0) * scaled).sum()
        head_penalty = loss.new_zeros(()) if output.penalty is None else (output.penalty * scaled).sum()
        return loss, head_penalty

    def classification_loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return L_M per image, [B], of logits and targets [B, C]."""
        recipe = self.recipe
        if recipe.loss == "bce":
            return losses.multi_label_loss(logits, targets, reduction=recipe.label_reduction)
        return losses.asymmetric_loss(
            logits,
            targets,
            gamma_pos=recipe.gamma_pos,
            gamma_neg=recipe.gamma_neg,
            margin=recipe.margin,
            reduction=recipe.label_reduction,
        )

    def autocast(self) -> torch.autocast:
        """Return the autocast context of backbone and image side, for the recipe's precision."""
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.recipe.precision == "bf16")

    def _gradient_sync(self, *, last: bool) -> AbstractContextManager:
        """Return a context in which the backward pass averages gradients over workers only if *last*."""
        if isinstance(self.path, DistributedDataParallel) and not last:
            no_sync: AbstractContextManager = self.path.no_sync()
            return no_sync
        return nullcontext()

    def _backward_through_label_side(self, weights: Tensor, gradient: Tensor | None, penalty: Tensor) -> None:
        gradient = torch.zeros_like(weights) if gradient is None else gradient
        if self.world_size > 1:
            dist.all_reduce(gradient)
            gradient = gradient / self.world_size
        outputs = [(weights, gradient), (penalty, penalty.new_full((), self.penalty_weight))]
        trained = [(output, output_gradient) for output, output_gradient in outputs if output.requires_grad]
        torch.autograd.backward([output for output, _ in trained], [gradient for _, gradient in trained])

    def solve(self, batches: Iterator[Batch], regression: RidgeRegression) -> Iterator[Step]:
        """Accumulate the batches of an epoch, then set the linear head to the solution in closed form.

        Yields a single step, whose classification loss is the squared error per picture, summed over labels.
        """
        image_side = self.model.head.image_side
        assert isinstance(image_side, LinearScores)
        for batch in batches:
            real = batch.weights.bool()
            with torch.no_grad():
                inputs = self.prepare(batch.images[real])
                maps = inputs if self.takes_features else self.model.backbone(inputs)
                regression.add(pool(maps, image_side.pooling), batch.targets[real].to(self.device))
        weight, bias, _, error = regression.solve()
        with torch.no_grad():
            # The sigmoid's slope at 0 is 1/4, so the probability equals the regression near one half.
            image_side.linear.weight.copy_(4 * weight)
            image_side.linear.bias.copy_(4 * (bias - 0.5))
        yield Step(0, torch.tensor(error, device=self.device), torch.zeros((), device=self.device))

    @property
    def kept_model(self) -> Recogniser:
        """The model that is evaluated and kept: the averaged model, where there is one."""
        if self.average is None:
            return self.model
        assert isinstance(self.average.module, Recogniser)
        return self.average.module


def _micro_batches(batch: Batch, count: int) -> list[Batch]:
    """Divide a worker's batch into *count* micro-batches, or fewer if it has fewer samples.

    All of them keep the weight of the global batch that they belong to.
    """
    if count == 1:
        return [batch]
    slices = np.array_split(np.arange(len(batch.rows)), min(count, len(batch.rows)))
    views = len(batch.images) // len(batch.rows)
    return [
        replace(
            batch,
            images=torch.cat([batch.images[chosen + view * len(batch.rows)] for view in range(views)]),
            targets=batch.targets[chosen],
            weights=batch.weights[chosen],
            rows=batch.rows[chosen],
        )
        for chosen in slices
    ]


def train_epochs(
    trainer: Trainer,
    training: Batches,
    validation: Batches | None,
    loader: Loader,
    *,
    epochs: range,
    resume_from: EpochProgress | None = None,
    regression: RidgeRegression | None = None,
    val_targets: np.ndarray | None = None,
    on_step: Callable[[int, Step], Any] | None = None,
    checkpoint_steps: int = 0,
    on_checkpoint: Callable[[EpochProgress], Any] | None = None,
) -> Iterator[EpochEnd]:
    """Train for the given epochs, and yield the results of each.

    A resumed run takes the same steps as a run that was never interrupted, because the order, the views and
    the dropout masks are functions of seed, epoch, step and worker.

    Args:
        trainer: Takes the steps.
        training: This worker's batches of the training split.
        validation: This worker's batches of the validation split, whose mAP is measured after each epoch.
        loader: This worker's loader of the training split.
        epochs: The epochs to train; a resumed run starts at the first one that is missing.
        resume_from: The progress within the first of these epochs; None starts at its beginning.
        regression: Solves the head in closed form in place of optimiser steps.
        val_targets: Targets of the validation split, int8 [N, C].
        on_step: Called with (epoch, step) after every step, to show progress.
        checkpoint_steps: Number of steps within an epoch between two checkpoints; 0 for none. The single step
            of a closed form has no checkpoint.
        on_checkpoint: Called with the progress at each of these checkpoints, on every worker.

    Raises:
        RunError: the loss is no longer finite.
    """
    assert resume_from is None or resume_from.state.epoch == epochs.start
    for epoch in epochs:
        trainer.model.train()
        lr = trainer.optimizer.param_groups[0]["lr"]
        start = resume_from or EpochProgress(loader.state(epoch, 0), 0, 0.0, 0.0, lr, 0.0)
        resume_from = None
        batches = _seed_batches(training.resume(start.state), loader, epoch, start.steps)
        steps = trainer.solve(batches, regression) if regression else trainer.fit(batches, start.steps)
        sums, steps_done, start_time = _run_steps(
            trainer,
            steps,
            loader,
            start,
            on_step=on_step,
            checkpoint_steps=0 if regression else checkpoint_steps,
            on_checkpoint=on_checkpoint,
        )
        if trainer.world_size > 1:
            _broadcast_label_side(trainer)
        training_seconds = time.perf_counter() - start_time
        classification, penalty = (loss / steps_done for loss in _finite_means(sums, trainer, epoch))
        yield EpochEnd(
            epoch=epoch,
            loss=classification + trainer.penalty_weight * penalty,
            classification_loss=classification,
            penalty=penalty,
            off_diagonal=off_diagonal_fraction(trainer.kept_model),
            lr=start.lr,
            val_map=None
            if validation is None or val_targets is None
            else _validation_map(trainer, validation, val_targets),
            seconds=time.perf_counter() - start_time,
            images_per_s=len(loader.split) / training_seconds,
        )


def _run_steps(
    trainer: Trainer,
    steps: Iterator[Step],
    loader: Loader,
    start: EpochProgress,
    *,
    on_step: Callable[[int, Step], Any] | None,
    checkpoint_steps: int,
    on_checkpoint: Callable[[EpochProgress], Any] | None,
) -> tuple[Tensor, int, float]:
    """Run the steps of an epoch from *start* on.

    Returns:
        This worker's sums of L_M and of the penalty over the epoch, float64 [2]; the number of steps; and the
        time at which the epoch would have started without interruptions and checkpoints, by the clock
        ``time.perf_counter``.
    """
    epoch, steps_done = start.state.epoch, start.steps
    start_time = time.perf_counter() - start.seconds
    sums = torch.tensor(
        [start.classification_loss, start.penalty], dtype=torch.float64, device=trainer.device
    )
    for step in steps:
        sums += torch.stack([step.classification, step.penalty]).double()
        if on_step:
            on_step(epoch, step)
        steps_done = step.number + 1
        is_due = checkpoint_steps and steps_done % checkpoint_steps == 0 and steps_done < loader.steps
        if on_checkpoint and is_due:
            state, losses = loader.state(epoch, steps_done), _finite_means(sums, trainer, epoch)
            pause_time = time.perf_counter()
            on_checkpoint(EpochProgress(state, steps_done, *losses, start.lr, pause_time - start_time))
            start_time += time.perf_counter() - pause_time
    return sums, steps_done, start_time


def _seed_batches(batches: Iterator[Batch], loader: Loader, epoch: int, first: int) -> Iterator[Batch]:
    """Seed torch's generator before each batch, differently on each worker, so that dropout is repeatable."""
    for number, batch in enumerate(batches, start=first):
        rng = seeds.rng("dropout", loader.seed, epoch, number, loader.rank)
        torch.manual_seed(int(rng.integers(2**63)))
        yield batch


@torch.no_grad()
def score(trainer: Trainer, batches: Batches) -> tuple[np.ndarray, np.ndarray]:
    """Score this worker's samples of a split in eval mode, with the model that is kept.

    Returns:
        Probabilities, float32 [n, C], and their rows in the split, int64 [n]; padding is left out.
    """
    model = trainer.kept_model.eval()
    side = model.head.label_weights()
    weights = None if side is None else side.weights
    scores, rows = [], []
    for batch in batches.in_order():
        real = batch.weights.bool()
        inputs = trainer.prepare(batch.images[real])
        with trainer.autocast():
            maps = inputs if trainer.takes_features else model.backbone(inputs)
        # In float32: the few bits of bf16 would give tied scores.
        logits = model.head.image_side(maps.float(), weights).logits
        scores.append(logits.float().sigmoid().cpu())
        rows.append(batch.rows[real.numpy()])
    return torch.cat(scores).numpy(), np.concatenate(rows)


def _validation_map(trainer: Trainer, batches: Batches, targets: np.ndarray) -> float:
    if trainer.world_size > 1:  # workers have different batch statistics; those of the first are saved
        for buffer in trainer.kept_model.buffers():
            dist.broadcast(buffer, src=0)
    scores, rows = score(trainer, batches)
    by_worker: list[Any] = [(scores, rows)]
    if trainer.world_size > 1:
        by_worker = [None] * trainer.world_size
        dist.all_gather_object(by_worker, (scores, rows))
    all_scores = np.empty((len(targets), scores.shape[1]), dtype=np.float32)
    for worker_scores, worker_rows in by_worker:
        all_scores[worker_rows] = worker_scores
    ap = metrics.average_precisions(all_scores, targets)
    return 100 * float(np.nanmean(ap)) if not np.isnan(ap).all() else 0.0


@torch.no_grad()
def _broadcast_label_side(trainer: Trainer) -> None:
    """Give all workers the label side of the first.

    Each worker updates its own copy, and on unlike GPUs the last bits differ, so that the copies drift apart.
    """
    for model in dict.fromkeys((trainer.model, trainer.kept_model)):
        side = model.head.label_side
        for parameter in [] if side is None else side.parameters():
            dist.broadcast(parameter, src=0)


def _finite_means(sums: Tensor, trainer: Trainer, epoch: int) -> tuple[float, float]:
    """Return the sums of L_M and of the penalty, averaged over workers.

    Raises:
        RunError: a loss is not finite.
    """
    means = sums.clone()
    if trainer.world_size > 1:
        dist.all_reduce(means)
        means /= trainer.world_size
    if not means.isfinite().all():
        raise RunError(f"the loss is no longer finite in epoch {epoch + 1}; lower the learning rate")
    classification, penalty = means.tolist()
    return classification, penalty


@torch.no_grad()
def off_diagonal_fraction(model: Recogniser) -> float | None:
    """Return the fraction of the label graph's absolute weight off its diagonal; None without a graph."""
    side = model.head.label_weights()
    if side is None:
        return None
    graph = side.graph.abs()
    return float(1 - graph.diagonal().sum() / graph.sum())
