"""A whole training step, compared with the same in plain PyTorch."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from lglm_core.loading.loader import Batch
from lglm_core.model.head import LabelKnowledge
from lglm_core.model.losses import multi_label_loss
from lglm_core.model.recogniser import ImagePath, Recogniser
from lglm_core.training.loop import Trainer
from lglm_core.training.optim import make_optimizer, make_schedule
from lglm_core.training.recipe import FullRecipe, TrainingRecipe
from lglm_core.training.run import build_model
from tests.benchmarks.registry import Measured, NotRun, benchmark
from tests.benchmarks.timing import in_turns

LABELS = 80


def our_step(recipe: FullRecipe, device: torch.device) -> Callable[[], None]:
    """Return a step of a :class:`Trainer` set up as TrainingRun does, on the same batch each time."""
    model = _model(recipe).to(device).to(memory_format=torch.channels_last)
    preprocessing = model.backbone.preprocessing(recipe.image_size)
    path = ImagePath(model)
    if recipe.compile:
        path.compile()
    optimizer = make_optimizer(model, recipe)
    trainer = Trainer(
        model=model,
        path=path,
        prepare=lambda images: preprocessing.normalise(images.to(device, non_blocking=True)),
        recipe=recipe,
        optimizer=optimizer,
        schedule=make_schedule(optimizer, recipe, steps_per_epoch=1000),
        device=device,
        penalty_weight=1 / LABELS,
    )
    batch = _batch(recipe)

    def step() -> None:
        for done in trainer.fit(iter([batch])):
            done.classification.item()

    return step


def plain_step(recipe: FullRecipe, device: torch.device) -> Callable[[], None]:
    """Return a step of the public code's loop with the same model and batch: fp32, NCHW, and default SGD."""
    model = _model(recipe).to(device)
    preprocessing = model.backbone.preprocessing(recipe.image_size)
    optimizer = torch.optim.SGD(model.parameters(), recipe.lr, momentum=0.9, weight_decay=recipe.weight_decay)
    batch = _batch(recipe)

    @torch.backends.cudnn.flags(enabled=True, benchmark=True)  # as in the public code
    def step() -> None:
        images, targets = preprocessing.normalise(batch.images.to(device)), batch.targets.to(device)
        side = model.head.label_weights()
        assert side is not None
        logits = model.head.image_side(model.backbone(images), side.weights).logits
        loss = multi_label_loss(logits, targets, reduction="mean").mean() + side.penalty / LABELS
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        optimizer.step()
        loss.item()

    return step


def _model(recipe: FullRecipe) -> Recogniser:
    vectors = torch.randn(LABELS, 300, generator=torch.Generator().manual_seed(0))
    return build_model(recipe, LabelKnowledge(LABELS, vectors)).train()


def _batch(recipe: FullRecipe) -> Batch:
    rng = torch.Generator().manual_seed(0)
    pictures, size = recipe.batch_size, recipe.image_size
    images = torch.randint(0, 256, (pictures, 3, size, size), dtype=torch.uint8, generator=rng)
    targets = torch.randint(0, 2, (pictures, LABELS), dtype=torch.int8, generator=rng)
    return Batch(images, targets, torch.ones(pictures), pictures, np.arange(pictures))


def _recipe(**values: Any) -> FullRecipe:
    return TrainingRecipe(recipe="paper", weights="none", **values).filled_in()


@benchmark("images/s", target=1.8, higher_is_better=True)
def training_step_cpu(
    backbone: str = "resnet101", image_size: int = 448, images: int = 2, rounds: int = 3
) -> Measured:
    """bf16, channels-last and a fused optimiser against plain fp32, NCHW, on the CPU."""
    recipe = _recipe(precision="bf16", backbone=backbone, image_size=image_size, batch_size=images)
    cpu = torch.device("cpu")
    our_s, their_s = in_turns(our_step(recipe, cpu), plain_step(recipe, cpu), rounds=rounds)
    return Measured(images / our_s, images / their_s, f"{backbone}, {images} pictures at {image_size}")


@benchmark("images/s", target=3, higher_is_better=True)
def training_step_gpu(backbone: str = "resnet101", image_size: int = 448, images: int = 32) -> Measured:
    """bf16, channels-last, compiled and with a fused optimiser against plain fp32, NCHW, on a GPU."""
    gpu = _gpu()
    recipe = _gpu_recipe(backbone, image_size, images)
    our_s, their_s = in_turns(our_step(recipe, gpu), plain_step(recipe, gpu), rounds=20, clock=_gpu_clock)
    return Measured(
        images / our_s, images / their_s, f"{backbone}, {images} pictures at {image_size}, {_gpu_name()}"
    )


@benchmark("TFLOP/s", higher_is_better=True)
def training_step_gpu_rate(backbone: str = "resnet101", image_size: int = 448, images: int = 32) -> Measured:
    """Operations of our training step per second against this GPU's rate in a large bf16 matrix product."""
    gpu = _gpu()
    recipe = _gpu_recipe(backbone, image_size, images)
    uncompiled = our_step(recipe.model_copy(update={"compile": False}), gpu)
    with FlopCounterMode(display=False) as counter:
        uncompiled()
    size = 8192
    a, b = torch.randn(2, size, size, device=gpu, dtype=torch.bfloat16)
    step_s, product_s = in_turns(our_step(recipe, gpu), lambda: a @ b, rounds=20, clock=_gpu_clock)
    return Measured(
        counter.get_total_flops() / step_s / 1e12,
        2 * size**3 / product_s / 1e12,
        f"{backbone}, {images} pictures at {image_size}, {_gpu_name()}",
    )


def _gpu() -> torch.device:
    if not torch.cuda.is_available():
        raise NotRun("no GPU on this machine")
    return torch.device("cuda")


def _gpu_recipe(backbone: str, image_size: int, images: int) -> FullRecipe:
    return _recipe(
        precision="bf16", compile=True, backbone=backbone, image_size=image_size, batch_size=images
    )


def _gpu_clock() -> float:
    """Wait for the GPU, and return the time."""
    torch.cuda.synchronize()
    return time.perf_counter()


def _gpu_name() -> str:
    return torch.cuda.get_device_name()
