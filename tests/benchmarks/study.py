"""Every head, trained alike on few pictures: which is better, by how much, and is it chance?

    python -m tests.benchmarks.study --dataset DATASET --label-embeddings LABELS --weights mobilenet_v2.pth --out STUDY

Each head is trained as ``lglm train --freeze-backbone --views flip`` would train it, with its own learning rate and
dropout. Those are chosen on the training split alone: by training on some of it and measuring on the
rest, never on the validation split. The backbone's features are computed once for all.
"""

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lglm_core.data.dataset import Dataset, Split
from lglm_core.data.loader import Loader
from lglm_core.data.order import generator
from lglm_core.features import Features
from lglm_core.label_embeddings import FILE, LabelEmbeddings
from lglm_core.metrics import average_precisions
from lglm_core.model.backbone import Backbone
from lglm_core.model.head import PooledSide, pool
from lglm_core.recipe import TrainingRecipe
from lglm_core.run import TrainingRun, build_model, label_knowledge
from lglm_core.training import score

BACKBONE, IMAGE_SIZE = "mobilenet_v2", 224
STEPS = 600
CPU = torch.device("cpu")


@dataclass(frozen=True)
class System:
    """A head with the options it is compared under, and the choices to be made on the training split."""

    name: str
    head: str
    options: tuple[str, ...] = ()
    dropouts: tuple[float | None, ...] = (0.5, 0.8)
    lrs: tuple[float, ...] = (3e-4, 1e-3, 3e-3)
    weight_decays: tuple[float, ...] = (0.05,)

    def choices(self) -> Iterator[dict[str, Any]]:
        """Every combination to choose among."""
        for dropout, lr, decay in product(self.dropouts, self.lrs, self.weight_decays):
            drop = () if dropout is None else (f"feature_dropout={dropout}",)
            yield {"head_option": (*self.options, *drop), "lr": lr, "weight_decay": decay}


SYSTEMS = (
    System("linear, average pooling", "plain", ("pooling=average",)),
    System("linear, max pooling", "plain"),
    System("tuned linear probe", "probe", weight_decays=(0.05, 5.0)),
    System("ridge, closed form", "ridge", dropouts=(None,), lrs=(1e-3,)),
    System("ML-GCN", "ml-gcn"),
    System("A-GCN", "a-gcn"),
    System("LGLM without MFC", "lglm", ("fusion=dot",)),
    System("LGLM", "lglm"),
    System("ADD-GCN", "add-gcn"),
    System("SS-GRL", "ss-grl"),
    System("VACIT", "vacit"),
)


@dataclass(frozen=True)
class Part(Dataset):
    """A dataset with some training pictures, measured on others: the validation split, or more training ones."""

    train: tuple[int, ...] = ()
    held: tuple[int, ...] | None = None

    def split(self, name: str) -> Split:
        """Return the chosen rows of a split."""
        if name == "val" and self.held is None:
            return whole_split(self.url, "val", self.labels.names)
        rows = self.train if name == "train" else self.held
        whole = whole_split(self.url, "train", self.labels.names)
        return replace(whole, name="train", index=whole.index.take(list(rows or ())))


@cache
def whole_split(url: str, name: str, labels: tuple[str, ...]) -> Split:
    """Read a split once."""
    dataset = Dataset.open(url)
    return dataset.without([label for label in dataset.labels if label not in labels]).split(name)


@dataclass
class Study:
    """The data of the study, and what the backbone says about them."""

    dataset: Dataset
    embeddings: LabelEmbeddings
    maps: dict[str, torch.Tensor]
    done: dict[str, Any] = field(default_factory=dict)

    def run(
        self,
        system: System,
        choice: dict[str, Any],
        part: Part,
        seed: int,
        embeddings: LabelEmbeddings | None = None,
    ) -> tuple[np.ndarray, np.ndarray, TrainingRun]:
        """Train; return scores and targets of what it is measured on, and the run."""
        steps_per_epoch = -(-len(part.train) // 32)
        recipe = TrainingRecipe(
            head=system.head,
            backbone=BACKBONE,
            image_size=IMAGE_SIZE,
            freeze_backbone=True,
            views="flip",
            weights="none",
            epochs=2 if system.head == "ridge" else max(1, STEPS // steps_per_epoch),
            seed=seed,
            **choice,
        ).filled_in()
        vectors = (embeddings or self.embeddings).only(part.labels)
        model = build_model(recipe, label_knowledge(recipe, part, vectors))
        side = model.head.image_side
        pooling = side.pooling if isinstance(side, PooledSide) and not side.wants_mirror else None
        features = {
            "train": self.features("train", part.train, pooling),
            "val": self.features("val", None, pooling)
            if part.held is None
            else self.features("train", part.held, pooling),
        }
        run = TrainingRun(part, model, recipe, device=CPU, features=features)
        measured = run.splits.pop("val")  # once, at the end, and not after every epoch
        for _ in run.epochs():
            pass
        scores, rows = score(run.trainer, run.batches["val"])
        ordered = np.empty_like(scores)
        ordered[rows] = scores
        return ordered, measured.targets, run

    def features(self, split: str, rows: Sequence[int] | None, pooling: Any) -> Features:
        """Pool and select the features of a split."""
        maps = self.pooled(split, pooling)
        return Features(maps if rows is None else maps[:, list(rows)])

    @cache  # noqa: B019  (there is one study)
    def pooled(self, split: str, pooling: Any) -> torch.Tensor:
        """Pool the maps of a split."""
        maps = self.maps[split]
        if pooling is None:
            return maps
        return pool(maps.flatten(0, 1), pooling).unflatten(0, (2, -1))[..., None, None]

    def __hash__(self) -> int:
        return id(self)


def mean_ap(scores: np.ndarray, targets: np.ndarray) -> float:
    """mAP in percent, over the labels that have positives."""
    return 100 * float(np.nanmean(average_precisions(scores, targets)))


def draws(samples: int, size: int, count: int) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Draw *count* times *size* of the training pictures; the rest is held."""
    found = []
    for number in range(count):
        order = generator("draw", samples, size, number).permutation(samples)
        found.append((tuple(map(int, order[:size])), tuple(map(int, order[size:]))))
    return found


def open_study(dataset: str, label_embeddings: str, weights: str, kept: Path) -> Study:
    """Read the data and run the backbone once over all pictures, or read what it said before."""
    data = Dataset.open(dataset)
    embeddings = LabelEmbeddings.load(f"{label_embeddings}/{FILE}")
    file = kept / "maps.pt"
    if not file.exists():
        backbone = Backbone(BACKBONE)
        backbone.load_weights(weights)
        maps = {
            name: Features.compute(
                backbone,
                Loader(split=data.split(name), fingerprint="", image_size=IMAGE_SIZE, batch_size=16),
                None,
                CPU,
            ).maps
            for name in ("train", "val")
        }
        kept.mkdir(parents=True, exist_ok=True)
        torch.save(maps, file)
    return Study(data, embeddings, torch.load(file, weights_only=True))


def choose(study: Study, system: System, size: int, draws_: int) -> dict[str, Any]:
    """Choose learning rate, dropout and decay on the training split: train on *size*, measure on the rest."""
    choices = list(system.choices())
    if len(choices) == 1:
        return choices[0]
    samples = len(study.dataset.split("train"))
    found = []
    for choice in choices:
        scores = [
            mean_ap(*study.run(system, choice, study.part(train, held), seed=0)[:2])
            for train, held in draws(samples, size, draws_)
        ]
        found.append(float(np.mean(scores)))
    return choices[int(np.argmax(found))]
