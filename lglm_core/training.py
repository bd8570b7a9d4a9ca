"""The training loop: a generator of epochs that knows no files, loggers or clusters.

A notebook, a plain process and a Ray worker all drive it; what to print, save or report is theirs.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from lglm_core import losses, metrics
from lglm_core.data.loader import Batch, Loader
from lglm_core.data.order import generator
from lglm_core.data.transforms import Preprocessing
from lglm_core.errors import RunError
from lglm_core.model.lglm import Prediction


@dataclass(frozen=True)
class Step:
    """One optimiser step: its number within the epoch and this worker's losses, still on the device."""

    number: int
    classification: Tensor
    graph: Tensor


@dataclass(frozen=True)
class EpochEnd:
    """What one epoch came to, the same on every worker.

    ``loss`` is L_M + λ·L_A, ``classification_loss`` L_M in nats per image, ``graph_loss`` L_A, each
    averaged over the epoch; ``off_diagonal`` the share of the graph's weight that is not the identity's;
    ``val_map`` in percent, None without validation pictures; ``images_per_s`` over all workers, in training.
    """

    epoch: int
    loss: float
    classification_loss: float
    graph_loss: float
    off_diagonal: float
    lr: float
    val_map: float | None
    seconds: float
    images_per_s: float


def fit(
    model: nn.Module,
    batches: Iterator[Batch],
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
    *,
    graph_weight: float,
    device: torch.device,
    world_size: int = 1,
) -> Iterator[Step]:
    """Take one optimiser step per batch.

    Each worker's loss is scaled so that the mean of the workers' gradients is the gradient over the global
    batch: padding has weight zero, and an unevenly divided batch counts each picture once.

    Args:
        model: Images → :class:`Prediction`; wrapped for data parallelism where there are several workers.
        graph_weight: λ of Eq. 9.
        world_size: Workers that average their gradients.
    """
    for number, batch in enumerate(batches):
        prediction: Prediction = model(_to_device(batch.images, device))
        per_image = losses.multi_label_loss(prediction.logits, batch.targets.to(device))
        weights = batch.weights.to(device)
        classification = (per_image * weights).sum() * world_size / batch.total_weight
        graph = losses.graph_loss(prediction.graph)
        optimizer.zero_grad(set_to_none=True)
        (classification + graph_weight * graph).backward()
        optimizer.step()
        schedule.step()
        yield Step(number, classification.detach(), graph.detach())


def train_epochs(
    model: nn.Module,
    training: Loader,
    validation: Loader | None,
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
    *,
    epochs: range,
    graph_weight: float = 1.0,
    device: torch.device,
    on_step: Callable[[int, Step], Any] | None = None,
) -> Iterator[EpochEnd]:
    """Train for the given epochs and yield after each.

    Args:
        model: As for :func:`fit`.
        training: This worker's loader of the training split.
        validation: This worker's loader of the validation split; its mAP is measured after each epoch.
        epochs: Which epochs; a resumed run starts at the first that is missing.
        on_step: Called with (epoch, step) after every step, to show progress.

    Raises:
        RunError: the loss is no longer finite.
    """
    world_size = training.world_size
    for epoch in epochs:
        started = time.perf_counter()
        lr = optimizer.param_groups[0]["lr"]
        # Dropout differs between workers, and a resumed run draws what an undisturbed one would.
        torch.manual_seed(int(generator("dropout", training.seed, epoch, training.rank).integers(2**63)))
        model.train()
        sums = torch.zeros(2, dtype=torch.float64, device=device)
        steps = fit(
            model,
            training.training_epoch(epoch),
            optimizer,
            schedule,
            graph_weight=graph_weight,
            device=device,
            world_size=world_size,
        )
        for step in steps:
            sums += torch.stack([step.classification, step.graph]).double()
            if on_step:
                on_step(epoch, step)
        trained = time.perf_counter() - started
        classification, graph = (_mean_over_workers(sums, world_size) / training.steps).tolist()
        if not np.isfinite(classification + graph):
            raise RunError(f"the loss is no longer finite in epoch {epoch + 1}; lower the learning rate")
        yield EpochEnd(
            epoch=epoch,
            loss=classification + graph_weight * graph,
            classification_loss=classification,
            graph_loss=graph,
            off_diagonal=_off_diagonal_share(model),
            lr=lr,
            val_map=_validation_map(model, validation, device) if validation else None,
            seconds=time.perf_counter() - started,
            images_per_s=len(training.split) / trained,
        )


@torch.no_grad()
def score(model: nn.Module, loader: Loader, device: torch.device) -> tuple[np.ndarray, np.ndarray]:
    """Score this worker's share of a split in eval mode.

    Returns:
        Probabilities float32 [n, C] and the rows of the split they belong to, int64 [n], padding left out.
    """
    model.eval()
    scores, rows = [], []
    for batch in loader.in_order():
        real = batch.weights.bool()
        logits = model(_to_device(batch.images, device)).logits
        scores.append(logits.float().sigmoid().cpu()[real])
        rows.append(batch.rows[real.numpy()])
    return torch.cat(scores).numpy(), np.concatenate(rows)


def _validation_map(model: nn.Module, loader: Loader, device: torch.device) -> float:
    if loader.world_size > 1:  # each worker has batch statistics of its own; the first one's are saved
        for buffer in model.buffers():
            dist.broadcast(buffer, src=0)
    # Without the data-parallel wrapper: nothing is averaged here.
    scores, rows = score(getattr(model, "module", model), loader, device)
    parts: list[Any] = [(scores, rows)]
    if loader.world_size > 1:
        parts = [None] * loader.world_size
        dist.all_gather_object(parts, (scores, rows))
    everything = np.empty((len(loader.split), scores.shape[1]), dtype=np.float32)
    for part_scores, part_rows in parts:
        everything[part_rows] = part_scores
    ap = metrics.average_precisions(everything, loader.split.targets)
    return 100 * float(np.nanmean(ap)) if not np.isnan(ap).all() else 0.0


def _to_device(images: Tensor, device: torch.device) -> Tensor:
    """Send uint8 over the wire and make floats on the device."""
    return Preprocessing(images.shape[-1]).normalise(images.to(device, non_blocking=True))


def _mean_over_workers(sums: Tensor, world_size: int) -> Tensor:
    if world_size > 1:
        dist.all_reduce(sums)
        sums /= world_size
    return sums


@torch.no_grad()
def _off_diagonal_share(model: nn.Module) -> float:
    unwrapped: Any = getattr(model, "module", model)
    graph = unwrapped.head.label_embeddings()[0].abs()
    return float(1 - graph.diagonal().sum() / graph.sum())
