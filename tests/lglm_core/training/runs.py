"""Training runs that take a second or less."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from lglm_core.dataset.reader import Dataset
from lglm_core.labels.embeddings import LabelEmbeddings
from lglm_core.training.recipe import TrainingRecipe
from lglm_core.training.run import TrainingRun, build_model, label_knowledge
from tests.lglm_core.model.small_heads import VARIANTS

Values = dict[str, Any]
StartRun = Callable[..., TrainingRun]

BASIC: Values = {
    "backbone": "mobilenet_v3_small",
    "weights": "none",
    "image_size": 32,
    "epochs": 3,
    "batch_size": 4,
    "lr": 3e-3,
    "backbone_lr": 1e-3,
}
# A network without batch statistics: its features are informative from the start, and a picture's loss does
# not depend on the other pictures of its batch.
SQUEEZENET: Values = {"backbone": "squeezenet1_1", "image_size": 48}
FEATURES: Values = {**SQUEEZENET, "freeze_backbone": True, "views": "flip"}  # features are computed once


def start_run(
    dataset: Dataset,
    embeddings: LabelEmbeddings,
    variant: str,
    options: Values,
    *,
    rank: int = 0,
    world_size: int = 1,
    parallel: Callable[[nn.Module], nn.Module] = lambda module: module,
    **values: Any,
) -> TrainingRun:
    """Start a run of a variant of a head, with further head *options* and recipe *values*."""
    name, variant_options = VARIANTS[variant]
    given = tuple(f"{option}={value}" for option, value in {**variant_options, **options}.items())
    recipe = TrainingRecipe(**{**BASIC, "head": name, "head_option": given, **values}).filled_in()
    model = build_model(recipe, label_knowledge(recipe, dataset, embeddings))
    return TrainingRun(
        dataset,
        model,
        recipe,
        device=torch.device("cpu"),
        rank=rank,
        world_size=world_size,
        threads=1,
        parallel=parallel,
    )


def finish(run: TrainingRun) -> TrainingRun:
    """Train to the end."""
    for _ in run.epochs():
        pass
    return run


def history_without_times(run: TrainingRun) -> list[tuple[Any, ...]]:
    return [(end.epoch, end.loss, end.penalty, end.off_diagonal, end.lr, end.val_map) for end in run.history]


def same_weights(a: nn.Module, b: nn.Module) -> bool:
    other = b.state_dict()
    return all(torch.equal(tensor, other[name]) for name, tensor in a.state_dict().items())
