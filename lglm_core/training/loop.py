"""The training loop: a generator of epochs that knows no files, loggers or clusters.

A notebook, a plain process and a Ray worker all drive it; what to print, save or report is theirs.
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
from lglm_core.model.head import Prediction, pool
from lglm_core.model.linear import LinearScores
from lglm_core.model.recogniser import Recogniser
from lglm_core.training.recipe import FullRecipe
from lglm_core.training.ridge import RidgeRegression


class Batches(Protocol):
    """Where a worker's batches come from: pictures decoded anew, or features kept."""

    def resume(self, state: LoaderState) -> Iterator[Batch]:
        """Every sample of an epoch that is not done yet, once, in the epoch's own order."""

    def in_order(self) -> Iterator[Batch]:
        """Every sample once, in index order."""


@dataclass(frozen=True)
class Step:
    """One optimiser step: its number within the epoch and this worker's losses, still on the device."""

    number: int
    classification: Tensor
    penalty: Tensor


@dataclass(frozen=True)
class EpochProgress:
    """Where training is within an epoch, the same on every worker.

    ``classification_loss`` and ``penalty`` are summed over the ``steps`` that are done; ``lr`` is the
    epoch's, at its beginning; ``seconds`` were spent in training.
    """

    state: LoaderState
    steps: int
    classification_loss: float
    penalty: float
    lr: float
    seconds: float


