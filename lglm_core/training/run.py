"""One worker's part of a training run: model, batches, optimiser and where it stands."""

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
from lglm_core.model.backbone import Backbone, refuse_too_small
from lglm_core.model.config import RidgeConfig
from lglm_core.model.head import LabelKnowledge, PooledSide
from lglm_core.model.heads import build_head
from lglm_core.model.recogniser import ImagePath, Recogniser
from lglm_core.training.features import FeatureLoader, Features, fits
from lglm_core.training.loop import Batches, EpochEnd, EpochProgress, Step, Trainer, train_epochs
from lglm_core.training.optim import averaged, make_optimizer, make_schedule
from lglm_core.training.recipe import FullRecipe
from lglm_core.training.ridge import RidgeRegression

CHECKPOINT_FILE = "checkpoint.pt"  # one file, so that it is there as a whole or not at all


def label_knowledge(
    recipe: FullRecipe, dataset: Dataset, embeddings: LabelEmbeddings | None
) -> LabelKnowledge:
    """Gather what the recipe's head asks to know of the labels; counts are the training split's alone."""
    config = recipe.head_config
    wanted = embeddings is not None and config.needs_vectors
    return LabelKnowledge(
        len(dataset.labels),
        torch.from_numpy(embeddings.vectors.copy()) if embeddings is not None and wanted else None,
        torch.from_numpy(label_counts(dataset.split("train").targets)) if config.needs_counts else None,
    )


def build_model(recipe: FullRecipe, knowledge: LabelKnowledge) -> Recogniser:
    """Build the model with seeded random weights; pretrained ones are loaded separately.

    Raises:
        InputError: no such backbone, pictures smaller than its stride, a head without what it needs, or a
            label graph that is not finite.
    """
    torch.manual_seed(recipe.seed)
    backbone = Backbone(recipe.backbone)
    refuse_too_small(backbone, recipe.image_size)
    head = build_head(recipe.head, recipe.head_config, backbone.width, knowledge)
    weights = head.label_weights()
    if weights is not None and not weights.weights.isfinite().all():
        raise InputError(
            "the label graph is not finite at the start: the text's normalisation takes roots of sums, and "
            "some are negative for these vectors and this seed; take --head-option normalisation=absolute"
        )
    return Recogniser(backbone, head, frozen=recipe.freeze_backbone)


