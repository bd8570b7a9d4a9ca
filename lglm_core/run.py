"""One worker's part of a training run: model, loaders, optimiser and where it stands."""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lglm_core.data.dataset import Dataset
from lglm_core.data.loader import Loader
from lglm_core.errors import InputError
from lglm_core.label_embeddings import LabelEmbeddings
from lglm_core.model.backbone import Backbone
from lglm_core.model.lglm import Lglm, LglmConfig
from lglm_core.optim import make_optimizer, make_schedule
from lglm_core.training import EpochEnd, Step, train_epochs

CHECKPOINT_FILE = "checkpoint.pt"  # one file, so that it is there as a whole or not at all


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """How to train; see the options of ``lglm train`` for what each means."""

    backbone: str = "resnet101"
    weights: str = "imagenet"
    image_size: int = 448
    epochs: int = 40
    batch_size: int = 32
    lr: float = 1e-3
    backbone_lr: float | None = None
    weight_decay: float = 0.05
    freeze_backbone: bool = False
    graph_weight: float = 1.0
    seed: int = 0
    head: LglmConfig = field(default_factory=LglmConfig)

    @property
    def peak_backbone_lr(self) -> float:
        """The backbone's learning rate; what starts from nothing has as much to learn as the head."""
        if self.backbone_lr is not None:
            return self.backbone_lr
        return self.lr if self.weights == "none" else self.lr / 10


def build_model(settings: RunSettings, embeddings: LabelEmbeddings) -> Lglm:
    """Build the model with seeded random weights; pretrained ones are loaded separately.

    Raises:
        InputError: no such backbone, or pictures smaller than its stride.
    """
    torch.manual_seed(settings.seed)
    backbone = Backbone(settings.backbone)
    _refuse_too_small(backbone, settings.image_size)
    return Lglm(
        backbone, torch.from_numpy(embeddings.vectors.copy()), settings.head, frozen=settings.freeze_backbone
    )


def _refuse_too_small(backbone: Backbone, image_size: int) -> None:
    """Try the smallest batch: above the stride, some networks still pool a picture to nothing."""
    too_small = InputError(
        f"image size {image_size} is too small for {backbone.name}, whose stride is {backbone.stride} pixels"
    )
    if image_size < backbone.stride:
        raise too_small
    try:
        with torch.no_grad():
            backbone.eval()(torch.zeros(1, 3, image_size, image_size))
        backbone.train()
    except RuntimeError as error:
        raise too_small from error


class TrainingRun:
    """Trains one worker's replica; all workers build the same one and take their shares.

    Args:
        dataset: Trained on its split ``train``; ``val``, if there is one, is scored after each epoch.
        model: From :func:`build_model`, with its starting weights.
        rank: This worker's number among *world_size*.
        threads: That decode pictures, in this worker.
    """

    def __init__(
        self,
        dataset: Dataset,
        model: Lglm,
        settings: RunSettings,
        *,
        device: torch.device,
        rank: int = 0,
        world_size: int = 1,
        threads: int = 2,
        parallel: Callable[[nn.Module], nn.Module] = lambda module: module,
    ) -> None:
        self.settings = settings
        self.device = device
        self.history: list[EpochEnd] = []
        training = dataset.split("train")

        def loader(split: str) -> Loader:
            return Loader(
                split=training if split == "train" else dataset.split(split),
                fingerprint=dataset.manifest.fingerprint,
                image_size=settings.image_size,
                batch_size=settings.batch_size,
                seed=settings.seed,
                rank=rank,
                world_size=world_size,
                threads=threads,
            )

        self.training = loader("train")
        self.validation = loader("val") if dataset.has_split("val") else None
        model.start_at_prior((training.targets == 1).sum(axis=0), len(training))
        self.model = model.to(device).to(memory_format=torch.channels_last)
        self.optimizer = make_optimizer(
            model,
            lr=settings.lr,
            backbone_lr=settings.peak_backbone_lr,
            weight_decay=settings.weight_decay,
        )
        self.schedule = make_schedule(self.optimizer, settings.epochs * self.training.steps)
        self.replica = parallel(self.model)

    def epochs(self, on_step: Callable[[int, Step], Any] | None = None) -> Iterator[EpochEnd]:
        """Train the epochs that are still missing and yield after each."""
        for end in train_epochs(
            self.replica,
            self.training,
            self.validation,
            self.optimizer,
            self.schedule,
            epochs=range(len(self.history), self.settings.epochs),
            graph_weight=self.settings.graph_weight,
            device=self.device,
            on_step=on_step,
        ):
            self.history.append(end)
            yield end

    def save(self, file: Path) -> None:
        """Write weights, the states of optimiser and schedule, and the history as a checkpoint."""
        checkpoint = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "history": [asdict(end) for end in self.history],
        }
        torch.save(checkpoint, file)

    def resume(self, file: Path) -> None:
        """Continue from what :meth:`save` wrote."""
        checkpoint = _read(file, self.device)
        self.model.load_state_dict(checkpoint["model"])
        self.optimizer.load_state_dict(checkpoint["optimizer"])
        self.schedule.load_state_dict(checkpoint["schedule"])
        self.history = _history(checkpoint)


def load_trained(model: Lglm, file: Path) -> list[EpochEnd]:
    """Load a checkpoint's weights into *model*; return the epochs it has behind it."""
    checkpoint = _read(file, torch.device("cpu"))
    model.load_state_dict(checkpoint["model"])
    return _history(checkpoint)


def _read(file: Path, device: torch.device) -> dict[str, Any]:
    return dict(torch.load(file, map_location=device, weights_only=True))


def _history(checkpoint: dict[str, Any]) -> list[EpochEnd]:
    return [EpochEnd(**record) for record in checkpoint["history"]]
