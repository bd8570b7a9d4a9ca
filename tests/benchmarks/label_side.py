"""The label side with thousands of labels: the number of its runs, and the order of its products."""

from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from lglm_core.loading.loader import Batch
from lglm_core.model.config import LglmConfig
from lglm_core.model.graph import GraphLayers
from lglm_core.model.head import Head, LabelKnowledge
from lglm_core.model.heads import build_head
from lglm_core.model.lglm import LabelSide
from lglm_core.model.recogniser import Recogniser
from lglm_core.training.loop import Trainer
from lglm_core.training.optim import make_optimizer, make_schedule
from lglm_core.training.recipe import TrainingRecipe
from tests.benchmarks.registry import Measured, benchmark
from tests.benchmarks.timing import in_turns


@benchmark("s")
def label_side_per_step(
    labels: int = 5000, images: int = 32, micro_batches: int = 8, width: int = 2048, d_l: int = 1024
) -> Measured:
    """A training step behind the backbone in 8 micro-batches, against a label side run for each of them."""
    recipe = TrainingRecipe(accumulate=micro_batches).filled_in()
    head = _head(labels, width, d_l)
    model = Recogniser(nn.Identity(), head)
    optimizer = make_optimizer(model, recipe)
    trainer = Trainer(
        model=model,
        path=head.image_side,
        prepare=lambda maps: maps,
        recipe=recipe,
        optimizer=optimizer,
        schedule=make_schedule(optimizer, recipe, steps_per_epoch=1000),
        device=torch.device("cpu"),
        penalty_weight=1.0,
        takes_features=True,
    )
    maps, targets = torch.rand(images, width, 1, 1), torch.randint(0, 2, (images, labels), dtype=torch.int8)
    batch = Batch(maps, targets, torch.ones(images), images, np.arange(images))

    def ours() -> None:
        for _ in trainer.fit(iter([batch])):
            pass

    def per_micro_batch() -> None:
        optimizer.zero_grad()
        for some_maps, some_targets in zip(
            maps.chunk(micro_batches), targets.chunk(micro_batches), strict=True
        ):
            side = head.label_weights()
            assert side is not None
            logits = head.image_side(some_maps, side.weights).logits
            loss = trainer.classification_loss(logits, some_targets).sum() / images
            (loss + side.penalty / micro_batches).backward()
        optimizer.step()

    runs = []
    assert head.label_side is not None
    head.label_side.register_forward_hook(lambda *_: runs.append(1))
    our_s, their_s = in_turns(ours, per_micro_batch, rounds=1, warm_up=False)
    assert len(runs) == 1 + micro_batches, f"the label side ran {len(runs)} times, not 1 and {micro_batches}"
    return Measured(
        our_s,
        their_s,
        f"C = {labels}, {images} pictures in {micro_batches} micro-batches; 1 run against {micro_batches}",
    )


@benchmark("s")
def label_side_order(labels: int = 5000, width: int = 2048, d_l: int = 1024) -> Measured:
    """The label side, forward and backward, against multiplying by each layer's weights first."""
    ours, theirs = (_head(labels, width, d_l).label_side for _ in range(2))
    assert isinstance(theirs, LabelSide)
    theirs.layers.__class__ = _WeightsFirst
    torch.testing.assert_close(_step(ours), _step(theirs), rtol=1e-3, atol=1e-4)
    our_s, their_s = in_turns(partial(_step, ours), partial(_step, theirs), rounds=2)
    return Measured(our_s, their_s, f"C = {labels}, d = 300, d_L = {d_l}, D = {width}")


class _WeightsFirst(GraphLayers):
    """Graph layers that compute Â(LU), whichever side is narrower."""

    def layer(self, number: int, graph: Tensor, vectors: Tensor) -> Tensor:
        return torch.relu(graph @ self.weights[number](vectors))


def _step(side: nn.Module) -> Tensor:
    side.zero_grad()
    weights, _, penalty = side()
    (weights.square().sum() + penalty).backward()
    return weights.detach()


def _head(labels: int, width: int, d_l: int) -> Head:
    """Return LGLM's head with random weights; its last fc starts at 0, which does not affect the time."""
    torch.manual_seed(0)
    config = LglmConfig(d_l=d_l, conditioning="text")
    return build_head("lglm", config, width, LabelKnowledge(labels, torch.randn(labels, 300)))
