"""A training run on one worker: model, batches, optimiser, and its checkpoints."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lglm_core.dataset.reader import Dataset
from lglm_core.errors import InputError
from lglm_core.images.transforms import Augmentation
from lglm_core.labels.cooccurrence import label_counts
from lglm_core.labels.embeddings import LabelEmbeddings
from lglm_core.loading.loader import Loader, LoaderState
from lglm_core.model.backbone import Backbone, check_image_size
from lglm_core.model.config import Pooling, RidgeConfig
from lglm_core.model.head import LabelKnowledge, PooledSide
from lglm_core.model.heads import build_head
from lglm_core.model.recogniser import ImagePath, Recogniser
from lglm_core.training.features import FeatureLoader, Features, fits
from lglm_core.training.loop import Batches, EpochEnd, EpochProgress, Step, Trainer, train_epochs
from lglm_core.training.optim import averaged, make_optimizer, make_schedule
from lglm_core.training.recipe import FullRecipe
from lglm_core.training.ridge import RidgeRegression

CHECKPOINT_FILE = "checkpoint.pt"  # a single file, so that a checkpoint is never incomplete


def label_knowledge(
    recipe: FullRecipe, dataset: Dataset, embeddings: LabelEmbeddings | None
) -> LabelKnowledge:
    """Return the facts about the labels that the recipe's head needs; counts are of the training split."""
    config = recipe.head_config
    return LabelKnowledge(
        len(dataset.labels),
        torch.from_numpy(embeddings.vectors.copy()) if embeddings and config.needs_vectors else None,
        torch.from_numpy(label_counts(dataset.split("train").targets)) if config.needs_counts else None,
    )


def build_model(recipe: FullRecipe, knowledge: LabelKnowledge) -> Recogniser:
    """Build the model with seeded random weights; pretrained weights are loaded separately.

    Raises:
        InputError: the backbone is unknown, the pictures are too small for it, label vectors or counts that
            the head needs are missing, or the label graph is not finite.
    """
    torch.manual_seed(recipe.seed)
    backbone = Backbone(recipe.backbone)
    check_image_size(backbone, recipe.image_size)
    head = build_head(recipe.head, recipe.head_config, backbone.width, knowledge)
    weights = head.label_weights()
    if weights is not None and not weights.weights.isfinite().all():
        raise InputError(
            "the label graph is not finite at the start: the text's normalisation takes roots of sums, and "
            "some are negative for these vectors and this seed; take `head_option` normalisation=absolute"
        )
    return Recogniser(backbone, head, frozen=recipe.freeze_backbone)


