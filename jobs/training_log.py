"""The lines that a training logs, whether it runs in this process or on Ray workers."""

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lglm_core.training.loop import EpochEnd, Step
    from lglm_core.training.run import TrainingRun

SECONDS_BETWEEN_STEP_LINES = 15.0


def epoch_line(end: "EpochEnd", epochs: int) -> str:
    """Return the line that reports a finished epoch."""
    measured = "" if end.val_map is None else f", validation mAP {end.val_map:.1f}"
    return (
        f"epoch {end.epoch + 1}/{epochs}: loss {end.loss:.3f}{measured}, {end.images_per_s:.0f} images/s, "
        f"{end.seconds:.1f} s"
    )


def resumed_line(training: "TrainingRun") -> str:
    """Return the line that reports from where a resumed training continues."""
    position = f"after {len(training.history)} of {training.recipe.epochs} epochs"
    if within := training.progress:
        position += f" and {within.steps} of {training.training.steps} steps"
    return f"resumes {position}"


def step_lines(training: "TrainingRun", log: Callable[[str], None]) -> "Callable[[int, Step], None]":
    """Return a callback that logs a line every few seconds within a long epoch."""
    last = time.monotonic()

    def show(epoch: int, step: "Step") -> None:
        nonlocal last
        if time.monotonic() - last >= SECONDS_BETWEEN_STEP_LINES:
            last = time.monotonic()
            loss = step.classification.item()
            log(f"epoch {epoch + 1}: step {step.number + 1}/{training.training.steps}, loss {loss:.3f}")

    return show