class TrainingRun:
    """Trains one worker's replica; all workers build the same one and take their shares.

    A frozen backbone whose training views are plain, and whose features fit into memory, runs once over each
    split instead of in every epoch.

    Args:
        dataset: Trained on its split ``train``; ``val``, if there is one, is scored after each epoch.
        model: From :func:`build_model`, with its starting weights.
        rank: This worker's number among *world_size*.
        threads: That decode pictures, in this worker.
        parallel: Wraps a module for data parallelism, where there are several workers.
        features: By split, where they are known already; what is computed here is added.
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
        self.within: EpochProgress | None = None
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
        targets = self.splits["train"].targets
        model.start_at_prior(targets)
        self.model = model.to(device).to(memory_format=torch.channels_last)
        self.features = {} if features is None else features
        self.batches: Mapping[str, Batches] = self.loaders
        path: nn.Module = ImagePath(model)
        keeps_features = self._keeps_features()
        if keeps_features:
            self._compute_features()
            path = model.head.image_side
        if recipe.compile:
            path.compile()
        self.regression = None
        if isinstance(config := model.head.config, RidgeConfig):
            self.regression = RidgeRegression(model.backbone.width, targets.shape[1], config.ridge, device)
        # A solution in closed form takes no steps whose weights there were to average.
        average = averaged(model, recipe.ema) if recipe.ema and self.regression is None else None
        trains = any(parameter.requires_grad for parameter in path.parameters())
        self.optimizer = make_optimizer(model, recipe)
        self.trainer = Trainer(
            model=model,
            path=parallel(path) if trains else path,
            prepare=self._maps if keeps_features else self._pixels,
            recipe=recipe,
            optimizer=self.optimizer,
            schedule=make_schedule(self.optimizer, recipe, self.training.steps),
            device=device,
            world_size=world_size,
            penalty_weight=model.head.config.penalty_weight(
                recipe.label_reduction, targets.shape[1], recipe.loss
            ),
            average=average,
            takes_features=keeps_features,
        )

    def _keeps_features(self) -> bool:
        recipe = self.recipe
        plain = recipe.freeze_backbone and recipe.views == "flip" and not recipe.rand_augment
        return bool(
            plain
            and not recipe.cutout
            and all(fits(self.model.backbone, loader, self._pooling()) for loader in self.loaders.values())
        )

    def _pooling(self) -> Any:
        """How features may be pooled before they are kept; None where the head reads their maps."""
        image_side = self.model.head.image_side
        whole = not isinstance(image_side, PooledSide) or image_side.wants_mirror
        return None if whole else image_side.pooling

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
        """Send uint8 over the wire and make floats on the device."""
        preprocessing = self.model.backbone.preprocessing(self.recipe.image_size)
        return preprocessing.normalise(images.to(self.device, non_blocking=True))

    def _maps(self, maps: Tensor) -> Tensor:
        """Send feature maps over the wire, and lay them out as the backbone does."""
        return maps.to(self.device, non_blocking=True, memory_format=torch.channels_last)

    def epochs(
        self,
        on_step: Callable[[int, Step], Any] | None = None,
        *,
        checkpoint_steps: int = 0,
        on_checkpoint: Callable[[EpochProgress], Any] | None = None,
    ) -> Iterator[EpochEnd]:
        """Train what is still missing and yield after each epoch.

        Args:
            on_step: Called with (epoch, step) after every step, to show progress.
            pause_steps: After how many steps within an epoch there is a pause; 0: never.
            on_pause: Called then on every worker; what :meth:`save` writes then goes on from there.
        """

        def pause(within: EpochProgress) -> None:
            self.within = within
            if on_checkpoint:
                on_checkpoint(within)

        validation = self.splits.get("val")
        for end in train_epochs(
            self.trainer,
            self.batches["train"],
            self.batches.get("val"),
            self.training,
            epochs=range(len(self.history), self.recipe.epochs),
            resume_from=self.within,
            regression=self.regression,
            val_targets=None if validation is None else validation.targets,
            on_step=on_step,
            checkpoint_steps=checkpoint_steps,
            on_checkpoint=pause,
        ):
            self.within = None
            self.history.append(end)
            yield end

    @property
    def trained(self) -> Recogniser:
        """The model to keep: the averaged one, where there is one."""
        return self.trainer.used

    def save(self, file: Path) -> None:
        """Write weights, the states of optimiser and schedule, and how far it came as a checkpoint.

        At the end of an epoch, and in a pause within one.
        """
        torch.save(
            {
                "model": self.model.state_dict(),
                "average": self.trainer.average.state_dict() if self.trainer.average else None,
                "optimizer": self.optimizer.state_dict(),
                "schedule": self.trainer.schedule.state_dict(),
                "regression": self.regression.state_dict() if self.regression else None,
                "history": [asdict(end) for end in self.history],
                "within": asdict(self.within) if self.within else None,
            },
            file,
        )

    def resume(self, file: Path) -> None:
        """Continue from what :meth:`save` wrote."""
        checkpoint = _read(file, self.device)
        self.model.load_state_dict(checkpoint["model"])
        if self.trainer.average is not None:
            self.trainer.average.load_state_dict(checkpoint["average"])
        self.optimizer.load_state_dict(checkpoint["optimizer"])
        self.trainer.schedule.load_state_dict(checkpoint["schedule"])
        if self.regression is not None:
            self.regression.load_state_dict(checkpoint["regression"])
        self.history = _history(checkpoint)
        within = checkpoint["within"]
        self.within = EpochProgress(**{**within, "state": LoaderState(**within["state"])}) if within else None


def load_trained(model: Recogniser, file: Path) -> list[EpochEnd]:
    """Load a checkpoint's weights, averaged where they were, into *model*; return the epochs behind it."""
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
