"""The lines that a training logs."""

from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from jobs import training_log
from jobs.training_log import epoch_line, resumed_line, step_lines
from lglm_core.training.loop import EpochEnd


def training(epochs_done: int, within: int | None = None) -> Any:
    """Return what the lines read of a training of four epochs, ten steps each."""
    return SimpleNamespace(
        history=[None] * epochs_done,
        recipe=SimpleNamespace(epochs=4),
        progress=None if within is None else SimpleNamespace(steps=within),
        training=SimpleNamespace(steps=10),
    )


@pytest.mark.parametrize(
    ("val_map", "measured"), [(81.25, ", validation mAP 81.2"), (None, "")], ids=["measured", "not measured"]
)
def test_an_epoch_is_counted_from_one(val_map: float | None, measured: str):
    end = cast(EpochEnd, SimpleNamespace(epoch=1, loss=0.5, val_map=val_map, images_per_s=99.6, seconds=2.04))
    assert epoch_line(end, 4) == f"epoch 2/4: loss 0.500{measured}, 100 images/s, 2.0 s"


def test_a_resumed_training_names_where_it_continues():
    assert resumed_line(training(1)) == "resumes after 1 of 4 epochs"
    assert resumed_line(training(0, within=5)) == "resumes after 0 of 4 epochs and 5 of 10 steps"


def test_steps_are_logged_every_few_seconds(monkeypatch: pytest.MonkeyPatch):
    clock = iter([0.0, 1.0, 16.0, 16.0, 20.0])
    monkeypatch.setattr(training_log, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    lines: list[str] = []
    show = step_lines(training(0), lines.append)
    for number in range(3):
        show(0, cast(Any, SimpleNamespace(number=number, classification=torch.tensor(2.0))))
    assert lines == ["epoch 1: step 2/10, loss 2.000"]