class TrainingRun:
    """Trains one worker's replica of a model; all workers build the same one and divide the batches.

    A frozen backbone runs once over each split instead of in every epoch, if the training views are whole
    pictures without augmentation and the features fit into memory.

    Args:
        dataset: The split ``train`` is trained on; ``val``, if there is one, is scored after each epoch.
        model: The model from :func:`build_model`, with its initial weights.
        recipe: How to train.
        device: Where the model is trained.
        rank: This worker's number, from 0.
        world_size: Number of workers.
        threads: Number of threads that decode pictures in this worker.
        parallel: Wraps a module for data parallelism, where there are several workers.
        features: Features by split that are known already; features that the run computes are added to it.
    """

    def __init__(
        self,
        dataset: Dataset,
        model: Recogniser,
        recipe: FullRecipe,
        *,
        device: torch.device,
        rank: int = 0,
        world_size: int = 1,
        threads: int = 2,
        parallel: Callable[[nn.Module], nn.Module] = lambda module: module,
        features: dict[str, Features] | None = None,
    ) -> None:
        self.recipe = recipe
        self.device = device
        self.history: list[EpochEnd] = []
        self.progress: EpochProgress | None = None
        self.splits = {name: dataset.split(name) for name in ("train", "val") if dataset.has_split(name)}
        self.loaders = {
            name: Loader(
                split=split,
                fingerprint=dataset.manifest.fingerprint,
                image_size=recipe.image_size,
                batch_size=recipe.batch_size,
                seed=recipe.seed,
                rank=rank,
                world_size=world_size,
                threads=threads,
                augmentation=Augmentation(recipe.views == "crop", recipe.rand_augment, recipe.cutout),
                pin=device.type == "cuda",
            )
            for name, split in self.splits.items()
        }
        self.training = self.loaders["train"]
        model.start_at_prior(self.splits["train"].targets)
        self.model = model.to(device).to(memory_format=torch.channels_last)
        self.features = {} if features is None else features
        self.batches: Mapping[str, Batches] = self.loaders
        keeps_features = self._keeps_features()
        if keeps_features:
            self._compute_features()
        labels, config = self.splits["train"].targets.shape[1], model.head.config
        self.regression = None
        if isinstance(config, RidgeConfig):
            self.regression = RidgeRegression(model.backbone.width, labels, config.ridge, device)
        self.optimizer = make_optimizer(model, recipe)
        self.trainer = self._make_trainer(world_size, parallel, keeps_features)

    def _make_trainer(
        self, world_size: int, parallel: Callable[[nn.Module], nn.Module], takes_features: bool
    ) -> Trainer:
        model, recipe = self.model, self.recipe
        path: nn.Module = model.head.image_side if takes_features else ImagePath(model)
        if recipe.compile:
            path.compile()
        # A closed form takes no steps, so there are no weights to average.
        average = averaged(model, recipe.ema) if recipe.ema and self.regression is None else None
        trains = any(parameter.requires_grad for parameter in path.parameters())
        return Trainer(
            model=model,
            path=parallel(path) if trains else path,
            prepare=self._maps if takes_features else self._pixels,
            recipe=recipe,
            optimizer=self.optimizer,
            schedule=make_schedule(self.optimizer, recipe, self.training.steps),
            device=self.device,
            world_size=world_size,
            penalty_weight=model.head.config.penalty_weight(
                recipe.label_reduction, self.splits["train"].targets.shape[1], recipe.loss
            ),
            average=average,
            takes_features=takes_features,
        )

    def _keeps_features(self) -> bool:
        recipe = self.recipe
        whole_pictures = recipe.views == "flip" and not recipe.rand_augment and not recipe.cutout
        return bool(
            recipe.freeze_backbone
            and whole_pictures
            and all(fits(self.model.backbone, loader, self._pooling()) for loader in self.loaders.values())
        )

    def _pooling(self) -> Pooling | None:
        """Return how features are pooled before they are kept; None where the head reads whole maps."""
        image_side = self.model.head.image_side
        if not isinstance(image_side, PooledSide) or image_side.wants_mirror:
            return None
        return image_side.pooling

    def _compute_features(self) -> None:
        for name, loader in self.loaders.items():
            if name not in self.features:
                self.features[name] = Features.compute(
                    self.model.backbone, loader, self._pooling(), self.device
                )
        mirror = self.model.head.image_side.wants_mirror
        self.batches = {
            name: FeatureLoader(loader=loader, features=self.features[name], wants_mirror=mirror)
            for name, loader in self.loaders.items()
        }

    def _pixels(self, images: Tensor) -> Tensor:
        """Copy uint8 pictures to the device and normalise them there, which needs less bandwidth."""
        preprocessing = self.model.backbone.preprocessing(self.recipe.image_size)
        return preprocessing.normalise(images.to(self.device, non_blocking=True))

    def _maps(self, maps: Tensor) -> Tensor:
        """Copy feature maps to the device, in the backbone's memory format."""
        return maps.to(self.device, non_blocking=True, memory_format=torch.channels_last)

    def epochs(
        self,
        on_step: Callable[[int, Step], Any] | None = None,
        *,
        checkpoint_steps: int = 0,
        on_checkpoint: Callable[[EpochProgress], Any] | None = None,
    ) -> Iterator[EpochEnd]:
        """Train the remaining epochs, and yield the results of each.

        Args:
            on_step: Called with (epoch, step) after every step, to show progress.
            checkpoint_steps: Number of steps within an epoch between two checkpoints; 0 for none.
            on_checkpoint: Called with the progress at each of these checkpoints, on every worker; a
                checkpoint that :meth:`save` writes at this moment resumes there.
        """

        def at_checkpoint(progress: EpochProgress) -> None:
            self.progress = progress
            if on_checkpoint:
                on_checkpoint(progress)

        validation = self.splits.get("val")
        for end in train_epochs(
            self.trainer,
            self.batches["train"],
            self.batches.get("val"),
            self.training,
            epochs=range(len(self.history), self.recipe.epochs),
            resume_from=self.progress,
            regression=self.regression,
            val_targets=None if validation is None else validation.targets,
            on_step=on_step,
            checkpoint_steps=checkpoint_steps,
            on_checkpoint=at_checkpoint,
        ):
            self.progress = None
            self.history.append(end)
            yield end

    @property
    def trained(self) -> Recogniser:
        """The model to keep: the averaged model, where there is one."""
        return self.trainer.kept_model

    def save(self, file: Path) -> None:
        """Write a checkpoint: weights, the states of optimiser and schedule, history and progress.

        A checkpoint is valid at the end of an epoch and within ``on_checkpoint`` of :meth:`epochs`.
        """
        torch.save(
            {
                "model": self.model.state_dict(),
                "average": self.trainer.average.state_dict() if self.trainer.average else None,
                "optimizer": self.optimizer.state_dict(),
                "schedule": self.trainer.schedule.state_dict(),
                "regression": self.regression.state_dict() if self.regression else None,
                "history": [asdict(end) for end in self.history],
                "within": asdict(self.progress) if self.progress else None,
            },
            file,
        )

    def resume(self, file: Path) -> None:
        """Continue from the checkpoint that :meth:`save` wrote."""
        checkpoint = _read(file, self.device)
        self.model.load_state_dict(checkpoint["model"])
        if self.trainer.average is not None:
            self.trainer.average.load_state_dict(checkpoint["average"])
        self.optimizer.load_state_dict(checkpoint["optimizer"])
        self.trainer.schedule.load_state_dict(checkpoint["schedule"])
        if self.regression is not None:
            self.regression.load_state_dict(checkpoint["regression"])
        self.history = _history(checkpoint)
        self.progress = None
        if within := checkpoint["within"]:
            self.progress = EpochProgress(**{**within, "state": LoaderState(**within["state"])})


def load_trained(model: Recogniser, file: Path) -> list[EpochEnd]:
    """Load the weights of a checkpoint into *model*, the averaged ones if there are any.

    Returns:
        The results of the epochs before the checkpoint.
    """
    checkpoint = _read(file, torch.device("cpu"))
    average = checkpoint["average"]
    if average is not None:
        prefix = "module."
        average = {k.removeprefix(prefix): v for k, v in average.items() if k.startswith(prefix)}
    model.load_state_dict(average or checkpoint["model"])
    return _history(checkpoint)


def _read(file: Path, device: torch.device) -> dict[str, Any]:
    return dict(torch.load(file, map_location=device, weights_only=True))


def _history(checkpoint: dict[str, Any]) -> list[EpochEnd]:
    return [EpochEnd(**record) for record in checkpoint["history"]]