@dataclass(frozen=True)
class EpochEnd:
    """What one epoch came to, the same on every worker.

    ``loss`` is L_M + λ·penalty, ``classification_loss`` L_M in nats per image, ``penalty`` the head's own
    loss (L_A; 0 where there is none), each averaged over the epoch; ``off_diagonal`` the share of the label
    graph's weight that is not the identity's, None without a graph; ``val_map`` in percent, None without
    validation pictures; ``images_per_s`` over all workers, in training.
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
        path: Reads pictures (an :class:`ImagePath`) or, with features kept, the image side alone; wrapped for
            data parallelism where several workers average their gradients.
        prepare: Turns a batch's images into what *path* takes, on the device.
        reads_maps: Whether batches hold feature maps in place of pictures.
        penalty_weight: λ of Eq. 9.
        average: The averaged model, updated after every step.
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
        """Take one optimiser step per batch, and count them from *first*.

        The label side runs once per step, however many parts a batch is taken in: the parts' gradients are
        gathered where its weights enter, and go through it once. It reads no picture, so every worker
        computes the same gradient there, and only the gathered one is averaged over workers.

        Each worker's loss is scaled so that the mean of the workers' gradients is the gradient over the
        global batch: padding has weight zero, and an unevenly divided batch counts each picture once.
        """
        for number, batch in enumerate(batches, start=first):
            side = self.model.head.label_weights()
            weights = None if side is None else side.weights.detach().requires_grad_()
            self.optimizer.zero_grad(set_to_none=True)
            classification = torch.zeros((), device=self.device)
            penalty = torch.zeros((), device=self.device)
            parts = _parts(batch, self.recipe.accumulate)
            for position, part in enumerate(parts):
                with self._averaging(last=position == len(parts) - 1):
                    loss, own = self._losses(part, weights)
                    (loss + self.penalty_weight * own).backward()
                classification += loss.detach()
                penalty += own.detach()
            if side is not None and weights is not None:
                self._through_label_side(side.weights, weights.grad, side.penalty)
                penalty += side.penalty.detach()
            if self.recipe.clip:
                nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.clip)
            self.optimizer.step()
            self.schedule.step()
            if self.average is not None:
                self.average.update_parameters(self.model)
            yield Step(number, classification, penalty)

    def _losses(self, batch: Batch, label_weights: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return L_M and the image side's own loss, over this worker's part of the global batch."""
        targets, weights = batch.targets.to(self.device), batch.weights.to(self.device)
        with self.autocast():
            prediction: Prediction = self.path(self.prepare(batch.images), label_weights)
        views = len(prediction.logits) // len(targets)  # a head may be shown mirror images as well
        per_image = self.classification_loss(prediction.logits, targets.repeat(views, 1))
        scaled = weights * self.world_size / batch.total_weight
        loss = (per_image.view(views, -1).mean(dim=0) * scaled).sum()
        own = loss.new_zeros(()) if prediction.penalty is None else (prediction.penalty * scaled).sum()
        return loss, own

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
        """The precision of backbone and image side."""
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.recipe.precision == "bf16")

    def _averaging(self, *, last: bool) -> AbstractContextManager:
        """Average gradients over workers with the last part of a batch, not before."""
        if isinstance(self.path, DistributedDataParallel) and not last:
            waiting: AbstractContextManager = self.path.no_sync()
            return waiting
        return nullcontext()

    def _through_label_side(self, weights: Tensor, gradient: Tensor | None, penalty: Tensor) -> None:
        gradient = torch.zeros_like(weights) if gradient is None else gradient
        if self.world_size > 1:
            dist.all_reduce(gradient)
            gradient = gradient / self.world_size
        outputs = [(weights, gradient), (penalty, penalty.new_full((), self.penalty_weight))]
        trained = [(output, slope) for output, slope in outputs if output.requires_grad]
        torch.autograd.backward([output for output, _ in trained], [slope for _, slope in trained])

    def solve(self, batches: Iterator[Batch], regression: RidgeRegression) -> Iterator[Step]:
        """Add up the batches of an epoch, then set the linear head to the solution in closed form.

        The step's loss is the squared error per picture, summed over labels.
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
            # A sigmoid has the slope 1/4 at 0: the probability follows the regression around one half.
            image_side.linear.weight.copy_(4 * weight)
            image_side.linear.bias.copy_(4 * (bias - 0.5))
        yield Step(0, torch.tensor(error, device=self.device), torch.zeros((), device=self.device))

    @property
    def used(self) -> Recogniser:
        """The model that is measured and kept: the averaged one, where there is one."""
        if self.average is None:
            return self.model
        assert isinstance(self.average.module, Recogniser)
        return self.average.module


def _parts(batch: Batch, parts: int) -> list[Batch]:
    """Divide a worker's batch for accumulation; the global batch it belongs to stays the same."""
    if parts == 1:
        return [batch]
    slices = np.array_split(np.arange(len(batch.rows)), min(parts, len(batch.rows)))
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
    """Train for the given epochs and yield after each.

    A run that goes on takes the steps that an undisturbed one would: the order, the views and what dropout
    draws are functions of seed, epoch, step and worker.

    Args:
        training: This worker's batches of the training split.
        validation: This worker's batches of the validation split; its mAP is measured after each epoch.
        loader: This worker's loader of the training split.
        epochs: Which epochs; a resumed run starts at the first that is missing.
        begun: Where to go on within the first of them.
        regression: Solves the head in closed form in place of optimiser steps.
        val_targets: int8 [N, C] of the validation split.
        on_step: Called with (epoch, step) after every step, to show progress.
        pause_steps: After how many steps within an epoch there is a pause; 0: never. The single step of a
            closed form has none.
        on_pause: Called then on every worker, to keep where training is.

    Raises:
        RunError: the loss is no longer finite.
    """
    assert resume_from is None or resume_from.state.epoch == epochs.start
    checkpoint_steps = 0 if regression else checkpoint_steps
    for epoch in epochs:
        trainer.model.train()
        lr = trainer.optimizer.param_groups[0]["lr"]
        within, resume_from = resume_from or EpochProgress(loader.state(epoch, 0), 0, 0.0, 0.0, lr, 0.0), None
        started = time.perf_counter() - within.seconds
        sums = torch.tensor(
            [within.classification_loss, within.penalty], dtype=torch.float64, device=trainer.device
        )
        done = within.steps
        batches = _seeded(training.resume(within.state), loader, epoch, within.steps)
        steps = trainer.solve(batches, regression) if regression else trainer.fit(batches, within.steps)
        for step in steps:
            sums += torch.stack([step.classification, step.penalty]).double()
            if on_step:
                on_step(epoch, step)
            done = step.number + 1
            if on_checkpoint and checkpoint_steps and done % checkpoint_steps == 0 and done < loader.steps:
                state, losses = loader.state(epoch, done), _finite_means(sums, trainer, epoch)
                paused = time.perf_counter()
                on_checkpoint(EpochProgress(state, done, *losses, within.lr, paused - started))
                started += time.perf_counter() - paused
        if trainer.world_size > 1:
            _take_first_label_side(trainer)
        trained = time.perf_counter() - started
        classification, penalty = (loss / done for loss in _finite_means(sums, trainer, epoch))
        yield EpochEnd(
            epoch=epoch,
            loss=classification + trainer.penalty_weight * penalty,
            classification_loss=classification,
            penalty=penalty,
            off_diagonal=off_diagonal_share(trainer.used),
            lr=within.lr,
            val_map=None
            if validation is None or val_targets is None
            else _validation_map(trainer, validation, val_targets),
            seconds=time.perf_counter() - started,
            images_per_s=len(loader.split) / trained,
        )


def _seeded(batches: Iterator[Batch], loader: Loader, epoch: int, first: int) -> Iterator[Batch]:
    """Seed before each batch what dropout draws for it; another on every worker."""
    for number, batch in enumerate(batches, start=first):
        rng = seeds.rng("dropout", loader.seed, epoch, number, loader.rank)
        torch.manual_seed(int(rng.integers(2**63)))
        yield batch


@torch.no_grad()
def score(trainer: Trainer, batches: Batches) -> tuple[np.ndarray, np.ndarray]:
    """Score this worker's share of a split in eval mode, with the model that is kept.

    Returns:
        Probabilities float32 [n, C] and the rows of the split they belong to, int64 [n], padding left out.
    """
    model = trainer.used.eval()
    side = model.head.label_weights()
    weights = None if side is None else side.weights
    scores, rows = [], []
    for batch in batches.in_order():
        real = batch.weights.bool()
        inputs = trainer.prepare(batch.images[real])
        with trainer.autocast():
            maps = inputs if trainer.takes_features else model.backbone(inputs)
        logits = model.head.image_side(maps.float(), weights).logits  # of bf16's few bits, scores would tie
        scores.append(logits.float().sigmoid().cpu())
        rows.append(batch.rows[real.numpy()])
    return torch.cat(scores).numpy(), np.concatenate(rows)


def _validation_map(trainer: Trainer, batches: Batches, targets: np.ndarray) -> float:
    if trainer.world_size > 1:  # each worker has batch statistics of its own; the first one's are saved
        for buffer in trainer.used.buffers():
            dist.broadcast(buffer, src=0)
    scores, rows = score(trainer, batches)
    parts: list[Any] = [(scores, rows)]
    if trainer.world_size > 1:
        parts = [None] * trainer.world_size
        dist.all_gather_object(parts, (scores, rows))
    everything = np.empty((len(targets), scores.shape[1]), dtype=np.float32)
    for part_scores, part_rows in parts:
        everything[part_rows] = part_scores
    ap = metrics.average_precisions(everything, targets)
    return 100 * float(np.nanmean(ap)) if not np.isnan(ap).all() else 0.0


@torch.no_grad()
def _take_first_label_side(trainer: Trainer) -> None:
    """Every worker computes its own; on unlike GPUs their last bits differ, and would drift apart."""
    for model in dict.fromkeys((trainer.model, trainer.used)):
        side = model.head.label_side
        for parameter in [] if side is None else side.parameters():
            dist.broadcast(parameter, src=0)


def _finite_means(sums: Tensor, trainer: Trainer, epoch: int) -> tuple[float, float]:
    """The workers' sums of L_M and of the penalty, averaged; refused where a loss was not finite."""
    means = sums.clone()
    if trainer.world_size > 1:
        dist.all_reduce(means)
        means /= trainer.world_size
    if not means.isfinite().all():
        raise RunError(f"the loss is no longer finite in epoch {epoch + 1}; lower the learning rate")
    classification, penalty = means.tolist()
    return classification, penalty


@torch.no_grad()
def off_diagonal_share(model: Recogniser) -> float | None:
    """The share of the label graph's absolute weight that lies off the diagonal; None without a graph."""
    side = model.head.label_weights()
    if side is None:
        return None
    graph = side.graph.abs()
    return float(1 - graph.diagonal().sum() / graph.sum())
